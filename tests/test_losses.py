"""Every loss against its definition in loops, against FlagEmbedding's own, and what masks must do."""

from __future__ import annotations

import doctest
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from train import losses
from train.losses import info_nce, m3_kd, margin_guard, passage_info_nce, self_distillation, teacher_kl, triplet_margin

MARGIN = 0.4


class Problem(NamedTuple):
    logits: Tensor
    teacher: Tensor
    target: Tensor
    allowed: Tensor
    group: Tensor


def problem(seed: int, sizes: tuple[int, ...] = (3, 1, 4, 2), temperature: float = 1.0, share: float = 0.7) -> Problem:
    """Groups of these sizes side by side, the positive first in each; `share` of the other columns is allowed."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    shape = (len(sizes), len(owner))
    target = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
    logits = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) / temperature
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    allowed = (torch.rand(shape, generator=generator) < share).scatter(1, target[:, None], True)
    return Problem(logits, teacher, target, allowed, owner == torch.arange(len(sizes))[:, None])


# -- the definitions, query by query, with loops


def chosen(mask: Tensor) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in mask.numpy()]


def surprise(row: np.ndarray, at: int, columns: list[int]) -> float:
    """−log of the softmax at `at` over `columns`."""
    return np.logaddexp.reduce(row[columns]) - row[at]


def info_nce_by_hand(p: Problem) -> float:
    rows = zip(p.logits.numpy(), p.target.tolist(), chosen(p.allowed), strict=True)
    return float(np.mean([surprise(row, at, columns) for row, at, columns in rows]))


def passage_info_nce_by_hand(p: Problem) -> float:
    rows = []
    for i, at in enumerate(p.target.tolist()):
        queries = [k for k, own in enumerate(p.target.tolist()) if k == i or (p.allowed[k, at] and own != at)]
        rows.append(surprise(p.logits.numpy()[:, at], i, queries))
    return float(np.mean(rows))


def distillation_by_hand(logits: Tensor, teacher: Tensor, mask: Tensor) -> float:
    rows = zip(logits.numpy(), teacher.numpy(), chosen(mask), strict=True)
    return float(
        np.mean([sum(np.exp(-surprise(t, j, js)) * surprise(s, j, js) for j in js) if js else 0 for s, t, js in rows])
    )


def m3_kd_by_hand(p: Problem) -> float:
    total = 0.0
    for row, teacher, members, columns in zip(
        p.logits.numpy(), p.teacher.numpy(), chosen(p.group & p.allowed), chosen(p.allowed), strict=True
    ):
        for i, at in enumerate(members):
            rivals = [j for j in columns if j not in members[:i]]
            total += np.exp(-surprise(teacher, at, members)) * surprise(row, at, rivals)
    return total / len(p.logits)


def triplet_by_hand(p: Problem) -> float:
    total = 0.0
    for row, at, columns in zip(p.logits.numpy(), p.target.tolist(), chosen(p.allowed), strict=True):
        hinges = [max(0.0, MARGIN - row[at] + row[j]) for j in columns if j != at]
        total += sum(hinges) / len(hinges) if hinges else 0.0
    return total / len(p.logits)


def asked_of_passages(p: Problem) -> Tensor:
    asked = torch.zeros_like(p.allowed).scatter(1, p.target.expand(len(p.target), -1), True)
    return asked & p.allowed


class Case(NamedTuple):
    """A loss as called, its definition, and the entries [Q, P] it may look at."""

    call: Callable[[Problem], Tensor]
    by_hand: Callable[[Problem], float]
    seen: Callable[[Problem], Tensor]


CASES = {
    "info_nce": Case(lambda p: info_nce(p.logits, p.target, p.allowed), info_nce_by_hand, lambda p: p.allowed),
    "passage_info_nce": Case(
        lambda p: passage_info_nce(p.logits, p.target, p.allowed), passage_info_nce_by_hand, asked_of_passages
    ),
    "self_distillation": Case(
        lambda p: self_distillation(p.logits, p.teacher, p.allowed),
        lambda p: distillation_by_hand(p.logits, p.teacher, p.allowed),
        lambda p: p.allowed,
    ),
    "teacher_kl": Case(
        lambda p: teacher_kl(p.logits, p.teacher, p.group),
        lambda p: distillation_by_hand(p.logits, p.teacher, p.group),
        lambda p: p.group,
    ),
    "m3_kd": Case(lambda p: m3_kd(p.logits, p.teacher, p.group, p.allowed), m3_kd_by_hand, lambda p: p.allowed),
    "triplet_margin": Case(
        lambda p: triplet_margin(p.logits, p.target, p.allowed, MARGIN), triplet_by_hand, lambda p: p.allowed
    ),
}
each_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def with_gradient(case: Case, p: Problem) -> tuple[float, Tensor]:
    logits = p.logits.clone().requires_grad_()
    loss = case.call(p._replace(logits=logits))
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


def test_doctest():
    result = doctest.testmod(losses)
    assert result.attempted > 0
    assert result.failed == 0


@each_loss
@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(case, seed, temperature):
    p = problem(seed, temperature=temperature)
    assert case.call(p).item() == pytest.approx(case.by_hand(p), rel=1e-12)


@each_loss
def test_gradients_are_those_of_finite_differences(case):
    p = problem(0, sizes=(3, 1, 2), temperature=0.3)
    p.logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: case.call(p._replace(logits=logits)), (p.logits,))


@each_loss
@pytest.mark.parametrize("other", [100.0, float("inf"), float("nan")])
def test_what_is_masked_has_no_say_and_no_gradient(case, other):
    p = problem(1, temperature=0.1)
    seen = case.seen(p)
    assert not seen.all()
    loss, gradient = with_gradient(case, p)
    assert (gradient[~seen] == 0).all()
    # raising all scores alike changes no loss
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)
    assert gradient.any()
    changed = p._replace(logits=p.logits.where(seen, other), teacher=p.teacher.where(seen, other))
    same_loss, same_gradient = with_gradient(case, changed)
    assert same_loss == loss
    assert torch.equal(same_gradient, gradient)


@each_loss
def test_only_the_target_left_is_loss_zero_and_no_nan(case):
    p = problem(2, temperature=0.02)
    alone = torch.zeros_like(p.allowed).scatter(1, p.target[:, None], True)
    loss, gradient = with_gradient(case, p._replace(allowed=alone, group=alone))
    assert loss == 0.0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


@each_loss
@pytest.mark.parametrize("sign", [-1, 1])
def test_large_logits_stay_finite(case, sign):
    """Dot products of vectors that are not normalised reach hundreds; their exponentials overflow float32."""
    p = problem(3, temperature=0.02 / 700)
    p = p._replace(logits=p.logits + sign * p.logits.abs().max())
    single = p._replace(logits=p.logits.float(), teacher=p.teacher.float())
    loss, gradient = with_gradient(case, single)
    assert torch.isfinite(gradient).all()
    assert loss == pytest.approx(case.by_hand(p), rel=1e-5)


@each_loss
def test_half_precision_has_no_nan(case):
    p = problem(3, temperature=0.02)
    half = p._replace(logits=p.logits.half(), teacher=p.teacher.half())
    loss, gradient = with_gradient(case, half)
    assert torch.isfinite(gradient).all()
    assert loss == pytest.approx(case.by_hand(p), rel=5e-3)


@pytest.mark.parametrize("loss", [self_distillation, teacher_kl, m3_kd])
def test_the_teacher_learns_nothing(loss):
    p = problem(4)
    logits, teacher = p.logits.requires_grad_(), p.teacher.requires_grad_()
    loss(logits, teacher, *((p.group, p.allowed) if loss is m3_kd else (p.allowed,))).backward()
    assert logits.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("name", ["teacher_kl", "m3_kd"])
def test_a_query_without_a_group_adds_nothing(name):
    p = problem(5)
    p.group[1] = False
    loss, gradient = with_gradient(CASES[name], p)
    assert loss == pytest.approx(CASES[name].by_hand(p), rel=1e-12)
    assert (gradient[1] == 0).all()
    assert (gradient[2] != 0).any()


def test_when_the_group_is_all_there_is_m3_kd_still_has_no_nan():
    p = problem(6, sizes=(4,), share=1.1)
    loss, gradient = with_gradient(CASES["m3_kd"], p)
    assert loss == pytest.approx(m3_kd_by_hand(p), rel=1e-12)
    assert torch.isfinite(gradient).all()


def test_queries_of_one_positive_are_no_negatives_of_it():
    p = problem(7, share=1.1)
    p.target[1] = p.target[0]
    expected = passage_info_nce_by_hand(p)
    assert passage_info_nce(p.logits, p.target, p.allowed).item() == pytest.approx(expected, rel=1e-12)


def test_a_target_that_is_not_allowed_is_seen():
    p = problem(8)
    p.allowed[0, p.target[0]] = False
    assert info_nce(p.logits, p.target, p.allowed).item() == float("inf")


@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.1, 0.5])
def test_margin_guard_equals_the_definition_and_keeps_the_target(margin):
    p = problem(9)
    kept = margin_guard(p.logits.requires_grad_(), p.target, p.allowed, margin)
    scores = p.logits.detach().numpy()
    for i, at in enumerate(p.target.tolist()):
        for j in range(scores.shape[1]):
            assert kept[i, j] == (j == at or (p.allowed[i, j] and scores[i, j] <= scores[i, at] + margin))
    assert not torch.equal(kept, p.allowed)
    assert kept.dtype == torch.bool


# -- FlagEmbedding's own


@lru_cache(maxsize=1)
def flag_embedding() -> Any:
    """The installed AbsModeling.py by its path: importing the package around it takes ten seconds."""
    package = importlib.util.find_spec("FlagEmbedding")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "abc/finetune/embedder/AbsModeling.py"
    spec = importlib.util.spec_from_file_location("flag_embedding_abs_modeling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AbsEmbedderModel


def theirs(name: str, p: Problem) -> Tensor:
    """What FlagEmbedding computes from the same logits, all columns allowed, groups of one size."""
    distill, size = flag_embedding().distill_loss, int(p.group.sum(dim=1)[0])
    if name == "info_nce":
        return torch.nn.CrossEntropyLoss(reduction="mean")(p.logits, torch.arange(len(p.logits)) * size)
    if name == "self_distillation":
        return distill("kl_div", torch.softmax(p.teacher, dim=-1), p.logits)
    targets = torch.softmax(p.teacher[p.group].view(-1, size), dim=-1)
    if name == "teacher_kl":
        return distill("kl_div", targets, p.logits[p.group].view(-1, size), size)
    return distill("m3_kd_loss", targets, p.logits, size)


@pytest.mark.parametrize("name", ["info_nce", "self_distillation", "teacher_kl", "m3_kd"])
@pytest.mark.parametrize("temperature", [0.02, 1.0])
@pytest.mark.parametrize("size", [1, 4])
def test_equals_flag_embedding(name, temperature, size):
    p = problem(10, sizes=(size,) * 5, temperature=temperature, share=1.1)
    loss, gradient = with_gradient(CASES[name], p)
    p.logits.requires_grad_()
    expected = theirs(name, p)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(gradient, p.logits.grad, rtol=1e-9, atol=1e-14)
