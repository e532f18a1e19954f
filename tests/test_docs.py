"""The documentation's commands: each is parsed by the program it names, those that a processor can do are run.

A block of another program's commands begins with `# not run by the tests: WHY`, and so does one that needs GPUs; what
is bgetune's in such a block is parsed all the same.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jsonargparse
import pytest

from bgetune.cli import main
from bgetune.config_io import dotted_keys, parse_job
from bgetune.errors import UserError
from bgetune.stage_program import add_run_options
from tests import jobs, tiny

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = "# not run by the tests: "
JOBS = {"adapt", "train", "merge", "eval", "export", "data-prep prepare", "data-prep mine"}
MODULES = {"data_prep": "data-prep", "train": "train", "eval": "eval"}
PROGRAM = r"(?:\.venv/bin/)?(?:bgetune|python|torchrun|accelerate launch|make) "


class Command(NamedTuple):
    """A command of a page, with the names that the page uses."""

    where: str
    words: tuple[str, ...]
    why_not: str
    """Why the tests do not run its block; empty where nothing is said."""


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """First line's number and text of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
        yield text[: match.start()].count("\n") + 2, match[1]


def commands(page: Path) -> Iterator[Command]:
    """Every command of its bash blocks, and those that stand in a line of text."""
    name = page.relative_to(ROOT)
    for first, block in blocks(page, "bash"):
        why_not = block.splitlines()[0].removeprefix(NOT_RUN) if block.startswith(NOT_RUN) else ""
        for number, line in enumerate(block.splitlines(), start=first):
            yield from _split(f"{name}:{number}", line, why_not)
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for span in re.findall(rf"`({PROGRAM}[^`]+)`", prose):
        yield from _split(f"{name}: `{span}`", span, "in a line of text")


def _split(where: str, line: str, why_not: str) -> Iterator[Command]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word in ("&&", "|"):
            while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "time"):
                words.pop(0)
            if words:
                yield Command(where, (words[0].removeprefix(".venv/bin/"), *words[1:]), why_not)
            words = []
        else:
            words.append(word)


COMMANDS = [command for page in PAGES for command in commands(page)]


def of_bgetune(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """The words after `bgetune`, whatever starts it; None for other programs."""
    if words[0] == "bgetune":
        return words[1:]
    if words[0] in ("torchrun", "accelerate", "python") and "-m" in words:
        at = words.index("-m")
        module = words[at + 1].removeprefix("bgetune.")
        if module in MODULES:
            return (MODULES[module], *words[at + 2 :])
    return None


def check_launcher(words: tuple[str, ...]) -> None:
    """By the launcher's own parser: torchrun's or accelerate's."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        get_args_parser().parse_args(list(words[1:]))
    elif words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert words[1] == "launch"
        launch_command_parser().parse_args(list(words[2:]))


@functools.cache
def help_of(command: tuple[str, ...]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        assert main([*command, "--help"]) == 0
    return said.getvalue()


def _job_options(parser: jsonargparse.ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument("--round", type=int)


@functools.cache
def check_job(words: tuple[str, ...]) -> None:
    """By the parser that every stage has, with its checks of values."""
    parse_job(words, "bgetune", "", _job_options)


def check_bgetune(words: tuple[str, ...]) -> None:
    """A job's options by the job's parser, another command's by what its --help knows."""
    command = words[:2] if words[0] == "data-prep" else words[:1]
    rest = list(words[len(command) :])
    if " ".join(command) in JOBS and "--config" in rest and not {"--help", "--print_config"} & set(rest):
        check_job(tuple(rest))
        return
    known = help_of(command)
    for option in (word.split("=")[0] for word in rest if word.startswith("--")):
        job_has = option.removeprefix("--") in (*dotted_keys(), "config") or option.startswith("--data.guards.")
        assert option in known or job_has, f"{' '.join(command)} has no {option}"


def check_script(words: tuple[str, ...]) -> None:
    """`python scripts/NAME.py`: it is there, and its source knows the options."""
    source = (ROOT / words[1]).read_text(encoding="utf-8")
    for option in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
        takes_job = "parse_job" in source or "parse_known_args" in source
        of_job = takes_job and option.removeprefix("--") in (*dotted_keys(), "config")
        assert f'"{option}"' in source or of_job or option == "--help", f"{words[1]} has no {option}"


def check_pip(words: tuple[str, ...]) -> None:
    """An extra that is named is one of ours."""
    for extras in re.findall(r"(?:bgetune|\.)\[([\w,]+)\]", " ".join(words)):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = ", (ROOT / "pyproject.toml").read_text("utf-8"), re.M), f"no extra {extra}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' names stand for: a tiny job, done stage by stage as the pages say, and models and data."""
    folder = tmp_path_factory.mktemp("docs")
    model = str(tiny.m3(folder / "BAAI" / "m3"))
    tiny.domain(folder / "general", seed=1)
    tiny.m3(folder / "b", seed=1)
    job = jobs.write(
        folder,
        model={"name_or_path": model},
        export={"verify_texts": 8},
    )
    for stage in ("data-prep prepare", "data-prep mine", "train", "eval", "export"):
        assert main([*stage.split(), *job.words]) == 0, stage
    return folder


def mapped(words: tuple[str, ...], place: Path) -> tuple[str, ...]:
    """The same command about what there is here."""
    names = [
        (r"C|\S*/job\.yaml|my_domain\.yaml", "job.yaml"),
        (r"runs/(b|c)", "b"),
        (r"runs/\w+", "run"),
        (r"runs/\w+/export", "run/export"),
        (r"data/general", "general"),
        (r"data/my_\w+", "domain"),
        (r"BAAI/.*", "BAAI/m3"),
        (r"\./qdrant", "qdrant"),
    ]
    return tuple(
        next((str(place / here) for pattern, here in names if re.fullmatch(pattern, word)), word) for word in words
    )


def test_the_pages_have_commands() -> None:
    pages = {command.where.split(":")[0] for command in COMMANDS}
    guides = {f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")}
    assert guides | {"README.md", "docs/data_prep.md", "docs/benchmarks.md", "docs/evaluation.md"} <= pages


def test_every_command_is_one_that_its_program_knows(tmp_path: Path) -> None:
    tiny_job = jobs.write(tmp_path, data={"guards": {"general": {"kind": "beir", "path": "g"}}})
    wrong = []
    for command in COMMANDS:
        words = mapped(command.words, tmp_path)
        words = tuple(str(tiny_job.file) if word == str(tmp_path / "job.yaml") else word for word in words)
        try:
            check_launcher(words)
            if (ours := of_bgetune(words)) is not None:
                check_bgetune(ours)
            elif words[0] == "make":
                assert all(f"{target}:" in (ROOT / "Makefile").read_text("utf-8") for target in words[1:])
            elif words[0] == "python" and words[1].startswith("scripts/"):
                check_script(words)
            elif words[0] == "pip":
                check_pip(words)
            else:
                known = words[0] in ("python", "python3", "source")
                assert known or command.why_not, f"another program: begin the block with `{NOT_RUN}WHY`"
        except (Exception, SystemExit) as error:
            wrong.append(f"{command.where}: {shlex.join(command.words)}\n    {error}")
    assert not wrong, "\n".join(wrong)


WRONG = [
    ("train", "--config", "configs/bge_m3.yaml", "--train.epoch", "2"),
    ("train", "--config", "configs/no_such.yaml"),
    ("mine", "--config", "configs/bge_m3.yaml"),
    ("search", "--modell", "runs/a"),
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_command_would_be_noticed(words: tuple[str, ...]) -> None:
    with pytest.raises((UserError, AssertionError)):
        check_bgetune(words)


TOOLS = {"search", "compare", "verify", "index", "data-prep validate", "export"}


def test_the_commands_that_look_at_a_job_run(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    ran: dict[str, set[tuple[str, ...]]] = {tool: set() for tool in TOOLS}
    for words in [mapped(command.words, place) for command in COMMANDS if command.why_not == ""]:
        name = " ".join(words[1:3]) if words[1:2] == ("data-prep",) else " ".join(words[1:2])
        options = tuple(word for word in words if word.startswith("--"))
        # of those that differ in names alone, the first
        if words[0] == "bgetune" and name in TOOLS and "--config" not in words and options not in ran[name]:
            assert main(list(words[1:])) == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"
            ran[name].add(options)
    assert all(ran.values()), ran


def test_adapt_has_nothing_left_to_do_after_the_stages(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`bgetune adapt`, as the guides end; tests/test_adapt.py starts it from nothing."""
    assert main(["adapt", "--config", str(place / "job.yaml")]) == 0


def test_every_yaml_block_is_of_a_job(tmp_path: Path) -> None:
    wrong = []
    for page in PAGES:
        for line, text in blocks(page, "yaml"):
            file = tmp_path / "block.yaml"
            file.write_text(text, encoding="utf-8")
            try:
                parse_job(["--config", str(file)], "bgetune", "", is_job=False)
            except Exception as error:
                wrong.append(f"{page.relative_to(ROOT)}:{line}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_file_that_a_page_names_is_there() -> None:
    absent = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in re.findall(r"\b(?:docs|configs|scripts|tests)/[\w./]*\w\.(?:md|yaml|py)\b", page.read_text("utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not absent, "\n".join(absent)


def test_the_reference_of_the_configuration_is_current() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "config_reference.py"))["reference"]()
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == made, "run: python scripts/config_reference.py --output docs/configuration.md"
    assert not [key for key in dotted_keys() if f"| `{key}` |" not in page]


def test_the_messages_in_troubleshooting_are_our_own() -> None:
    """Between its dots, each quoted message stands in the source; else a user would search for it in vain."""
    files = [path for folder in ("bgetune", "data_prep", "train", "eval") for path in (ROOT / folder).rglob("*.py")]
    source = "".join(re.sub(r"\"\s*\n\s*f?\"", "", path.read_text(encoding="utf-8")) for path in files)
    source = re.sub(r"\{[^{}]*\}|%[sd]", "...", source)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").split("## bgetune's own messages")[1]
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(messages) > 15
    messages = [message.replace("train.learning_rat", "...") for message in messages]  # the example's own key
    parts = [part.strip() for message in messages for part in message.split("...") if len(part.strip()) > 8]
    assert not [part for part in parts if part not in source]
