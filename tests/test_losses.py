"""InfoNCE against plain numpy, its masks and its gradients."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from train import losses
from train.losses import info_nce


def by_hand(scores: np.ndarray, target: list[int], allowed: np.ndarray, temperature: float) -> float:
    """The definition, query by query, with loops."""
    total = 0.0
    for i, at in enumerate(target):
        rivals = sum(np.exp(scores[i, j] / temperature) for j in range(scores.shape[1]) if allowed[i, j])
        total += -np.log(np.exp(scores[i, at] / temperature) / rivals)
    return total / len(target)


def problem(seed: int, q: int = 5, p: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand((q, p), generator=generator, dtype=torch.float64) * 2 - 1
    target = torch.randint(p, (q,), generator=generator)
    allowed = torch.rand((q, p), generator=generator) > 0.3
    allowed[torch.arange(q), target] = True
    return scores, target, allowed


def test_doctest():
    result = doctest.testmod(losses)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(seed, temperature):
    scores, target, allowed = problem(seed)
    expected = by_hand(scores.numpy(), target.tolist(), allowed.numpy(), temperature)
    assert info_nce(scores, target, allowed, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_finite_differences():
    scores, target, allowed = problem(0, q=3, p=6)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: info_nce(s, target, allowed, 0.3), (scores,))


def test_what_is_masked_has_no_say_and_no_gradient():
    scores, target, allowed = problem(1)
    other = torch.where(allowed, scores, scores + 100)
    scores.requires_grad_()
    loss = info_nce(scores, target, allowed, 0.1)
    loss.backward()
    assert loss.item() == info_nce(other, target, allowed, 0.1).item()
    assert scores.grad is not None
    assert (scores.grad[~allowed] == 0).all()
    assert (scores.grad[allowed] != 0).all()
    # a softmax only shifts weight about: every query's gradient sums to zero
    torch.testing.assert_close(scores.grad.sum(dim=1), torch.zeros(5, dtype=torch.float64))


def test_only_the_target_left_is_loss_zero_and_no_nan():
    scores, target, _ = problem(2)
    scores.requires_grad_()
    alone = torch.zeros_like(scores, dtype=torch.bool)
    alone[torch.arange(len(target)), target] = True
    loss = info_nce(scores, target, alone, 0.02)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_large_scores_over_a_small_temperature_stay_finite():
    """Dot products of vectors that are not normalised reach hundreds; their exponentials overflow float32."""
    scores = torch.tensor([[500.0, 400.0], [300.0, 700.0]], requires_grad=True)
    loss = info_nce(scores, torch.tensor([0, 0]), torch.ones(2, 2, dtype=torch.bool), 0.02)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 400 / 0.02) / 2)
    assert torch.isfinite(scores.grad).all()
