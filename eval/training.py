"""The curves of training, from the log that the trainer left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SHOWN = 300


def training_curves(log: Path) -> dict[str, Any] | None:
    """Losses by step and the evaluations on dev; None where there is no log. At most 300 steps, evenly picked."""
    if not log.is_file():
        return None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    shown = steps[:: max(1, -(-len(steps) // _SHOWN))]
    # a loss may begin later, as self-distillation does
    names = dict.fromkeys(key for line in shown for key in line if key.startswith(("loss", "distillation", "triplet")))
    dev = [line for line in lines if any(key.startswith("dev/") for key in line)]
    return {
        "steps": [line["step"] for line in shown],
        "losses": {name: [line.get(name) for line in shown] for name in names},
        "dev": [{key.removeprefix("dev/"): value for key, value in line.items()} for line in dev],
    }
