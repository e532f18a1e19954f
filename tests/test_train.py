"""What a step sees and does: batches, masks, gradients against the naive computation."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bgetune.config import ModelConfig, TrainConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.examples import Example
from tests import tiny
from train.dataset import Batch, TrainingSet, _known_positives, batch_at, steps_per_epoch
from train.objective import Temperatures
from train.step import Learner, training_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("model"))


def encoder_of(folder: Path, **options: object) -> Encoder:
    lengths = {"query_max_length": 16, "passage_max_length": 32}
    return Encoder.load(ModelConfig(name_or_path=str(folder), **{**lengths, **options}))  # type: ignore[arg-type]


def training_set(examples: list[Example]) -> TrainingSet:
    return TrainingSet(examples, _known_positives(examples))


def many(count: int) -> TrainingSet:
    return training_set(
        [Example(f"query {i}", [f"pos {i} a", f"pos {i} b"], [f"neg {i} {j}" for j in range(5)]) for i in range(count)]
    )


CONFIG = TrainConfig(batch_size=4, negatives_per_query=2)


# -- batches


def test_a_batch_is_a_function_of_seed_and_step():
    data, again = many(10), many(10)
    forward = [batch_at(step, data, CONFIG) for step in range(6)]
    backward = [batch_at(step, again, CONFIG) for step in reversed(range(6))][::-1]
    assert forward == backward
    assert batch_at(0, data, replace(CONFIG, seed=1)) != forward[0]
    changed = replace(CONFIG, learning_rate=9.0, eval_every=1, micro_batch_tokens=1)
    assert batch_at(3, data, changed) == forward[3]


def test_an_epoch_sees_no_query_twice_and_the_next_has_another_order():
    data = many(10)
    assert steps_per_epoch(10, 4) == 2
    first, second = ([q for step in steps for q in batch_at(step, data, CONFIG).queries] for steps in ((0, 1), (2, 3)))
    assert len(set(first)) == len(set(second)) == 8
    assert first != second


def test_a_batch_has_each_querys_own_positive_and_negatives():
    drawn: Counter[str] = Counter()
    for step in range(40):
        batch = batch_at(step, many(10), CONFIG)
        assert batch.target == [0, 3, 6, 9]
        for query, at in zip(batch.queries, batch.target, strict=True):
            number = query.removeprefix("query ")
            assert batch.passages[at] in {f"pos {number} a", f"pos {number} b"}
            negatives = batch.passages[at + 1 : at + 3]
            assert len(set(negatives)) == 2
            assert all(text.startswith(f"neg {number} ") for text in negatives)
            drawn.update(batch.passages[at : at + 3])
    assert len(drawn) == 10 * 7  # over the epochs every positive and every negative has its turn


def test_queries_with_fewer_negatives():
    examples = [Example(f"q{i}", [f"p{i}"], [f"n{i}"] * (i % 2)) for i in range(4)]
    batch = batch_at(0, training_set(examples), CONFIG)
    assert sorted(batch.queries) == [f"q{i}" for i in range(4)]
    assert len(batch.passages) == 4 + 2
    assert sorted(batch.passages[at] for at in batch.target) == [f"p{i}" for i in range(4)]


def masked(examples: list[Example]) -> set[tuple[str, str]]:
    """The pairs of query and passage that are masked in the only batch there is."""
    config = replace(CONFIG, batch_size=len(examples))
    batch = batch_at(0, training_set(examples), config)
    return {(batch.queries[q], batch.passages[p]) for q, p in batch.false_negatives}


def test_false_negatives_are_masked_by_text():
    assert masked(
        [Example("a", ["shared"], []), Example("b", ["shared"], []), Example("c", ["other"], ["shared"])]
    ) == {
        ("a", "shared"),
        ("b", "shared"),
    }


def test_false_negatives_are_masked_by_id():
    found = masked(
        [
            Example("a", ["one wording"], ["x"], pos_ids=["d1"], neg_ids=["d9"]),
            Example("b", ["y"], ["another wording"], pos_ids=["d2"], neg_ids=["d1"]),
        ]
    )
    assert found == {("a", "another wording")}


def test_other_positives_of_a_query_are_masked_whichever_is_drawn():
    found = masked([Example("a", ["p1"], []), Example("b", ["p2"], ["p3"]), Example("a", ["p3"], ["p2"])])
    # p1 and p3 for the other line of the same query, p2 for b where the third line brings it as a negative
    assert found == {("a", "p1"), ("a", "p3"), ("b", "p2")}


def test_nothing_is_masked_without_reason():
    assert masked([Example(f"q{i}", [f"p{i}"], [f"n{i}"], pos_ids=None) for i in range(5)]) == set()


# -- the step


def batch_of_tiny() -> Batch:
    queries = ["heart pain", "what does the lung cure", "bone"]
    passages = [
        "heart risk " * 6,
        "lung",
        "the skin care test",
        "liver drug sign help",
        "bone " * 20,
        "heart risk " * 6,
    ]
    return Batch(queries, passages, target=[0, 1, 4], owner=[0, 1, 1, 1, 2, 2], false_negatives=[(0, 5), (2, 3)])


def learner(encoder: Encoder, config: TrainConfig, optimizer: torch.optim.Optimizer | None = None) -> Learner:
    tokens = 8192 if config.micro_batch_tokens == "auto" else config.micro_batch_tokens
    optimizer = optimizer or torch.optim.SGD(encoder.parameters(), lr=0.0)
    temperatures = Temperatures(encoder.heads, config).double()
    return Learner(encoder, encoder.heads, temperatures, optimizer, contextlib.nullcontext, tokens)


def naive_loss(encoder: Encoder, batch: Batch, temperature: float) -> torch.Tensor:
    """Every text by itself, no padding, no packing; InfoNCE as it is defined; one graph."""

    def vectors(texts: list[str], role: str) -> list[torch.Tensor]:
        token_ids, _ = encoder.tokenize(texts, role)
        rows = [encoder.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in token_ids]
        pooled = [row.mean(dim=0) if encoder.spec.pooling == "mean" else row[0] for row in rows]
        return [vector / vector.norm() for vector in pooled] if encoder.spec.normalize else pooled

    queries, passages = vectors(batch.queries, "query"), vectors(batch.passages, "passage")
    losses = []
    for i, query in enumerate(queries):
        terms = []
        for j, passage in enumerate(passages):
            score = -(query - passage).norm() if encoder.spec.similarity == "euclidean" else query @ passage
            if (i, j) not in batch.false_negatives:
                terms.append(torch.exp(score / temperature))
            if j == batch.target[i]:
                positive = torch.exp(score / temperature)
        losses.append(-torch.log(positive / sum(terms)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 100, 8192])
@pytest.mark.parametrize(
    "model",
    [{}, {"pooling": "mean", "normalize": False, "similarity": "dot"}, {"similarity": "euclidean", "normalize": False}],
    ids=["cls-cosine", "mean-dot", "cls-euclidean"],
)
def test_gradients_equal_the_naive_computation(folder, model, micro_batch_tokens):
    config = TrainConfig(temperature=0.5, max_grad_norm=1e9, micro_batch_tokens=micro_batch_tokens)
    batch = batch_of_tiny()
    plain = encoder_of(folder, **model).double().eval()
    loss = naive_loss(plain, batch, config.temperature)
    loss.backward()
    ours = encoder_of(folder, **model).double().eval()
    result = training_step(learner(ours, config), batch, config, step=0, seed=0)
    assert result.cached == (micro_batch_tokens < 8192)
    assert result.figures["loss"] == pytest.approx(loss.item(), rel=1e-12)
    expected = dict(plain.named_parameters())
    total = torch.sqrt(sum(p.grad.square().sum() for p in expected.values()))
    assert result.figures["grad_norm"] == pytest.approx(total.item(), rel=1e-9)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-9 * total.item())


def test_the_gradient_is_clipped_and_the_norm_before_it_is_told(folder):
    encoder = encoder_of(folder).eval()
    config = TrainConfig(max_grad_norm=0.01)
    result = training_step(learner(encoder, config), batch_of_tiny(), config, step=0, seed=0)
    clipped = torch.sqrt(sum(p.grad.square().sum() for p in encoder.parameters()))
    assert clipped.item() == pytest.approx(0.01, rel=1e-3)
    assert result.figures["grad_norm"] > 0.1


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_weights_move(folder, what):
    encoder = encoder_of(folder).eval()
    if what == "loss":
        with torch.no_grad():
            encoder.backbone.embeddings.word_embeddings.weight[5] = float("inf")
    else:
        encoder.backbone.embeddings.LayerNorm.bias.register_hook(lambda gradient: gradient * float("nan"))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(UserError, match=f"^train: the {what} is nan, and the weights were left as they were; lower"):
        training_step(learner(encoder, TrainConfig(), optimizer), batch_of_tiny(), TrainConfig(), step=0, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not optimizer.state_dict()["state"]
