"""The wheel, built from the clone, and an environment without one that has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_WHEEL = {
    "bgetune": "bgetune",
    "configs": "bgetune/configs",
    "data_prep": "bgetune/data_prep",
    "train": "bgetune/train",
    "eval": "bgetune/eval",
}


def run(*command: object, cwd: Path, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """Run a program as someone outside the clone would; fails with all of its output."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done


def build(work: Path) -> Path:
    """Built from a copy, so that no earlier build/ or egg-info can lend it files and none is left behind."""
    clone = work / "clone"
    clone.mkdir()
    for name in IN_WHEEL:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work / "dist", cwd=clone)
    (built,) = (work / "dist").glob("*.whl")
    return built


def environment(wheel: Path, work: Path) -> Path:
    """The bin folder of an environment of its own with the wheel in it.

    What bgetune depends on is borrowed from the environment of the tests: a `.pth` line adds its
    site-packages behind the new one's, and the `.pth` files in there, the editable install among
    them, are not read.
    """
    env = work / "env"
    run(sys.executable, "-m", "venv", "--without-pip", env, cwd=work)
    python = env / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=work)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work).stdout.strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return env / "bin"
