"""`python -m eval --config FILE`: measure base and tuned, write `report/`."""

from __future__ import annotations

from collections.abc import Sequence

from bgetune.stage_program import run_stage

from .evaluate import evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; the exit code is 0, or 2 after a user's mistake."""
    return run_stage("eval", evaluate, argv, prog="python -m eval")


if __name__ == "__main__":
    raise SystemExit(main())
