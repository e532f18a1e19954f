"""Dropout on a processor: what it zeroes, what it keeps, and that every dropout of a model goes through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from bgetune.config import LoraConfig, ModelConfig, TrainConfig
from bgetune.encoder import Encoder
from tests import tiny
from train.dropout import QuickDropout, dropout, quick_dropout
from train.model import set_up

COUNT = 1_000_003  # four to a word, and three more


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_drops_the_share_it_is_told_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(COUNT, dtype=dtype), rate)
    assert found.dtype == dtype
    kept = found != 0
    five_sigma = 5 * (rate * (1 - rate) / COUNT) ** 0.5
    assert abs(1 - kept.double().mean() - rate) < five_sigma + 1 / 65536
    torch.testing.assert_close(
        found[kept],
        torch.full_like(found[kept], 1 / (1 - rate)),
        rtol=2e-2 if rate > 0.9 or dtype == torch.bfloat16 else 1e-4,
        atol=0,
    )


def test_masks_of_neighbours_and_of_calls_are_independent() -> None:
    torch.manual_seed(0)
    first, second = (dropout(torch.ones(COUNT), 0.5) == 0 for _ in range(2))
    pairs = {"calls": (first, second), **{f"lag {lag}": (first[lag:], first[:-lag]) for lag in (1, 2, 3, 4, 8)}}
    for name, (a, b) in pairs.items():
        assert abs((a & b).double().mean() - 0.25) < 5 * (0.1875 / COUNT) ** 0.5, name


def test_the_gradient_goes_where_the_values_went() -> None:
    values = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(4)
        return dropout(x, 0.3)

    assert torch.autograd.gradcheck(seeded, (values,))
    assert torch.autograd.gradcheck(seeded, (values.detach().transpose(0, 2).requires_grad_(),))


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack([dropout(torch.ones(100), 0.5) for _ in range(2)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert not torch.equal(*drawn(1))


@pytest.mark.parametrize("rate", [0.0, 1e-6, 1 - 1e-7, 1.0])
def test_rates_at_the_ends_are_torchs_own(rate: float) -> None:
    torch.manual_seed(0)
    expected = functional.dropout(torch.ones(50), rate)
    torch.manual_seed(0)
    torch.testing.assert_close(dropout(torch.ones(50), rate), expected)


def test_nothing_is_dropped_outside_of_training_and_empty_tensors_are_fine() -> None:
    values = torch.randn(50)
    assert dropout(values, 0.5, training=False) is values
    assert dropout(torch.empty(0, 4), 0.5).shape == (0, 4)
    changed = values.clone()
    assert dropout(changed, 0.5, inplace=True) is changed
    assert not torch.equal(changed, values)


def test_a_module_draws_quickly_only_while_it_is_open() -> None:
    def drawn(call: nn.Module) -> torch.Tensor:
        torch.manual_seed(0)
        return call(torch.ones(64))

    plain = drawn(nn.Dropout(0.5))
    with quick_dropout(torch.device("cpu")):
        quick = drawn(nn.Dropout(0.5))
    torch.manual_seed(0)
    assert torch.equal(quick, dropout(torch.ones(64), 0.5))
    assert not torch.equal(quick, plain)
    assert torch.equal(drawn(nn.Dropout(0.5)), plain)
    with quick_dropout(torch.device("cuda")):
        assert torch.equal(drawn(nn.Dropout(0.5)), plain)


@pytest.mark.parametrize("lora", [False, True])
def test_every_dropout_of_a_model_with_eager_attention_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    encoder = Encoder.load(ModelConfig(name_or_path=str(tiny.m3(tmp_path / "m3", dropout=0.1))))
    encoder.use_attention("eager")
    set_up(encoder, TrainConfig(lora=LoraConfig(rank=2 if lora else 0, dropout=0.2)))
    encoder.train()
    quick: list[float] = []
    plain: list[float] = []

    def spy(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        quick.append(p)
        return values

    monkeypatch.setattr("train.dropout.dropout", spy)
    monkeypatch.setattr(torch, "dropout", lambda x, p, train: plain.append(p))
    ids, mask = encoder.pad([[5, 6, 7], [8, 9]])
    with QuickDropout():
        encoder(ids, mask, ("dense",))
    layers = encoder.backbone.config.num_hidden_layers
    assert quick.count(0.1) == 1 + 3 * layers
    assert (quick.count(0.2) > 0) is lora
    assert not plain
