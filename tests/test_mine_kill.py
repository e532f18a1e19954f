"""SIGKILL in prepare and mine: scripts/kill_data_prep.py with a small job and few kills."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.jobs import half_done

ROOT = Path(__file__).parents[1]


def test_killed_three_times_it_gives_the_same_bytes(tmp_path: Path) -> None:
    """In documents, encoding and the scores of positives, or what follows upon them."""
    words = ["--kills", "3", "--passages", "160", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "scripts/kill_data_prep.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    kills = re.findall(r"^ +(\d)  (prepare|mine|done)", done.stdout, re.MULTILINE)
    assert [number for number, _ in kills] == ["1", "2", "3"]
    assert {stage for _, stage in kills} >= {"prepare", "mine"}
    assert done.stdout.splitlines()[-1] == "identical"
    assert "3 kills" in done.stdout
    assert half_done(tmp_path) == []
    assert not list(tmp_path.glob("killed*/mining"))
