"""Is the training well? Figures for the log, stops before weights move, alarms for what goes wrong slowly."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from bgetune.config import Head
from bgetune.errors import UserError
from bgetune.representations import Representations

from .encoding import tensors_of
from .objective import Judged, Temperatures
from .ranks import sum_over_ranks

log = logging.getLogger("bgetune")

# A sparse head most of whose vectors are empty has stopped to learn; a head that gives negatives nearly the positives'
# scores for so long tells texts apart no more.
EMPTY_SHARE, LEAST_SPREAD, PATIENCE = 0.5, 0.01, 20


def score_figures(scores: Mapping[Head, Tensor], judged: Judged) -> dict[str, Tensor]:
    """Mean score of the positives and of the negatives that count, for each head."""
    figures = {}
    rows = torch.arange(len(judged.target), device=judged.target.device)
    negatives = judged.allowed.clone()
    negatives[rows, judged.target] = False
    for head, values in scores.items():
        values = values.detach()
        figures[f"score/{head}/positive"] = values[rows, judged.target].mean()
        figures[f"score/{head}/negative"] = values[negatives].mean()
    return figures


def sparse_figures(own: Representations) -> dict[str, Tensor]:
    """Non-zero tokens a text, and the share of texts that have none, over all ranks."""
    if own.sparse is None:
        return {}
    weights = own.sparse.weights.detach()
    texts = len(own.sparse)
    rows = torch.repeat_interleave(torch.arange(texts), own.sparse.offsets.diff()).to(weights.device)
    there = torch.zeros(texts, device=weights.device).index_add_(0, rows, (weights > 0).float())
    sums = torch.stack([there.sum(), (there == 0).float().sum(), torch.tensor(float(texts), device=weights.device)])
    tokens, empty, count = sum_over_ranks(sums)
    return {"sparse/nonzero_tokens": tokens / count, "sparse/empty_share": empty / count}


def gradient_figures(own: Representations) -> dict[str, Tensor]:
    """Norm of the loss's gradient on what each head made of the texts, over all ranks."""
    squares = {head: t.grad.square().sum() for head, t in tensors_of(own).items() if t.grad is not None}
    if not squares:
        return {}
    summed = sum_over_ranks(torch.stack(list(squares.values())))
    return {f"grad_norm/{head}": value.sqrt() for head, value in zip(squares, summed, strict=True)}


def learned_temperatures(temperatures: Temperatures) -> dict[str, Tensor]:
    """What the learned temperatures are before this step; nothing where they are fixed."""
    return {
        f"temperature/{name}": torch.as_tensor(temperatures.of(name)).detach().squeeze()
        for name in temperatures.learned
    }


def stop_without_negatives(allowed: Tensor) -> None:
    if not (allowed.sum(dim=1) > 1).any():
        raise UserError(
            "train: a step has no negative: every passage in it answers every query of it; raise train.batch_size, "
            "or mine hard negatives (mine.method: dense)"
        )


def stop_unless_finite(what: str, value: Tensor) -> None:
    if not torch.isfinite(value).all():
        raise UserError(
            f"train: the {what} is {value.item()}, and the weights were left as they were; "
            "lower train.learning_rate, raise train.temperature, or set train.precision: fp32"
        )


def stop_if_all_empty(figures: Mapping[str, Tensor]) -> None:
    if "sparse/empty_share" in figures and figures["sparse/empty_share"].item() == 1.0:
        raise UserError(
            "train: every sparse vector of the step is empty, so the sparse head has nothing to learn from; the "
            "weights were left as they were; lower train.head_learning_rate, or go back to an earlier checkpoint"
        )


class Alarm:
    """Warns when a head collapses: once when it begins, again only after it was well."""

    def __init__(self) -> None:
        self._bad_steps: dict[str, int] = {}

    def look(self, step: int, figures: Mapping[str, float], heads: tuple[Head, ...]) -> list[str]:
        """What has gone on for PATIENCE steps as of this one; the lines are logged too."""
        signs = {"sparse_empty": figures.get("sparse/empty_share", 0.0) > EMPTY_SHARE}
        for head in heads:
            positive, negative = figures[f"score/{head}/positive"], figures[f"score/{head}/negative"]
            # a share of the scores' size, since dot products have any; not above it, for all scores may be 0
            signs[head] = positive - negative <= LEAST_SPREAD * max(abs(positive), abs(negative))
        raised = []
        for sign, bad in signs.items():
            self._bad_steps[sign] = self._bad_steps.get(sign, 0) + 1 if bad else 0
            if self._bad_steps[sign] == PATIENCE:
                raised.append(self._words(sign, step, figures))
                log.warning("%s", raised[-1])
        return raised

    @staticmethod
    def _words(sign: str, step: int, figures: Mapping[str, float]) -> str:
        if sign == "sparse_empty":
            share = 100 * figures["sparse/empty_share"]
            return (
                f"step {step}: {share:.0f} % of the sparse vectors are empty, for {PATIENCE} steps now: the sparse "
                "head collapses; lower train.head_learning_rate or raise train.sparse.loss_weight"
            )
        positive, negative = figures[f"score/{sign}/positive"], figures[f"score/{sign}/negative"]
        return (
            f"step {step}: the {sign} head scores positives {positive:.3f} and negatives {negative:.3f}, for "
            f"{PATIENCE} steps now: it tells texts apart no more; lower the learning rate, or look at the training data"
        )
