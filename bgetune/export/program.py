"""`bgetune export`: the stage, and the push to the Hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_io import option_names, parse_job
from bgetune.errors import Parser, UserError, did_you_mean, exit_code
from bgetune.export.push import destination, dry_run, push
from bgetune.export.push_failures import PushFailed
from bgetune.export.push_secret import hub_token
from bgetune.processes import rank
from bgetune.run import Run, locked
from bgetune.stage_program import add_run_options, run_stage

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


def _export(words: list[str]) -> int:
    options, rest = _options(words)
    of_job = _job_words(rest)
    pushes = options.push is not None or options.private or options.revision or options.pr or options.dry_run
    if not pushes and not of_job:
        raise UserError("bgetune export: name a job's folder, or --config FILE; --help shows how")
    if "--print_config" in of_job:
        return run_stage("export", _stage, of_job, prog="bgetune export")
    config, _ = parse_job(of_job, "bgetune export", "", add_run_options)
    to = destination(config, options.push, options.private, options.revision, options.pr)
    if to is None and options.dry_run:
        raise UserError("--dry-run: nothing is pushed; name a repository with --push ORG/NAME or hub.repo")
    if to is not None and not options.dry_run:
        hub_token("hub.repo" if options.push is None else "--push")  # before an hour's work, not after it
    code = run_stage("export", _stage, of_job, prog="bgetune export")
    if code or to is None or rank() != 0:
        return code
    run = Run(Path(config.output), config.adapt.rounds)
    with locked(run):
        if options.dry_run:
            dry_run(run, to)
            return 0
        try:
            push(config, run, to)
        except PushFailed as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
    return 0


def _stage(config: JobConfig, run: Run) -> None:
    from bgetune.export.stage import export  # a mistake in the words is told before it is imported, which takes seconds

    export(config, run)


def _options(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(prog="bgetune export", add_help=False, allow_abbrev=False)
    parser.add_argument("--push")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--revision")
    parser.add_argument("--pr", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    options, rest = parser.parse_known_args(words)
    _refuse_slips(rest, parser._option_string_actions)
    return options, rest


def _refuse_slips(rest: list[str], ours: Collection[str]) -> None:
    """An option spelt most like one of ours: the job's parser, which comes next, would suggest only its own."""
    known = option_names(add_run_options)
    for option in (word.partition("=")[0] for word in rest):
        if option.startswith("--") and "." not in option and option.removesuffix("+") not in known:
            nearest = get_close_matches(option, [*ours, *known], n=1)
            if nearest and nearest[0] in ours:
                raise UserError(f"bgetune export: unknown option {option}{did_you_mean(option, ours)}")


def _job_words(rest: list[str]) -> list[str]:
    """The stage's own words: RUN, where it stands first, is its configuration and its output."""
    if not rest or rest[0].startswith("-"):
        return rest
    root = Path(rest[0]).expanduser()
    if any(word == "--config" or word.startswith("--config=") for word in rest):
        raise UserError(f"bgetune export: {rest[0]!r} and --config; name the job's folder or its file, not both")
    if not (root / "config.yaml").is_file():
        raise UserError(f"{root}: no job's folder, it holds no config.yaml; name one that `bgetune adapt` has made")
    return ["--config", str(root / "config.yaml"), "--output", str(root), *rest[1:]]
