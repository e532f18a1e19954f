"""The wheel, built from the clone and installed where there is no clone: one name, all files, and it works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
IN_WHEEL = {
    "bgetune": "bgetune",
    "configs": "bgetune/configs",
    "data_prep": "bgetune/data_prep",
    "train": "bgetune/train",
    "eval": "bgetune/eval",
}


def run(*command: object, cwd: Path, timeout: int = 120) -> str:
    """Run a program as someone outside the clone would; returns its output, fails with all of it."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no earlier build/ or egg-info can lend it files and none is left behind."""
    work = tmp_path_factory.mktemp("wheel")
    clone = work / "clone"
    clone.mkdir()
    for name in IN_WHEEL:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work / "dist", cwd=clone)
    (built,) = (work / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def outside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment of its own with the wheel in it.

    What bgetune depends on is borrowed from the environment of the tests: a `.pth` line adds its
    site-packages behind the new one's, and the `.pth` files in there, the editable install among
    them, are not read.
    """
    env = tmp_path_factory.mktemp("outside") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", env, cwd=env.parent)
    python = env / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=env.parent)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=env.parent).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return env / "bin"


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
    file, path = run(outside / "python", "-c", where, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(outside.parent), "the editable install shadows the wheel"
    assert repr(str(ROOT)) not in path
    packages = ("data_prep", "train", "eval", "configs")
    there = "import importlib, sys; [importlib.import_module('bgetune.' + name) for name in sys.argv[1:]]"
    run(outside / "python", "-c", there, *packages, cwd=tmp_path)
    at_top = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) for name in sys.argv[1:]))"
    run(outside / "python", "-c", at_top, *packages, cwd=tmp_path)
    shown = run(outside / "bgetune", "--help", cwd=tmp_path)
    assert "adapt" in shown


def test_a_tiny_job_runs_outside_the_clone(outside: Path, tmp_path: Path) -> None:
    job = tiny.config(tmp_path)
    tiny.write_config(tmp_path / "job.yaml", job)
    run(outside / "bgetune", "adapt", "--config", "job.yaml", cwd=tmp_path, timeout=300)
    for made in ("report/report.json", "report/report.md", "export/config.json", "export/modules.json"):
        assert (tmp_path / job["output"] / made).is_file(), made
