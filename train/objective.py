"""Scores of all heads to one loss, with every term of it by name.

The step's loss is BGE-M3's (arXiv 2402.03216, 3.2): each head's and the ensemble's, averaged; with self-distillation,
averaged once more with what the ensemble teaches the heads. Q queries, P passages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bgetune.config import Head, HeadConfig, TrainConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError

from .losses import (
    info_nce,
    m3_kd,
    margin_guard,
    passage_info_nce,
    self_distillation,
    teacher_kl,
    triplet_margin,
)

LEAST_TEMPERATURE = 0.01


@dataclass(frozen=True)
class Judged:
    """What is known of a step's pairs before anything is scored.

    target: int64 [Q], the column of each query's positive; allowed: bool [Q, P], what may stand in a query's softmax;
    group: bool [Q, P], the query's own positive and hard negatives; teacher: float [Q, P], a teacher's scores there.
    """

    target: Tensor
    allowed: Tensor
    group: Tensor
    teacher: Tensor | None = None


class Temperatures(nn.Module):
    """One temperature a head, fixed or learned; learned ones are kept as logarithms, so that they stay positive."""

    def __init__(self, heads: Sequence[Head], config: TrainConfig) -> None:
        super().__init__()
        self._fixed = {head: _settings(config, head).temperature or config.temperature for head in heads}
        if config.learn_temperature:
            for head, start in self._fixed.items():
                # one number, not none: optimizers and collectives like tensors with a dimension
                self.register_parameter(head, nn.Parameter(torch.tensor([math.log(start)])))

    def divide(self, scores: Tensor, head: Head) -> Tensor:
        """Logits of a head's scores."""
        temperature = self.of(head)
        return scores / (temperature.to(scores) if isinstance(temperature, Tensor) else temperature)

    @property
    def learned(self) -> list[Head]:
        """The heads whose temperature trains."""
        return [head for head in self._fixed if head in self._parameters]

    def of(self, head: Head) -> Tensor | float:
        """A head's temperature; a learned one never goes below 0.01 (CLIP, arXiv 2103.00020)."""
        learned = self._parameters.get(head)
        return self._fixed[head] if learned is None else learned.exp().clamp(min=LEAST_TEMPERATURE)


def _settings(config: TrainConfig, head: str) -> HeadConfig:
    return getattr(config, head)


def trained_heads(encoder: Encoder, config: TrainConfig) -> tuple[Head, ...]:
    """The heads that train, in their usual order.

    Raises:
        UserError: one that is asked for is not among the model's.
    """
    if config.heads == "auto":
        return encoder.heads
    for head in config.heads:
        if head not in encoder.heads:
            raise UserError(f"train.heads: {head}: the model's heads are {', '.join(encoder.heads)}; see model.heads")
    return tuple(head for head in encoder.heads if head in config.heads)


def step_loss(
    scores: Mapping[Head, Tensor],
    shortened: Sequence[Tensor],
    judged: Judged,
    temperatures: Temperatures,
    config: TrainConfig,
    step: int,
) -> dict[str, Tensor]:
    """Every term of the loss by name, scalars; `loss` is the one to minimise.

    Args:
        scores: float [Q, P] of each head that trains.
        shortened: dense scores [Q, P] at each of the Matryoshka lengths.
        step: from 0; decides whether self-distillation has begun.
    """
    logits = {head: temperatures.divide(value, head) for head, value in scores.items()}
    several = len(logits) > 1
    ensemble, allowed = _ensemble(logits, config), judged.allowed
    terms = {f"loss/{head}": _contrast(value, judged, allowed, config) for head, value in logits.items()}
    if shortened and "dense" in logits:
        shorter = [_contrast(temperatures.divide(s, "dense"), judged, allowed, config) for s in shortened]
        terms["loss/dense"] = torch.stack([terms["loss/dense"], *shorter]).mean()
    # a head alone is the whole loss, whatever its weight among others
    weights = {head: _settings(config, head).loss_weight if several else 1.0 for head in logits}
    loss = terms[f"loss/{next(iter(logits))}"]
    if several:
        loss = torch.stack([weights[head] * terms[f"loss/{head}"] for head in logits]).sum()
        terms["loss/ensemble"] = _contrast(ensemble, judged, allowed, config)
        loss = (loss + config.ensemble_loss_weight * terms["loss/ensemble"]) / (len(logits) + 1)
        if config.self_distillation and step >= config.self_distillation_start:
            taught = {head: self_distillation(value, ensemble, allowed) for head, value in logits.items()}
            terms.update({f"distillation/{head}": value for head, value in taught.items()})
            loss = (loss + sum(weights[head] * value for head, value in taught.items()) / len(taught)) / 2
    if config.triplet_weight:
        for head, value in scores.items():
            terms[f"triplet/{head}"] = triplet_margin(value, judged.target, allowed, config.triplet_margin)
            loss = loss + config.triplet_weight * weights[head] * terms[f"triplet/{head}"] / len(scores)
    return {"loss": loss, **terms}


def counted(scores: Mapping[Head, Tensor], judged: Judged, config: TrainConfig) -> Judged:
    """`judged` with what the configuration leaves out of a query's softmax left out of `allowed`."""
    allowed = judged.allowed if config.in_batch_negatives else judged.allowed & judged.group
    if config.false_negative_margin is not None:
        total = sum(_settings(config, head).ensemble_weight for head in scores) if len(scores) > 1 else 1.0
        mean_score = _ensemble(scores, config) / max(total, 1e-9)
        allowed = margin_guard(mean_score, judged.target, allowed, config.false_negative_margin)
    return replace(judged, allowed=allowed)


def _ensemble(values: Mapping[Head, Tensor], config: TrainConfig) -> Tensor:
    """Weighted sum of the heads; of one head, itself."""
    if len(values) == 1:
        return next(iter(values.values()))
    weighted = [_settings(config, head).ensemble_weight * value for head, value in values.items()]
    return torch.stack(weighted).sum(dim=0)


def _contrast(logits: Tensor, judged: Judged, allowed: Tensor, config: TrainConfig) -> Tensor:
    """InfoNCE, the teacher's distillation, or both, as FlagEmbedding combines them."""
    if config.teacher == "m3_kd_loss":
        assert judged.teacher is not None
        return m3_kd(logits, judged.teacher, judged.group & allowed, allowed)
    loss = info_nce(logits, judged.target, allowed)
    if config.query_negatives:
        loss = (loss + passage_info_nce(logits, judged.target, allowed)) / 2
    if config.teacher == "kl_div":
        assert judged.teacher is not None
        loss = loss + teacher_kl(logits, judged.teacher, judged.group & allowed)
    return loss
