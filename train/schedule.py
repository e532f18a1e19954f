"""The learning rate as a function of the step, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from bgetune.config import TrainConfig


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Rate of step `step` (from 0) of `total`: linear warm-up from 0, then linear or cosine decay to 0.

    >>> config = TrainConfig(learning_rate=1.0, warmup_share=0.5, schedule="linear")
    >>> [learning_rate(step, 4, config) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = math.ceil(total * config.warmup_share)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    decayed = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * decayed


def parameter_groups(named: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not."""
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    matrices = [parameter for _, parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for _, parameter in trained if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
