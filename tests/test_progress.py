"""Bars in a log file: whole lines, few of them, with rate and time left; on a terminal as ever."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bgetune import progress as module
from bgetune.progress import progress

ROOT = Path(__file__).parent.parent
PROGRAM = """
import logging, time
import bgetune.progress
from bgetune.errors import exit_code
bgetune.progress.LINE_EVERY = 0.3

def main():
    with bgetune.progress.progress(30, "outer", "part") as bar:
        for i in range(30):
            with bgetune.progress.progress(2, "inner", "x") as inside:
                inside.update(2)
            time.sleep(0.05)
            bar.set_postfix(loss=i)
            bar.update(1)
            if i % 5 == 0:
                logging.getLogger("bgetune").info("a log line")

exit_code(main)
"""


def test_a_log_file_gets_whole_lines_at_intervals_and_the_last(tmp_path):
    path = tmp_path / "stderr.log"
    with open(path, "wb") as log:
        subprocess.run([sys.executable, "-c", PROGRAM], stderr=log, check=True, cwd=ROOT)
    text = path.read_bytes().decode()
    assert "\r" not in text
    assert "\x1b" not in text
    assert text.endswith("\n")
    lines = text.splitlines()
    assert lines.count("a log line") == 6
    told = [line for line in lines if line != "a log line"]
    assert 3 <= len(told) <= 8  # 1.5 seconds and more: one in 0.3 s, and the last
    pattern = r"outer: \d+% \(\d+/30 part\), [\d.]+ ?part/s, \d\d:\d\d gone, \d\d:\d\d left, loss=\d+"
    assert [line for line in told if not re.fullmatch(pattern, line)] == []
    assert told[-1].startswith("outer: 100% (30/30 part)")


def test_a_short_step_is_one_line(capsys):
    with progress(20_000, "short", "B") as bar:
        bar.update(10_000)
        bar.update(10_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("short: 100% (20.0k/20.0k B), ")
    with progress(0, "nothing", "text"):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nothing: 0% (0/0 text)")


def test_what_goes_on_says_from_where(capsys):
    with progress(4, "step", "part", initial=3) as bar:
        bar.update(1)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "step: 75% (3/4 part)",
        "step: 100% (4/4 part)",
    ]


def test_a_step_that_fails_says_how_far_it_came(capsys):
    def step() -> None:
        with progress(4, "step", "part") as bar:
            bar.update(1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        step()
    assert capsys.readouterr().err.startswith("step: 25% (1/4 part)")


def test_only_the_first_process_tells(capsys, monkeypatch):
    monkeypatch.setattr(module, "rank", lambda: 1)
    with progress(4, "step", "part") as bar:
        bar.update(4)
    assert capsys.readouterr().err == ""


def test_a_terminal_keeps_its_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(4, "step", "part") as bar:
        bar.update(4)
    assert "\rstep: 100%|" in terminal.getvalue()
