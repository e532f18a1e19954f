"""The `bgetune` command: one word for the job, one for each stage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from bgetune import __version__
from bgetune.errors import UserError, did_you_mean, exit_code

_HELP = """usage: bgetune COMMAND --config FILE [--section.key VALUE ...]

Fine-tune BGE and other embedding models on your own documents, and measure what it gained.

  adapt      the whole job: prepare, mine, train, evaluate, export; run again to go on
  data-prep  one step of data preparation: harvest, prepare, mine, validate
  train      fine-tune on the mined examples
  merge      choose between base and tuned weights by dev and guards, where merge.shares asks for it
  eval       measure base and tuned on every test split; a report to look at
  export     write the folder other tools read, check it in each of them, push it: bgetune export RUN --push ORG/NAME
  verify     load an export in every reader installed, and compare the vectors: bgetune verify FOLDER
  compare    any models or jobs side by side on any sets, the same report: bgetune compare A B --sets DIR
  search     try a checkpoint by hand on its corpus: bgetune search --model runs/job "a question"
  index      write a Qdrant collection with every head: bgetune index RUN --qdrant URL

  bgetune COMMAND --help                            every option of a command, with its default
  bgetune adapt --config C --print_config           the configuration as it would be used
  bgetune adapt --config C --train.epochs 2         a flag wins over the file

Several processes: accelerate launch -m bgetune.train --config C
Start here:        bgetune adapt --config configs/quickstart.yaml
"""


def _adapt(words: Sequence[str]) -> int:
    from bgetune.adapt import adapt

    return exit_code(lambda: adapt(words))


def _export(words: Sequence[str]) -> int:
    from bgetune.export.program import main as export

    return export(words)


def _verify(words: Sequence[str]) -> int:
    from bgetune.export.verify import main as verify

    return verify(words)


def _index(words: Sequence[str]) -> int:
    from bgetune.index.command import main as index

    return index(words)


def _merge(words: Sequence[str]) -> int:
    from bgetune.merge import merge
    from bgetune.stage_program import run_stage

    return run_stage("merge", merge, words, prog="bgetune merge")


def _search(words: Sequence[str]) -> int:
    from bgetune.ask import main as ask

    return ask(words)


def _compare(words: Sequence[str]) -> int:
    return import_module("bgetune.eval.compare").main(words)


def _stage(package: str) -> Callable[[Sequence[str]], int]:
    # by name, because the core imports no stage
    return lambda words: import_module(f"bgetune.{package}.__main__").main(words)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "adapt": _adapt,
    "data-prep": _stage("data_prep"),
    "train": _stage("train"),
    "eval": _stage("eval"),
    "merge": _merge,
    "export": _export,
    "compare": _compare,
    "search": _search,
    "verify": _verify,
    "index": _index,
}


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"bgetune {__version__}")
        return 0
    command = _COMMANDS.get(words[0])
    if command is None:
        return exit_code(lambda: _refuse(words[0]))
    try:
        return command(words[1:])
    except KeyboardInterrupt:  # while a command's modules are imported; later it says itself how to go on
        print("interrupted", file=sys.stderr)
        return 130


def _refuse(word: str) -> int:
    raise UserError(f"unknown command {word!r}{did_you_mean(word, _COMMANDS)}; known: {', '.join(_COMMANDS)}")


def entry() -> None:
    raise SystemExit(main())


if __name__ == "__main__":
    entry()
