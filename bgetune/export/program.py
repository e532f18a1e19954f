"""`bgetune export`: the stage, and the push to the Hub."""

from __future__ import annotations

from collections.abc import Sequence

from bgetune.export.stage import export
from bgetune.stage_program import run_stage


def main(words: Sequence[str]) -> int:
    return run_stage("export", export, words, prog="bgetune export")
