"""`bgetune data-prep harvest | prepare | mine | validate`: raw text to training examples."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_data import SourceConfig
from bgetune.data import write_retrieval_set
from bgetune.errors import Parser, UserError, did_you_mean, exit_code
from bgetune.files import atomic_folder
from bgetune.run import Run
from bgetune.stage_program import run_stage

log = logging.getLogger("bgetune")

_HELP = """usage: CALLED COMMAND ...

Raw text to training examples.

  harvest --out DIR [--packages stdlib | NAME ...]   make a retrieval set out of installed Python code
  validate PATH [--kind KIND]                        check a BEIR folder or one of its files, qrels, a training JSONL,
                                                     documents, a job's YAML; name everything that is wrong
  prepare --config FILE                              stage 1 of a job: read documents, pairs or sets, have queries
                                                     written where there are none, clean, split, check for leakage
  mine --config FILE [--round N]                     stage 2 of a job: find hard negatives, and an audit to read;
                                                     torchrun --nproc_per_node N -m PACKAGE mine: several processes

`CALLED COMMAND --help` shows a command's options. A BEIR folder holds corpus.jsonl (_id, title, text),
queries.jsonl (_id, text) and qrels/{train,dev,test}.tsv (query-id, corpus-id, score). See configs/ for jobs, and
docs/data_prep.md for what can be chosen.
"""


def _prepare(config: JobConfig, run: Run) -> None:
    from .prepare import prepare

    prepare(config, run)


def _mine(config: JobConfig, run: Run) -> None:
    from .mining.mine import mine  # imports torch

    mine(config, run)


def _harvest(argv: Sequence[str], called: str) -> None:
    from .harvest import harvest
    from .prepare import describe

    parser = Parser(prog=f"{called} harvest", description="Installed code as a BEIR folder.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--packages", nargs="+", default=["stdlib"], help="`stdlib` (default) or installed packages")
    parser.add_argument("--max-pairs", type=int, help="keep at most this many functions (the first by hash)")
    parser.add_argument("--seed", type=int, default=0, help="decides the split (default 0)")
    parser.add_argument("--guard", action="store_true", help="all queries become test, none train or dev")
    options = parser.parse_args(argv)
    if options.max_pairs is not None and options.max_pairs < 10:
        raise UserError(f"--max-pairs: {options.max_pairs} will not do; 10 or more")
    _refuse_foreign_files(options.out)
    source = SourceConfig(
        kind="harvest", packages=tuple(options.packages), max_pairs=options.max_pairs, seed=options.seed
    )
    data = harvest(source, options.guard, "--packages")
    with atomic_folder(options.out) as folder:
        write_retrieval_set(folder, data)
    log.info("harvest: %s: %s", options.out, describe(data))


def _refuse_foreign_files(folder: Path) -> None:
    """The folder is replaced as a whole, so it must be new, empty or an earlier retrieval set."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: {folder} is a file; name a folder")
    known = {"corpus.jsonl", "queries.jsonl", "qrels"}
    if folder.is_dir() and {path.name for path in folder.iterdir()} - known:
        raise UserError(f"--out: {folder} holds files that are not a retrieval set's; choose a new or empty folder")


def _validate(argv: Sequence[str], called: str) -> int:
    from .validate import KINDS, validate

    parser = Parser(prog=f"{called} validate", description="Name everything that is wrong, or count.")
    parser.add_argument("path", type=Path, help="a BEIR folder or one of its files, a training JSONL, documents, a job")
    parser.add_argument(
        "--kind", choices=sorted(KINDS), help="what it is, where that cannot be told from its first line"
    )
    options = parser.parse_args(argv)
    return validate(options.path, options.kind)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 good, 2 the user's mistake).

    Args:
        argv: the words after `bgetune data-prep`; None: those after `python -m data_prep`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    called = f"python -m {__package__}" if argv is None else "bgetune data-prep"
    commands: dict[str, Callable[[list[str]], int]] = {
        "harvest": lambda rest: exit_code(lambda: _harvest(rest, called)),
        "prepare": lambda rest: run_stage("prepare", _prepare, rest, prog=f"{called} prepare"),
        "mine": lambda rest: run_stage("mine", _mine, rest, prog=f"{called} mine"),
        "validate": lambda rest: exit_code(lambda: _validate(rest, called)),
    }
    if not words or words[0] in ("-h", "--help"):
        print(_HELP.replace("CALLED", called).replace("PACKAGE", __package__ or "data_prep"), end="")
        return 0 if words else 2
    if words[0] not in commands:
        hint = did_you_mean(words[0], commands) or f"; choose one of {', '.join(commands)}"
        print(f"error: {called}: unknown command {words[0]!r}{hint}", file=sys.stderr)
        return 2
    return commands[words[0]](words[1:])


if __name__ == "__main__":
    sys.exit(main())
