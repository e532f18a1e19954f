"""The step's loss against BGE-M3's formulas (arXiv 2402.03216 §3.2), written out query by query in float64."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bgetune.config import HEADS, Head, HeadConfig, TrainConfig
from train.objective import Judged, Temperatures, counted, step_loss

SIZES = (3, 1, 4, 2)
"""Passages of each query: groups are ragged, and one query has no hard negative."""
PLAIN = TrainConfig(temperature=0.05, self_distillation=False)


@dataclass(frozen=True)
class Problem:
    """Scores [Q, P] of each head, what is allowed of them, and a teacher's scores."""

    scores: dict[Head, Tensor]
    judged: Judged
    shortened: list[Tensor]

    @property
    def allowed(self) -> np.ndarray:
        return self.judged.allowed.numpy()

    @property
    def group(self) -> np.ndarray:
        return self.judged.group.numpy()

    @property
    def target(self) -> list[int]:
        return self.judged.target.tolist()


def problem(*heads: Head, seed: int = 0, sizes: tuple[int, ...] = SIZES, shortened: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    shape = (len(sizes), len(owner))

    def draw() -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    target = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
    allowed = (draw() < 0.8).scatter(1, target[:, None], True)
    group = owner == torch.arange(len(sizes))[:, None]
    scores = {head: draw().requires_grad_() for head in heads}
    teacher = draw()[0].mul(4).sub(2).expand(shape)
    return Problem(scores, Judged(target, allowed, group, teacher), [draw() for _ in range(shortened)])


def run(p: Problem, config: TrainConfig, step: int = 0) -> dict[str, Tensor]:
    judged = counted(p.scores, p.judged, config)
    return step_loss(p.scores, p.shortened, judged, Temperatures(list(p.scores), config), config, step)


def values(terms: Mapping[str, Tensor]) -> dict[str, float]:
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    return {name: term.item() for name, term in terms.items()}


# -- the formulas


def log_softmax(row: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Over the columns, in their places; 0 elsewhere."""
    found = np.zeros(len(row))
    found[columns] = row[columns] - np.log(np.exp(row[columns]).sum())
    return found


def contrast(logits: np.ndarray, p: Problem, allowed: np.ndarray) -> float:
    return float(np.mean([-log_softmax(logits[i], allowed[i])[at] for i, at in enumerate(p.target)]))


def distilled(logits: np.ndarray, teacher: np.ndarray, where: np.ndarray) -> float:
    rows = range(len(logits))
    weights = [np.where(where[i], np.exp(log_softmax(teacher[i], where[i])), 0.0) for i in rows]
    return float(np.mean([-(weights[i] * log_softmax(logits[i], where[i])).sum() for i in rows]))


def logits_of(p: Problem, temperatures: Mapping[str, float] | float = 0.05) -> dict[str, np.ndarray]:
    each = temperatures if isinstance(temperatures, Mapping) else dict.fromkeys(p.scores, temperatures)
    return {head: scores.detach().numpy() / each[head] for head, scores in p.scores.items()}


def ensemble_of(logits: Mapping[str, np.ndarray]) -> np.ndarray:
    return sum({"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}[head] * value for head, value in logits.items())


# -- heads and their sum


@pytest.mark.parametrize("head", HEADS)
def test_one_head_has_its_own_loss_and_no_ensemble(head: Head) -> None:
    p = problem(head)
    config = replace(PLAIN, self_distillation=True, **{head: HeadConfig()})
    found = values(run(p, config))
    expected = contrast(logits_of(p)[head], p, p.allowed)
    assert found == pytest.approx({"loss": expected, f"loss/{head}": expected}, rel=1e-12)


PAIRS = [pair for count in (2, 3) for pair in itertools.combinations(HEADS, count)]


@pytest.mark.parametrize("heads", PAIRS, ids="+".join)
@pytest.mark.parametrize("self_distillation", [False, True])
def test_several_heads_teach_each_other_as_in_the_paper(heads: tuple[Head, ...], self_distillation: bool) -> None:
    p = problem(*heads)
    found = values(run(p, replace(PLAIN, self_distillation=self_distillation)))
    logits = logits_of(p)
    weights = {"dense": 1.0, "sparse": 0.1, "multi_vector": 1.0}
    expected = {f"loss/{head}": contrast(logits[head], p, p.allowed) for head in heads}
    expected["loss/ensemble"] = contrast(ensemble_of(logits), p, p.allowed)
    own = sum(weights[head] * expected[f"loss/{head}"] for head in heads)
    expected["loss"] = (own + expected["loss/ensemble"]) / (len(heads) + 1)
    if self_distillation:
        for head in heads:
            expected[f"distillation/{head}"] = distilled(logits[head], ensemble_of(logits), p.allowed)
        taught = sum(weights[head] * expected[f"distillation/{head}"] for head in heads) / len(heads)
        expected["loss"] = (expected["loss"] + taught) / 2
    assert found == pytest.approx(expected, rel=1e-12)


def test_three_heads_in_the_papers_own_words() -> None:
    p = problem(*HEADS)
    found = values(run(p, replace(PLAIN, self_distillation=True)))
    first = found["loss/dense"] + 0.1 * found["loss/sparse"] + found["loss/multi_vector"] + found["loss/ensemble"]
    taught = found["distillation/dense"] + 0.1 * found["distillation/sparse"] + found["distillation/multi_vector"]
    assert found["loss"] == pytest.approx((first / 4 + taught / 3) / 2, rel=1e-12)


def test_the_teacher_gets_no_gradient() -> None:
    """The gradient of L' alone is that of a cross entropy with fixed weights."""
    p = problem(*HEADS)
    terms = run(p, replace(PLAIN, self_distillation=True))
    gradients = torch.autograd.grad(terms["distillation/sparse"], list(p.scores.values()), allow_unused=True)
    of = dict(zip(p.scores, gradients, strict=True))
    assert of["dense"] is None
    assert of["multi_vector"] is None
    logits = logits_of(p)
    for i in range(len(SIZES)):
        student, teacher = (
            np.where(p.allowed[i], np.exp(log_softmax(x[i], p.allowed[i])), 0.0)
            for x in (logits["sparse"], ensemble_of(logits))
        )
        np.testing.assert_allclose(of["sparse"][i], (student - teacher) / 0.05 / len(SIZES), atol=1e-12)


def test_self_distillation_begins_at_its_step() -> None:
    p = problem("dense", "sparse")
    config = replace(PLAIN, self_distillation=True, self_distillation_start=5)
    without = values(run(p, PLAIN))
    assert values(run(p, config, step=4)) == without
    begun = values(run(p, config, step=5))
    assert set(begun) - set(without) == {"distillation/dense", "distillation/sparse"}
    assert begun["loss"] != without["loss"]


def test_weights_are_those_of_the_configuration() -> None:
    p = problem(*HEADS)
    config = replace(
        PLAIN,
        dense=HeadConfig(loss_weight=0.5, ensemble_weight=2.0),
        sparse=HeadConfig(loss_weight=3.0, ensemble_weight=0.0),
        multi_vector=HeadConfig(loss_weight=0.0, ensemble_weight=0.7),
        ensemble_loss_weight=0.25,
    )
    found, logits = values(run(p, config)), logits_of(p)
    mixed = contrast(2.0 * logits["dense"] + 0.7 * logits["multi_vector"], p, p.allowed)
    assert found["loss/ensemble"] == pytest.approx(mixed, rel=1e-12)
    expected = (0.5 * found["loss/dense"] + 3.0 * found["loss/sparse"] + 0.25 * mixed) / 4
    assert found["loss"] == pytest.approx(expected, rel=1e-12)


# -- temperatures


def test_each_head_has_its_own_temperature() -> None:
    p = problem(*HEADS)
    config = replace(
        PLAIN,
        dense=HeadConfig(temperature=0.02),
        sparse=HeadConfig(loss_weight=0.1, ensemble_weight=0.3, temperature=1.0),
    )
    found = values(run(p, config))
    logits = logits_of(p, {"dense": 0.02, "sparse": 1.0, "multi_vector": 0.05})
    for head in HEADS:
        assert found[f"loss/{head}"] == pytest.approx(contrast(logits[head], p, p.allowed), rel=1e-12)
    assert found["loss/ensemble"] == pytest.approx(contrast(ensemble_of(logits), p, p.allowed), rel=1e-12)


def test_learned_temperatures_get_the_true_gradient_and_fixed_ones_none() -> None:
    p = problem("dense", "sparse")
    assert list(Temperatures(list(p.scores), PLAIN).parameters()) == []
    config = replace(PLAIN, learn_temperature=True)
    temperatures = Temperatures(list(p.scores), config).double()

    def loss() -> Tensor:
        return step_loss(p.scores, [], p.judged, temperatures, config, 0)["loss"]

    loss().backward()
    for parameter in temperatures.parameters():
        assert parameter.grad is not None
        slope = parameter.grad.item()
        sides = []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                parameter += shift
                sides.append(loss().item())
                parameter -= shift
        assert slope == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-6)
        assert slope != 0


def test_learned_temperatures_start_where_fixed_ones_stay() -> None:
    p = problem(*HEADS)
    fixed, learned = (values(run(p, replace(PLAIN, learn_temperature=on))) for on in (False, True))
    assert learned == pytest.approx(fixed, rel=1e-5)  # a float32 logarithm


# -- what changes a head's own term


def test_matryoshka_is_the_mean_over_the_lengths() -> None:
    p = problem("dense", "sparse", shortened=2)
    found = values(run(p, PLAIN))
    lengths = [p.scores["dense"].detach(), *p.shortened]
    each = [contrast(scores.numpy() / 0.05, p, p.allowed) for scores in lengths]
    assert found["loss/dense"] == pytest.approx(np.mean(each), rel=1e-12)
    unchanged = values(run(replace(p, shortened=[]), PLAIN))
    for name in ("loss/sparse", "loss/ensemble"):
        assert found[name] == unchanged[name]


def test_matryoshka_is_nothing_where_dense_does_not_train() -> None:
    p = problem("sparse", shortened=1)
    assert values(run(p, PLAIN)) == values(run(replace(p, shortened=[]), PLAIN))


@pytest.mark.parametrize("sizes", [SIZES, (3, 3, 3), (1, 1), (1, 5), (2,)], ids=str)
@pytest.mark.parametrize("teacher", ["none", "kl_div"])
def test_without_in_batch_negatives_a_query_sees_its_group_alone(sizes: tuple[int, ...], teacher: Any) -> None:
    p = problem(*HEADS, sizes=sizes)
    config = replace(PLAIN, in_batch_negatives=False, self_distillation=True, teacher=teacher)
    found = values(run(p, config))
    masked = replace(p, judged=replace(p.judged, allowed=p.judged.allowed & p.judged.group))
    assert found == values(run(masked, replace(config, in_batch_negatives=True)))
    # the softmax of the group cut out of the matrix: other queries' passages are not there at all
    for head in HEADS:
        alone = []
        for i, at in enumerate(p.target):
            columns = np.flatnonzero(p.group[i] & p.allowed[i])
            own = logits_of(p)[head][i, columns]
            place = columns.tolist().index(at)
            alone.append(-log_softmax(own, np.ones(len(own), dtype=bool))[place])
            if teacher == "kl_div":
                taught = np.exp(p.judged.teacher.numpy()[i, columns])
                alone[-1] -= (taught / taught.sum()) @ log_softmax(own, np.ones(len(own), dtype=bool))
        assert found[f"loss/{head}"] == pytest.approx(np.mean(alone), rel=1e-12, abs=1e-12)


def test_other_groups_scores_change_nothing_without_in_batch_negatives() -> None:
    p = problem(*HEADS)
    config = replace(PLAIN, in_batch_negatives=False, self_distillation=True, triplet_weight=0.5)
    before = values(run(p, config))
    outside = ~p.judged.group
    moved = {head: torch.where(outside, 50.0, scores.detach()) for head, scores in p.scores.items()}
    assert values(run(replace(p, scores=moved), config)) == before


def test_query_negatives_are_the_mean_of_both_directions() -> None:
    p = problem("dense", "sparse")
    found = values(run(p, replace(PLAIN, query_negatives=True)))
    logits = logits_of(p)
    for name, value in {**logits, "ensemble": ensemble_of(logits)}.items():
        backwards = []
        for i, at in enumerate(p.target):
            rivals = [k for k in range(len(SIZES)) if k == i or p.allowed[k, at]]
            backwards.append(np.log(np.exp(value[rivals, at]).sum()) - value[i, at])
        expected = (contrast(value, p, p.allowed) + np.mean(backwards)) / 2
        assert found[f"loss/{name}"] == pytest.approx(expected, rel=1e-12)


def test_the_triplet_term_is_on_raw_scores_and_weighted() -> None:
    p = problem("dense", "sparse")
    config = replace(PLAIN, triplet_weight=2.0, triplet_margin=0.3)
    found, without = values(run(p, config)), values(run(p, PLAIN))
    for head, scores in p.scores.items():
        rows = []
        for i, at in enumerate(p.target):
            row = scores.detach().numpy()[i]
            hinges = [max(0.0, 0.3 - row[at] + row[j]) for j in np.flatnonzero(p.allowed[i]) if j != at]
            rows.append(np.mean(hinges) if hinges else 0.0)
        assert found[f"triplet/{head}"] == pytest.approx(np.mean(rows), rel=1e-12)
    added = 2.0 * (found["triplet/dense"] + 0.1 * found["triplet/sparse"]) / 2
    assert found["loss"] == pytest.approx(without["loss"] + added, rel=1e-12)


def kd_by_hand(logits: np.ndarray, p: Problem) -> float:
    """FlagEmbedding's m3_kd_loss: each member of the group against all but the members before it."""
    total = 0.0
    for i, row in enumerate(logits):
        members = np.flatnonzero(p.group[i] & p.allowed[i])
        taught = np.exp(p.judged.teacher.numpy()[i, members])
        for place, at in enumerate(members):
            rivals = [j for j in np.flatnonzero(p.allowed[i]) if j not in members[:place]]
            total += taught[place] / taught.sum() * (np.log(np.exp(row[rivals]).sum()) - row[at])
    return total / len(logits)


@pytest.mark.parametrize("heads", [("dense",), ("sparse", "multi_vector")], ids="+".join)
def test_a_teacher_adds_to_every_heads_term_or_replaces_it(heads: tuple[Head, ...]) -> None:
    p = problem(*heads)
    logits = logits_of(p)
    terms = dict(logits) if len(heads) == 1 else {**logits, "ensemble": ensemble_of(logits)}
    teacher = p.judged.teacher.numpy()
    added, replaced = (values(run(p, replace(PLAIN, teacher=kind))) for kind in ("kl_div", "m3_kd_loss"))
    for name, value in terms.items():
        expected = contrast(value, p, p.allowed) + distilled(value, teacher, p.group & p.allowed)
        assert added[f"loss/{name}"] == pytest.approx(expected, rel=1e-12)
        assert replaced[f"loss/{name}"] == pytest.approx(kd_by_hand(value, p), rel=1e-12)


@pytest.mark.parametrize("heads", [("dense",), HEADS], ids="+".join)
def test_the_guard_goes_by_the_weighted_mean_of_the_scores(heads: tuple[Head, ...]) -> None:
    p = problem(*heads)
    margin = 0.2
    weights = {"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}
    mean = sum(weights[h] * p.scores[h].detach().numpy() for h in heads) / sum(weights[h] for h in heads)
    guarded = p.allowed.copy()
    for i, at in enumerate(p.target):
        guarded[i] &= mean[i] <= mean[i, at] + margin
    assert (guarded != p.allowed).any()
    config = replace(PLAIN, self_distillation=True, triplet_weight=1.0, teacher="kl_div")
    found = values(run(p, replace(config, false_negative_margin=margin)))
    masked = replace(p, judged=replace(p.judged, allowed=torch.from_numpy(guarded)))
    assert found == pytest.approx(values(run(masked, config)), rel=1e-12)


# -- everything at once


@pytest.mark.parametrize("heads", [("dense",), ("sparse",), ("dense", "sparse"), HEADS], ids="+".join)
@pytest.mark.parametrize("teacher", ["none", "kl_div", "m3_kd_loss"])
@pytest.mark.parametrize("in_batch", [True, False])
def test_every_term_is_named_and_finite_and_gradients_flow(heads: tuple[Head, ...], teacher: Any, in_batch) -> None:
    p = problem(*heads, shortened=1)
    config = TrainConfig(
        teacher=teacher,
        in_batch_negatives=in_batch,
        query_negatives=True,
        false_negative_margin=0.1,
        triplet_weight=0.5,
        learn_temperature=True,
    )
    terms = run(p, config)
    values(terms)
    names = {"loss", *(f"{kind}/{head}" for kind in ("loss", "triplet") for head in heads)}
    if len(heads) > 1:
        names |= {"loss/ensemble", *(f"distillation/{head}" for head in heads)}
    assert set(terms) == names
    terms["loss"].backward()
    for scores in p.scores.values():
        assert torch.isfinite(scores.grad).all()
        assert scores.grad.abs().sum() > 0


def test_extreme_scores_of_one_head_leave_the_loss_finite() -> None:
    p = problem(*HEADS)
    with torch.no_grad():
        p.scores["sparse"].mul_(1e4)
    terms = run(p, TrainConfig(temperature=0.01))
    values(terms)
    terms["loss"].backward()
    assert all(torch.isfinite(scores.grad).all() for scores in p.scores.values())
