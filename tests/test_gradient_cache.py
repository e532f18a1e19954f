"""A step's loss and gradients: cached, in one graph, and as the formulas say, all the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bgetune.config import HEADS, Head, TrainConfig
from bgetune.encoder import Encoder
from tests import tiny
from tests.rank_worker import CONFIG, MIXED, UNEQUAL, Found, batch_of, gradients_of, load, run_step
from train.dataset import Batch
from train.encoding import StepEncoding
from train.model import set_up
from train.objective import Temperatures

SETS: list[tuple[Head, ...]] = [*((head,) for head in HEADS), ("dense", "sparse"), HEADS]
each_set = pytest.mark.parametrize("heads", SETS, ids="+".join)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no distillation": {"self_distillation": False},
    "kl_div": {"teacher": "kl_div"},
    "m3_kd_loss": {"teacher": "m3_kd_loss"},
    "learned temperatures": {"learn_temperature": True},
    "Matryoshka": {"matryoshka_dims": (4, 8)},
    "query negatives": {"query_negatives": True},
    "margin": {"false_negative_margin": 0.1},
    "own negatives only": {"in_batch_negatives": False},
    "triplet": {"triplet_weight": 0.5, "triplet_margin": 0.3},
}


# -- the definitions: text by text, query by query, with loops


class Text(NamedTuple):
    """vectors: float [tokens, M]."""

    dense: Tensor
    words: dict[int, Tensor]
    vectors: Tensor


def alone(encoder: Encoder, token_ids: list[int]) -> Text:
    """One text by itself, no padding (shared/m3_reference.md)."""
    states = encoder.backbone(input_ids=torch.tensor([token_ids])).last_hidden_state[0]
    words: dict[int, Tensor] = {}
    for token, state in zip(token_ids, states, strict=True):
        if token not in encoder.tokenizer.all_special_ids:
            weight = torch.relu(encoder.layers.sparse_linear(state))[0]  # type: ignore[misc]
            words[token] = torch.maximum(words[token], weight) if token in words else weight
    vectors = encoder.layers.colbert_linear(states[1:])  # type: ignore[misc]
    return Text(states[0], words, vectors / vectors.norm(dim=1, keepdim=True))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def score(head: Head, query: Text, passage: Text) -> Tensor:
    if head == "dense":
        return cosine(query.dense, passage.dense)
    if head == "sparse":
        products = [weight * passage.words[token] for token, weight in query.words.items() if token in passage.words]
        return torch.stack(products).sum() if products else query.dense.new_zeros(())
    return torch.stack([(passage.vectors @ token).max() for token in query.vectors]).mean()


def soft_cross_entropy(row: Tensor, teacher: Tensor, columns: list[int]) -> Tensor:
    return -(teacher[columns].softmax(0).detach() * row[columns].log_softmax(0)).sum()


def contrast(logits: Tensor, allowed: list[list[int]], batch: Batch, config: TrainConfig) -> Tensor:
    """One head's InfoNCE, or what the teacher makes of it; `allowed`: each query's columns."""
    rows, ends = [], [*batch.target[1:], len(batch.passages)]
    teacher = torch.tensor(batch.teacher, dtype=logits.dtype)
    for row, target, end, columns in zip(logits, batch.target, ends, allowed, strict=True):
        group = [column for column in range(target, end) if column in columns]
        loss = row[columns].logsumexp(0) - row[target]
        if config.query_negatives:
            column, me = logits[:, target], len(rows)
            others = [i for i, own in enumerate(batch.target) if own != target and (i, target) not in batch.false_negatives]
            loss = (loss + column[[me, *others]].logsumexp(0) - column[me]) / 2
        if config.teacher == "kl_div":
            loss = loss + soft_cross_entropy(row, teacher, group)
        if config.teacher == "m3_kd_loss":
            rivals = [[column for column in columns if column not in group[:i]] for i in range(len(group))]
            losses = [row[others].logsumexp(0) - row[at] for at, others in zip(group, rivals, strict=True)]
            loss = teacher[group].softmax(0) @ torch.stack(losses)
        rows.append(loss)
    return torch.stack(rows).mean()


def naive_loss(
    encoder: Encoder, batch: Batch, config: TrainConfig, heads: tuple[Head, ...], temperatures: Temperatures
) -> Tensor:
    queries = [alone(encoder, ids) for ids in encoder.tokenize(batch.queries, "query")[0]]
    passages = [alone(encoder, ids) for ids in encoder.tokenize(batch.passages, "passage")[0]]
    of = {head: getattr(config, head) for head in heads}
    scores = {head: torch.stack([torch.stack([score(head, q, p) for p in passages]) for q in queries]) for head in heads}
    logits = {head: temperatures.divide(scores[head], head) for head in heads}
    weights = {head: of[head].ensemble_weight if len(heads) > 1 else 1.0 for head in heads}
    ensemble = torch.stack([weights[head] * logits[head] for head in heads]).sum(0)

    allowed = []
    for i, target in enumerate(batch.target):
        mean = sum(weights[head] * scores[head][i] for head in heads) / sum(weights.values())
        suspect = mean > mean[target] + (config.false_negative_margin or 0.0)  # type: ignore[index]
        others = [
            j
            for j, owner in enumerate(batch.owner)
            if (i, j) not in batch.false_negatives
            and (owner == i or config.in_batch_negatives)
            and not (config.false_negative_margin is not None and suspect[j])
        ]
        allowed.append(sorted({target, *others}))

    terms = {head: contrast(logits[head], allowed, batch, config) for head in heads}
    if config.matryoshka_dims and "dense" in heads:
        cuts = [torch.stack([torch.stack([cosine(q.dense[:d], p.dense[:d]) for p in passages]) for q in queries])
                for d in config.matryoshka_dims]  # fmt: skip
        shorter = [contrast(temperatures.divide(cut, "dense"), allowed, batch, config) for cut in cuts]
        terms["dense"] = torch.stack([terms["dense"], *shorter]).mean()
    loss = torch.stack([of[head].loss_weight * terms[head] for head in heads]).sum()
    if len(heads) > 1:
        loss = (loss + contrast(ensemble, allowed, batch, config)) / (len(heads) + 1)
    if len(heads) > 1 and config.self_distillation:
        taught = [
            of[head].loss_weight * soft_cross_entropy(logits[head][i], ensemble[i], columns) / len(batch.queries)
            for head in heads
            for i, columns in enumerate(allowed)
        ]
        loss = (loss + torch.stack(taught).sum() / len(heads)) / 2
    for head in heads if config.triplet_weight else ():
        for i, (target, columns) in enumerate(zip(batch.target, allowed, strict=True)):
            negatives = [j for j in columns if j != target]
            hinge = torch.relu(config.triplet_margin - scores[head][i, target] + scores[head][i, negatives])
            share = config.triplet_weight * of[head].loss_weight / len(heads) / len(batch.queries)
            loss = loss + share * hinge.sum() / max(len(negatives), 1)
    return loss


def naive(
    encoder: Encoder, batch: Batch, config: TrainConfig, heads: tuple[Head, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    encoder.zero_grad(set_to_none=True)
    temperatures = Temperatures(heads, config).double()
    loss = naive_loss(encoder, batch, config, heads, temperatures)
    loss.backward()
    return loss.detach(), gradients_of(encoder, temperatures)


# -- comparisons


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"), dropout=0.1)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    """Without dropout, in float64."""
    return load(folder).eval()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    # a key's bias has no effect on a softmax, and a head that sees no difference has nothing to learn: rounding alone
    rounding = 100 * torch.finfo(torch.float64).eps * max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm() + rounding, name


def assert_cached_and_not(
    encoder: Encoder, batch: Batch, config: TrainConfig, heads: tuple[Head, ...], sizes: tuple[int, ...] = (1, 40)
) -> Found:
    whole = run_step(encoder, batch, config, heads)
    assert not whole.encoding.cached
    for tokens in sizes:
        cached = run_step(encoder, batch, config, heads, tokens)
        assert cached.encoding.cached
        assert cached.figures.keys() == whole.figures.keys()
        for name, value in whole.figures.items():
            torch.testing.assert_close(cached.figures[name], value, rtol=1e-9, atol=1e-12, msg=name)
        assert_same(cached.gradients, whole.gradients)
    return whole


def assert_all_the_same(encoder: Encoder, batch: Batch, config: TrainConfig, heads: tuple[Head, ...]) -> None:
    whole = assert_cached_and_not(encoder, batch, config, heads)
    loss, gradients = naive(encoder, batch, config, heads)
    torch.testing.assert_close(whole.figures["loss"], loss, rtol=1e-9, atol=0)
    assert_same(whole.gradients, gradients)


@each_set
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_cached_in_one_graph_and_by_the_formulas(encoder, heads, options):
    assert_all_the_same(encoder, MIXED, replace(CONFIG, **options), heads)
