"""`accelerate launch -m train --config C`: fine-tune on the mined examples."""

from __future__ import annotations

from collections.abc import Sequence

from bgetune.stage_program import run_stage

from .trainer import train


def main(argv: Sequence[str] | None = None) -> int:
    return run_stage("train", train, argv, prog="accelerate launch -m train")


if __name__ == "__main__":
    raise SystemExit(main())
