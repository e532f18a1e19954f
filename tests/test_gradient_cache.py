"""A step's loss and gradients: cached, in one graph, and as the formulas say, all the same."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bgetune.config import HEADS, Head, LoraConfig, TrainConfig
from bgetune.encoder import Encoder
from tests import tiny
from tests.rank_worker import CONFIG, MIXED, UNEQUAL, Found, batch_of, gradients_of, load, run_step
from train.dataset import Batch
from train.encoding import StepEncoding
from train.model import set_up
from train.objective import Temperatures

SETS: list[tuple[Head, ...]] = [*((head,) for head in HEADS), ("dense", "sparse")]
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
MANY = {
    "teacher": "kl_div",
    "learn_temperature": True,
    "matryoshka_dims": (4, 8),
    "query_negatives": True,
    "false_negative_margin": 0.1,
    "triplet_weight": 0.5,
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
    rows: list[Tensor] = []
    ends = [*batch.target[1:], len(batch.passages)]
    teacher = torch.tensor(batch.teacher, dtype=logits.dtype)
    for row, target, end, columns in zip(logits, batch.target, ends, allowed, strict=True):
        group = [column for column in range(target, end) if column in columns]
        loss = row[columns].logsumexp(0) - row[target]
        if config.query_negatives:
            column, me = logits[:, target], len(rows)
            others = [i for i, own in enumerate(batch.target) if own != target and target in allowed[i]]
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
    scores = {
        head: torch.stack([torch.stack([score(head, q, p) for p in passages]) for q in queries]) for head in heads
    }
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
    # a head alone is the whole loss
    weight = {head: of[head].loss_weight if len(heads) > 1 else 1.0 for head in heads}
    loss = torch.stack([weight[head] * terms[head] for head in heads]).sum()
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
            share = config.triplet_weight * weight[head] / len(heads) / len(batch.queries)
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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_cached_in_one_graph_and_by_the_formulas(encoder: Encoder, options: dict[str, Any]) -> None:
    assert_all_the_same(encoder, MIXED, replace(CONFIG, **options), HEADS)


@pytest.mark.parametrize("heads", SETS, ids="+".join)
@pytest.mark.parametrize("options", [{}, MANY], ids=["plain", "many options"])
def test_every_head_alone_and_a_pair(encoder: Encoder, heads: tuple[Head, ...], options: dict[str, Any]) -> None:
    assert_all_the_same(encoder, MIXED, replace(CONFIG, **options), heads)


texts = st.lists(st.sampled_from(["heart", "lung", "pain", "the", "and", "unheard"]), min_size=1, max_size=12).map(
    " ".join
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Few words, so that texts repeat and words repeat within them; each query has a negative of its own."""
    count = draw(st.integers(2, 4))
    groups = [draw(st.lists(texts, min_size=2, max_size=3)) for _ in range(count)]
    queries = [draw(texts) for _ in range(count)]
    # one pair whose overlap is large: a step without any lexical weight is refused
    queries[0], groups[0][0] = " ".join(tiny.TOPICS), " ".join(tiny.WORDS + tiny.TOPICS)
    batch = batch_of(queries, groups)
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, len(batch.passages) - 1))
    masked = draw(st.sets(pairs.filter(lambda pair: batch.owner[pair[1]] != pair[0]), max_size=4))
    return replace(batch, false_negatives=sorted(masked))


@settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes, and the seed is fixed
)  # fmt: skip
@given(batches(), st.sampled_from([*SETS, HEADS]), st.sampled_from([*OPTIONS.values(), MANY]))
def test_whatever_the_texts(encoder: Encoder, batch: Batch, heads: tuple[Head, ...], options: dict[str, Any]) -> None:
    assert_all_the_same(encoder, batch, replace(CONFIG, **options), heads)


def test_very_unequal_lengths(encoder: Encoder) -> None:
    assert_all_the_same(encoder, UNEQUAL, CONFIG, HEADS)


# -- dropout, frozen parts, adapters, checkpointing, autocast


class OneGraph(StepEncoding):
    """The same micro-batches, hence the same dropout masks, in one graph."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cached = False


def cached_and_not(monkeypatch: pytest.MonkeyPatch, encoder: Encoder, **options: Any) -> tuple[Found, Found]:
    cached = run_step(encoder, MIXED, CONFIG, micro_batch_tokens=40, **options)
    monkeypatch.setattr("train.step.StepEncoding", OneGraph)
    whole = run_step(encoder, MIXED, CONFIG, micro_batch_tokens=40, **options)
    monkeypatch.undo()
    assert cached.encoding.cached
    assert not whole.encoding.cached
    assert len(cached.encoding.packed) == len(whole.encoding.packed) > 2
    return cached, whole


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dropout_is_replayed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, attention: str, checkpointing: bool
) -> None:
    encoder = load(folder).train()
    encoder.use_attention(attention)
    set_up(encoder, TrainConfig(gradient_checkpointing=checkpointing))
    cached, whole = cached_and_not(monkeypatch, encoder, seed=1)
    torch.testing.assert_close(cached.figures["loss"], whole.figures["loss"], rtol=1e-9, atol=0)
    assert_same(cached.gradients, whole.gradients)
    again, other = (run_step(encoder, MIXED, CONFIG, micro_batch_tokens=40, seed=seed) for seed in (1, 2))
    assert_same(again.gradients, cached.gradients, tolerance=0)
    assert other.figures["loss"] != cached.figures["loss"]


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"freeze": "encoder", "learn_temperature": True}, "encoder.backbone."),
        ({"freeze": "encoder", "heads": ("sparse",)}, "encoder.(backbone|layers.colbert)"),
        ({"freeze": "encoder", "heads": ("multi_vector",)}, "encoder.(backbone|layers.sparse)"),
        ({"freeze": "embeddings"}, "encoder.backbone.embeddings.word_embeddings"),
        ({"freeze": "embeddings", "gradient_checkpointing": True}, "encoder.backbone.embeddings.word_embeddings"),
        ({"gradient_checkpointing": True}, "nothing"),
        ({"heads": ("dense",)}, "encoder.layers"),
        ({"lora": LoraConfig(rank=2)}, r"encoder.backbone(?!.*\.lora_)"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_is_frozen_has_no_gradient_and_the_rest_is_the_same(
    folder: Path, options: dict[str, Any], frozen: str
) -> None:
    config = replace(CONFIG, dropout=0.0, **options)
    encoder = load(folder)
    set_up(encoder, config)
    encoder.double().train()
    whole = assert_cached_and_not(encoder, MIXED, config, HEADS if config.heads == "auto" else config.heads)
    assert whole.gradients
    names = {f"encoder.{name}" for name, _ in encoder.named_parameters()}
    left_out = {name for name in names if re.match(frozen, name)}
    assert {name for name in whole.gradients if name in names} == names - left_out


def test_autocast_loses_no_gradient(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps cast weights: those of the pass without a graph have none."""
    encoder = load(folder, torch.float32).eval()
    bf16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    cached, whole = cached_and_not(monkeypatch, encoder, precision=bf16)
    exact = run_step(encoder, MIXED, CONFIG)
    assert cached.gradients.keys() == whole.gradients.keys() == exact.gradients.keys()
    for found, expected, tolerance in ((cached, whole, 0.02), (cached, exact, 0.5)):
        assert found.figures["loss"] == pytest.approx(expected.figures["loss"].item(), rel=tolerance)
        for name, gradient in expected.gradients.items():
            if not name.endswith("key.bias"):  # rounding alone
                assert (found.gradients[name] - gradient).norm() <= tolerance * gradient.norm(), name
