"""One step of training, from texts to moved weights, read from top to bottom.

Shapes: Q queries, P passages, over all ranks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bgetune.batching import padding_share
from bgetune.config import Head, TrainConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.representations import take

from .dataset import Batch
from .encoding import Precision, StepEncoding, tensors_of
from .health import (
    gradient_figures,
    learned_temperatures,
    score_figures,
    sparse_figures,
    stop_if_all_empty,
    stop_unless_finite,
    stop_without_negatives,
)
from .objective import Judged, Temperatures, counted, step_loss
from .ranks import rank, shares, sum_gradients, world_size
from .scoring import all_scores


@dataclass(frozen=True)
class Learner:
    """What a step works on: the model, which of its heads train, how it computes, what moves it."""

    encoder: Encoder
    heads: tuple[Head, ...]
    temperatures: Temperatures
    optimizer: torch.optim.Optimizer
    precision: Precision
    """Opens the context that the encoder runs in: autocast, or nothing."""
    micro_batch_tokens: int
    search_dtype: torch.dtype | None = None
    """In which MaxSim looks for winners; None: that of the vectors."""
    attention: str = "sdpa"
    """transformers' implementation in a step."""
    attention_of_dev: str = "sdpa"
    """And in retrieval on dev."""

    def parameters(self) -> list[nn.Parameter]:
        everything = [*self.encoder.parameters(), *self.temperatures.parameters()]
        return [parameter for parameter in everything if parameter.requires_grad]


@dataclass(frozen=True)
class StepResult:
    """What a step logs: loss terms and health by name, tokens and padding of this rank, whether it was cached."""

    figures: dict[str, float]
    tokens: int
    padding_share: float
    cached: bool


def training_step(learner: Learner, batch: Batch, config: TrainConfig, step: int, seed: int) -> StepResult:
    """Encode, score, mask, lose, go back, clip, move.

    Args:
        step: from 0.
        seed: of the dropout masks.

    Raises:
        UserError: no query has a negative, a head is empty, the loss or the gradient is not finite; the weights are as
            they were then.
    """
    figures, encoding, token_count = loss_and_gradients(learner, batch, config, step, seed)
    norm = nn.utils.clip_grad_norm_(learner.parameters(), config.max_grad_norm)
    stop_unless_finite("gradient", norm)
    learner.optimizer.step()
    named = {name: value.item() for name, value in figures.items()}
    padding = padding_share(encoding.lengths, encoding.packed)
    return StepResult({**named, "grad_norm": norm.item()}, token_count, padding, encoding.cached)


def loss_and_gradients(
    learner: Learner, batch: Batch, config: TrainConfig, step: int, seed: int
) -> tuple[dict[str, Tensor], StepEncoding, int]:
    """The step up to the optimizer: loss terms and health by name; the gradients are in the parameters."""
    # here and not before the backward pass: the last step's gradients need not lie in memory beside this step's graph
    learner.optimizer.zero_grad(set_to_none=True)
    encoder = learner.encoder
    query_ids, _ = encoder.tokenize(batch.queries, "query")
    passage_ids, _ = encoder.tokenize(batch.passages, "passage")
    dealt_queries, dealt_passages = _deal(query_ids), _deal(passage_ids)
    my_queries, my_passages = dealt_queries[rank()], dealt_passages[rank()]
    mine = [query_ids[i] for i in my_queries] + [passage_ids[i] for i in my_passages]

    encoding = StepEncoding(
        encoder, mine, learner.heads, learner.micro_batch_tokens, seed + rank() * _SEEDS_A_RANK, learner.precision
    )
    found = encoding.representations()
    for tensor in tensors_of(found).values():
        if tensor.requires_grad:
            tensor.retain_grad()
    queries = take(found, encoding.places[: len(my_queries)])
    passages = take(found, encoding.places[len(my_queries) :])

    scores, shortened = all_scores(
        queries, passages, dealt_queries, dealt_passages,
        encoder.spec.similarity, config.matryoshka_dims, learner.search_dtype,
    )  # fmt: skip
    judged = counted(scores, judge(batch, next(iter(scores.values()))), config)
    stop_without_negatives(judged.allowed)
    losses = step_loss(scores, shortened, judged, learner.temperatures, config, step)
    health = {**score_figures(scores, judged), **sparse_figures(found)}
    stop_unless_finite("loss", losses["loss"])
    stop_if_all_empty(health)

    encoding.backward(losses["loss"])
    sum_gradients(encoder.parameters(), learner.temperatures.parameters())
    figures = {**losses, **health, **gradient_figures(found), **learned_temperatures(learner.temperatures)}
    return {name: value.detach() for name, value in figures.items()}, encoding, sum(map(len, mine))


# More than a rank's micro-batches in a step, so that no two share their dropout masks
_SEEDS_A_RANK = 1_000_003


def _deal(token_ids: Sequence[Sequence[int]]) -> list[list[int]]:
    if world_size() == 1:
        return [list(range(len(token_ids)))]
    if len(token_ids) < world_size():
        raise UserError(f"train.batch_size: a step needs a query for each of the {world_size()} processes; raise it")
    return shares([len(ids) for ids in token_ids], world_size())


def judge(batch: Batch, like: Tensor) -> Judged:
    """The batch's ids as tensors of the scores' [Q, P] shape, device and type."""
    owner = torch.tensor(batch.owner, device=like.device)
    group = owner.unsqueeze(0) == torch.arange(like.shape[0], device=like.device).unsqueeze(1)
    allowed = torch.ones_like(like, dtype=torch.bool)
    if batch.false_negatives:
        queries, passages = torch.tensor(batch.false_negatives, device=like.device).unbind(dim=1)
        allowed[queries, passages] = False
    teacher = None
    if batch.teacher is not None:
        own = torch.tensor(batch.teacher, device=like.device, dtype=like.dtype)
        teacher = own.unsqueeze(0).expand_as(like)
    return Judged(torch.tensor(batch.target, device=like.device), allowed, group, teacher)
