"""What the log says of a step's health, what stops a step before weights move, and which alarms ring when."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bgetune.config import HEADS
from bgetune.errors import UserError
from bgetune.representations import Representations, SparseRows, TokenVectors, offsets_of
from train.health import (
    PATIENCE,
    Alarm,
    gradient_figures,
    score_figures,
    sparse_figures,
    stop_if_all_empty,
    stop_unless_finite,
    stop_without_negatives,
)
from train.objective import Judged

WELL = {"score/dense/positive": 0.9, "score/dense/negative": 0.3}
ILL = {"score/dense/positive": 0.900, "score/dense/negative": 0.895}


def judged(allowed: Tensor, target: list[int]) -> Judged:
    return Judged(torch.tensor(target), allowed, torch.zeros_like(allowed))


def sparse_rows(*texts: list[float]) -> SparseRows:
    weights = torch.tensor([weight for text in texts for weight in text])
    return SparseRows(torch.arange(len(weights)), weights, offsets_of([len(text) for text in texts]))


# -- figures


def test_score_figures_equal_loops_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    target = [0, 3, 4]
    scores = {head: torch.rand(3, 6, generator=generator, requires_grad=True) for head in HEADS}
    allowed = torch.rand(3, 6, generator=generator) < 0.6
    allowed[range(3), target] = True
    found = score_figures(scores, judged(allowed, target))
    assert set(found) == {f"score/{head}/{kind}" for head in HEADS for kind in ("positive", "negative")}
    for head, values in scores.items():
        positives = [values[i, at].item() for i, at in enumerate(target)]
        negatives = [values[i, j].item() for i in range(3) for j in range(6) if allowed[i, j] and j != target[i]]
        assert found[f"score/{head}/positive"].item() == pytest.approx(np.mean(positives))
        assert found[f"score/{head}/negative"].item() == pytest.approx(np.mean(negatives))
    assert not any(figure.requires_grad for figure in found.values())


def test_score_figures_leave_the_mask_as_it_was() -> None:
    allowed = torch.ones(2, 2, dtype=torch.bool)
    score_figures({"dense": torch.eye(2)}, judged(allowed, [0, 1]))
    assert allowed.all()


@pytest.mark.parametrize(
    ("texts", "tokens", "empty"),
    [
        ([[1.0, 2.0], [0.5]], 1.5, 0.0),
        ([[1.0, 0.0], [0.0, 0.0], [], [3.0, 1.0, 1.0]], 1.0, 0.5),  # a text without words is empty too
        ([[], [0.0]], 0.0, 1.0),
    ],
)
def test_sparse_figures(texts: list[list[float]], tokens: float, empty: float) -> None:
    found = sparse_figures(Representations(sparse=sparse_rows(*texts)))
    assert {name: value.item() for name, value in found.items()} == {
        "sparse/nonzero_tokens": tokens,
        "sparse/empty_share": empty,
    }


def test_no_sparse_head_has_no_sparse_figures() -> None:
    assert sparse_figures(Representations(dense=torch.ones(2, 3))) == {}


def test_gradient_figures_are_norms_by_head() -> None:
    dense, vectors = torch.ones(2, 3, requires_grad=True), torch.ones(4, 2, requires_grad=True)
    sparse = sparse_rows([1.0, 2.0], [3.0])
    sparse.weights.requires_grad_()
    own = Representations(dense, sparse, TokenVectors(vectors, offsets_of([2, 2])))
    assert gradient_figures(own) == {}
    (3 * dense.sum() + (sparse.weights * torch.tensor([1.0, 2.0, 2.0])).sum()).backward()
    found = gradient_figures(own)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"grad_norm/dense": math.sqrt(6 * 9), "grad_norm/sparse": 3.0}
    )


# -- stops


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stops(bad: float) -> None:
    with pytest.raises(UserError, match=r"^train: the loss is (nan|-?inf), and the weights were left as they were; "):
        stop_unless_finite("loss", torch.tensor(bad))
    stop_unless_finite("loss", torch.tensor(3.0))


def test_a_step_of_empty_sparse_vectors_stops() -> None:
    ours = sparse_figures(Representations(sparse=sparse_rows([0.0], [0.0, 0.0])))
    with pytest.raises(UserError, match=r"^train: every sparse vector of the step is empty.*train\.head_learning_rate"):
        stop_if_all_empty(ours)
    stop_if_all_empty(sparse_figures(Representations(sparse=sparse_rows([0.0], [0.0, 0.1]))))
    stop_if_all_empty({})


def test_a_step_without_a_negative_stops() -> None:
    own = torch.eye(3, dtype=torch.bool)
    with pytest.raises(UserError, match=r"^train: a step has no negative: .*train\.batch_size"):
        stop_without_negatives(own)
    own[2, 0] = True
    stop_without_negatives(own)


# -- alarms


def feed(alarm: Alarm, figures: dict[str, float], steps: int, first: int = 1, heads: Any = ("dense",)) -> list[int]:
    """The steps at which something is said."""
    return [step for step in range(first, first + steps) if alarm.look(step, figures, heads)]


def test_a_collapse_is_said_once_after_patience(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="bgetune"):
        assert feed(Alarm(), ILL, 5 * PATIENCE) == [PATIENCE]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"step {PATIENCE}: the dense head scores positives 0.900 and negatives 0.895, for {PATIENCE} steps now: "
        "it tells texts apart no more; lower the learning rate, or look at the training data"
    )


def test_it_is_said_again_only_after_recovery() -> None:
    alarm = Alarm()
    assert feed(alarm, ILL, 2 * PATIENCE) == [PATIENCE]
    assert feed(alarm, WELL, 1) == []
    assert feed(alarm, ILL, 2 * PATIENCE, first=100) == [100 + PATIENCE - 1]


def test_one_good_step_in_between_starts_the_count_anew() -> None:
    alarm = Alarm()
    for _ in range(5):
        assert feed(alarm, ILL, PATIENCE - 1) == []
        assert feed(alarm, WELL, 1) == []


@pytest.mark.parametrize(
    ("positive", "negative", "ill"),
    [
        (0.9, 0.3, False),
        (0.9, 0.8, False),
        (0.2, 0.5, True),  # negatives score higher
        (250.0, 249.0, True),  # dot products: a share of the scores' size
        (250.0, 240.0, False),
        (-3.0, -3.01, True),  # euclidean
        (-1.0, -3.0, False),
        (-0.0, -0.0, True),  # all vectors are the same point
        (0.0, 0.0, True),
        (0.001, 0.0, False),  # sparse scores are small at first
    ],
)
def test_which_scores_are_a_collapse(positive: float, negative: float, ill: bool) -> None:
    figures = {"score/dense/positive": positive, "score/dense/negative": negative}
    assert feed(Alarm(), figures, 2 * PATIENCE) == ([PATIENCE] if ill else [])


def test_empty_sparse_vectors_are_an_alarm_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    figures = {"score/sparse/positive": 2.0, "score/sparse/negative": 1.0, "sparse/empty_share": 0.6}
    with caplog.at_level(logging.WARNING, logger="bgetune"):
        assert feed(Alarm(), figures, 2 * PATIENCE, heads=("sparse",)) == [PATIENCE]
    assert f"step {PATIENCE}: 60 % of the sparse vectors are empty, for {PATIENCE} steps now" in caplog.text
    assert feed(Alarm(), {**figures, "sparse/empty_share": 0.5}, 2 * PATIENCE, heads=("sparse",)) == []


def test_heads_are_watched_apart() -> None:
    figures = {"score/sparse/positive": 2.0, "score/sparse/negative": 1.0, "sparse/empty_share": 0.0}
    alarm = Alarm()
    both = ("dense", "sparse")
    assert feed(alarm, {**ILL, **figures}, PATIENCE // 2, heads=both) == []
    bad_sparse = {**figures, "score/sparse/negative": 2.0}
    said = feed(alarm, {**ILL, **bad_sparse}, 2 * PATIENCE, first=PATIENCE // 2 + 1, heads=both)
    assert said == [PATIENCE, PATIENCE // 2 + PATIENCE]
