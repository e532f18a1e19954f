"""The house: two floors, relative imports inside a stage, every file in docs/files.md, every package in the wheel."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("data_prep", "train", "eval")
SHIPPED = ("bgetune", *STAGES, "configs")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Every import of a file as (line, full dotted name, written relatively?), names in the clone's terms."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, _in_clone(alias.name), False
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join((*above, *base.split("."))) if base else ".".join(above)
                if node.level > len(package):
                    base = "<above the top>"
            for alias in node.names:
                yield node.lineno, _in_clone(f"{base}.{alias.name}"), bool(node.level)


def _in_clone(name: str) -> str:
    """`bgetune.train.losses` is what the wheel calls `train.losses`."""
    head, _, rest = name.partition(".")
    return rest if head == "bgetune" and rest.split(".")[0] in STAGES else name


def test_stages_never_import_each_other_and_the_core_imports_none() -> None:
    wrong = []
    for path in sources("bgetune", *STAGES):
        floor = path.relative_to(ROOT).parts[0]
        for line, name, _ in imports(path):
            top = name.split(".")[0]
            if (top in STAGES and top != floor) or top in ("<above the top>", "tests", "scripts"):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


def test_a_stage_imports_itself_relatively() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for stage in STAGES
        for path in sources(stage)
        for line, name, relative in imports(path)
        if name.split(".")[0] == stage and not relative
    ]
    assert not wrong, "an absolute import of its own stage has another name in the wheel:\n" + "\n".join(wrong)


def tree_of_files() -> dict[str, str]:
    """Path -> its line's words, from the tree in docs/files.md: two spaces a level, folders end in a slash."""
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    block = text.split("```text\n", 1)[1].split("```", 1)[0]
    found: dict[str, str] = {}
    above: list[str] = []
    for line in block.splitlines():
        match = re.fullmatch(r"( *)(\S+)(?: +(\S.*))?", line)
        if match is None:
            continue
        depth = len(match[1]) // 2
        above = [*above[:depth], match[2]]
        found["".join(above)] = match[3] or ""
    return found


def test_every_file_has_a_line_in_the_tree() -> None:
    tree = tree_of_files()
    # a folder's own line speaks for its __init__.py
    modules = [p for p in sources(*SHIPPED, "scripts", "tests") if p.name != "__init__.py"]
    configs = sorted((ROOT / "configs").glob("*.yaml"))
    missing = [str(p.relative_to(ROOT)) for p in (*modules, *configs) if str(p.relative_to(ROOT)) not in tree]
    assert not missing, f"docs/files.md lacks {missing}"
    gone = [name for name in tree if not (ROOT / name).exists()]
    assert not gone, f"docs/files.md names what is not there: {gone}"
    silent = [name for name, words in tree.items() if not words]
    assert not silent, f"docs/files.md says nothing about {silent}"


def test_every_package_folder_is_listed_and_every_listed_one_exists() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    mapping, listed = setuptools["package-dir"], set(setuptools["packages"])

    def folder(package: str) -> Path:
        known = max((name for name in mapping if package == name or package.startswith(name + ".")), key=len)
        return ROOT.joinpath(mapping[known], *package[len(known) :].strip(".").split("."))

    absent = [name for name in listed if not (folder(name) / "__init__.py").is_file()]
    assert not absent, f"pyproject.toml lists packages without an __init__.py: {sorted(absent)}"
    on_disk = {path.parent for path in sources(*SHIPPED)}
    unlisted = on_disk - {folder(name) for name in listed}
    assert not unlisted, f"pyproject.toml does not list {sorted(str(p.relative_to(ROOT)) for p in unlisted)}"


@pytest.mark.parametrize("path", sources("bgetune", *STAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_FILE_LINES
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert not {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}
