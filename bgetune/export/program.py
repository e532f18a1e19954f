"""`bgetune export`: the stage, and the push to the Hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from bgetune.config import JobConfig
from bgetune.config_io import parse_job
from bgetune.errors import UserError, exit_code
from bgetune.export.push import destination, dry_run, push
from bgetune.export.push_failures import PushFailed
from bgetune.export.push_secret import hub_token
from bgetune.processes import rank
from bgetune.run import Run, locked
from bgetune.stage_program import add_run_options, do_stage
from bgetune.stages import stage_named

_HELP = """usage: bgetune export RUN [--push ORG/NAME] [--private] [--revision R] [--pr] [--dry-run]
       bgetune export --config FILE [--section.key VALUE ...] [--push ORG/NAME ...]

Write the folder other tools read, RUN/export, check it in each of them, and push it to the Hugging Face Hub.
What is finished is not done again, and what the Hub has is not sent again: run the same command to go on.

  bgetune export runs/job                               write and check it
  bgetune export runs/job --push my-org/bge-clinic      and push it; the repository is made where it is absent
  bgetune export runs/job --push my-org/bge-clinic --dry-run

  --push ORG/NAME  repository; hub.repo of the configuration where it is absent
  --private        make the repository private; refused where a public one is there
  --revision R     branch, made where it is absent, instead of main; refs/pr/N goes on in a pull request
  --pr             open a pull request with the main folder instead of changing main
  --dry-run        list each file, its size and its branch, and the card; no server is asked
  --force          write and check the export again, even if what is there still holds
  --update         accept a changed configuration

RUN/export goes to main, RUN/export-multi-vector to the branch multi-vector, export-sparse to sparse, export-adapter to
adapter; with --revision R to R, R-multi-vector and so on. A branch changes in one commit. Then each commit is fetched
again: every SHA-256 and the vectors must be ours.

The token is HF_TOKEN, or that of `hf auth login`; it must be one that may write. HF_ENDPOINT names another Hub.
Exit code: 0 done; 1 a server stays broken, or what came back differs; 2 something for you to mend; each says what.
Every option of the configuration: bgetune export --config C --print_config
"""


def main(words: Sequence[str]) -> int:
    """The exit code: 0; 1 after a push that did not come to its end; 2 after a user's mistake."""
    if {"-h", "--help"}.intersection(words):
        print(_HELP, end="")
        return 0
    return exit_code(lambda: _export(list(words)))


def _export(words: list[str]) -> int | None:
    if not words:
        raise UserError("bgetune export: name a job's folder, or --config FILE; --help shows how")
    config, own = parse_job(_job_words(words), "bgetune export", "", _add_options)
    to = destination(config, own["push"], own["private"], own["revision"], own["pr"])
    if to is None and own["dry_run"]:
        raise UserError("--dry-run: nothing is pushed; name a repository with --push ORG/NAME or hub.repo")
    if to is not None and not own["dry_run"]:
        hub_token("hub.repo" if own["push"] is None else "--push")  # before an hour's work, not after it
    code = do_stage(stage_named("export"), _stage, config, own)
    if code or to is None or rank() != 0:
        return code
    run = Run(Path(config.output), config.adapt.rounds)
    with locked(run):
        if own["dry_run"]:
            dry_run(run, to)
            return 0
        try:
            push(config, run, to)
        except PushFailed as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
    return 0


_FLAGS = ("--private", "--pr", "--dry-run")


def _add_options(parser: jsonargparse.ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument("--push", type=str)
    parser.add_argument("--revision", type=str)
    for flag in _FLAGS:
        parser.add_argument(flag, action="store_true")


def _stage(config: JobConfig, run: Run) -> None:
    from bgetune.export.stage import export  # a mistake in the words is told before it is imported, which takes seconds

    export(config, run)


def _job_words(words: list[str]) -> list[str]:
    """RUN is its configuration and its output."""
    rest = _run_first(words)
    if rest[0].startswith("-"):
        return rest
    root = Path(rest[0]).expanduser()
    if any(word == "--config" or word.startswith("--config=") for word in rest):
        raise UserError(f"bgetune export: {rest[0]!r} and --config; name the job's folder or its file, not both")
    if not (root / "config.yaml").is_file():
        raise UserError(f"{root}: no job's folder, it holds no config.yaml; name one that `bgetune adapt` has made")
    return ["--config", str(root / "config.yaml"), "--output", str(root), *rest[1:]]


def _run_first(words: list[str]) -> list[str]:
    """RUN may stand among the options: every option but the flags takes the word after it.

    >>> _run_first(["--private", "--push", "o/n", "runs/job", "--force"])
    ['runs/job', '--private', '--push', 'o/n', '--force']
    """
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("-"):
            return [word, *words[:at], *words[at + 1 :]]
        at += 1 if "=" in word or word in (*_FLAGS, "--force", "--update", "--print_config") else 2
    return words
