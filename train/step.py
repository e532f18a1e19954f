"""One step of training, from texts to moved weights, read from top to bottom.

Shapes: Q queries, P passages, N = Q + P texts, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from bgetune.batching import pack, padding_share
from bgetune.config import TrainConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.scores import dense_scores

from .dataset import Batch
from .losses import info_nce


@dataclass(frozen=True)
class StepResult:
    """What a step logs: named loss terms, the gradient's norm before clipping, tokens, padding."""

    losses: dict[str, float]
    grad_norm: float
    tokens: int
    padding_share: float


def training_step(
    encoder: Encoder, optimizer: torch.optim.Optimizer, batch: Batch, accelerator: Accelerator, config: TrainConfig
) -> StepResult:
    """Encode, score, mask, lose, go back, clip, move.

    Raises:
        UserError: no query has a negative, the loss or the gradient is not finite; the weights are as they were then.
    """
    query_ids, _ = encoder.tokenize(batch.queries, "query")
    passage_ids, _ = encoder.tokenize(batch.passages, "passage")
    token_ids = query_ids + passage_ids
    lengths = [len(ids) for ids in token_ids]
    micro_batches = pack(lengths, config.micro_batch_tokens)

    # one autocast block around all micro-batches, so that the weights are cast once a step
    with accelerator.autocast():
        vectors = _encode(encoder, token_ids, micro_batches)
    queries, passages = vectors[: len(query_ids)], vectors[len(query_ids) :]
    scores = dense_scores(queries, passages, encoder.spec.similarity)
    target = torch.tensor(batch.target, device=scores.device)
    allowed = _allowed(batch, scores)
    _stop_without_negatives(allowed)
    losses = {"loss": info_nce(scores, target, allowed, config.temperature)}
    _stop_unless_finite("loss", losses["loss"])

    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(losses["loss"])
    norm = torch.nn.utils.clip_grad_norm_(encoder.parameters(), config.max_grad_norm)
    _stop_unless_finite("gradient", norm)
    optimizer.step()

    named = {name: value.item() for name, value in losses.items()}
    return StepResult(named, norm.item(), sum(lengths), padding_share(lengths, micro_batches))


def _encode(encoder: Encoder, token_ids: list[list[int]], micro_batches: list[list[int]]) -> Tensor:
    """Vectors [N, D] in the order of `token_ids`, encoded micro-batch by micro-batch in one graph.

    Input embeddings are looked up once for the step: each lookup in the whole table costs a gradient of the
    table's size (V x H) in the backward pass, so that one a micro-batch would cost more than the encoder.
    """
    padded = [encoder.pad([token_ids[row] for row in rows]) for rows in micro_batches]
    vocabulary = torch.unique(torch.cat([ids.flatten() for ids, _ in padded]))
    table = encoder.backbone.get_input_embeddings()(vocabulary.to(encoder.device))
    pieces = []
    for ids, mask in padded:
        embedded = torch.nn.functional.embedding(torch.searchsorted(vocabulary, ids).to(encoder.device), table)
        pieces.append(encoder(ids.to(encoder.device), mask.to(encoder.device), embedded))
    order = torch.tensor([row for rows in micro_batches for row in rows], device=encoder.device)
    return torch.cat(pieces)[torch.argsort(order)]


def _allowed(batch: Batch, scores: Tensor) -> Tensor:
    """bool [Q, P]: what may stand in a query's softmax; its own target always does."""
    allowed = torch.ones_like(scores, dtype=torch.bool)
    for query, passage in batch.false_negatives:
        allowed[query, passage] = False
    return allowed


def _stop_without_negatives(allowed: Tensor) -> None:
    if not (allowed.sum(dim=1) > 1).any():
        raise UserError(
            "train: a step has no negative: every passage in it answers every query of it; raise train.batch_size, "
            "or mine hard negatives (mine.method: dense)"
        )


def _stop_unless_finite(what: str, value: Tensor) -> None:
    if not torch.isfinite(value).all():
        raise UserError(
            f"train: the {what} is {value.item()}, and the weights were left as they were; "
            "lower train.learning_rate, raise train.temperature, or set train.precision: fp32"
        )
