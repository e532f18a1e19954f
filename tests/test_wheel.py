"""The wheel, built from the clone and installed where there is no clone: one name, all files, and it starts.

tests/test_adapt.py runs a whole job with it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.wheel import IN_WHEEL, ROOT, build, environment, run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def outside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(wheel, tmp_path_factory.mktemp("outside"))


def test_one_name_in_site_packages(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"bgetune", f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_every_module_and_config_is_in_it(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"bgetune/py.typed"}
    for folder, inside in IN_WHEEL.items():
        files = (*(ROOT / folder).rglob("*.py"), *(ROOT / folder).glob("*.yaml"))
        wanted |= {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" for path in files}
    assert not wanted - held


def test_licence_goes_with_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_it_runs_outside_the_clone(outside: Path, tmp_path: Path) -> None:
    where = "import bgetune, sys; print(bgetune.__file__); print([p for p in sys.path if p])"
    file, path = run(outside / "python", "-c", where, cwd=tmp_path).stdout.splitlines()
    assert Path(file).is_relative_to(outside.parent), "the editable install shadows the wheel"
    assert repr(str(ROOT)) not in path
    packages = ("data_prep", "train", "eval", "configs")
    there = "import importlib, sys; [importlib.import_module('bgetune.' + name) for name in sys.argv[1:]]"
    run(outside / "python", "-c", there, *packages, cwd=tmp_path)
    at_top = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) for name in sys.argv[1:]))"
    run(outside / "python", "-c", at_top, *packages, cwd=tmp_path)
    shown = run(outside / "bgetune", "--help", cwd=tmp_path).stdout
    assert "adapt" in shown
