"""The memory probe: what it counts, what it chooses, what it says."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bgetune.config import HEADS, LoraConfig, ModelConfig, TrainConfig
from bgetune.encoder import Encoder
from tests import tiny
from train import memory
from train.memory import (
    _BYTES_A_FROZEN_WEIGHT,
    _BYTES_A_TRAINED_WEIGHT,
    _bytes_a_token,
    _Kept,
    _rounded_down,
    host_memory,
    probe_micro_batch_tokens,
)
from train.model import set_up

GB = 10**9


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load(tiny.m3(tmp_path_factory.mktemp("m3")))


def load(folder: Path) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder))).train()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A machine with so much memory."""
    told = {"bytes": 4 * GB}
    monkeypatch.setattr(memory, "host_memory", lambda: told["bytes"])
    return told


def cost(encoder: Encoder, longest: int = 32, heads: Sequence[Any] = HEADS) -> float:
    return _bytes_a_token(encoder, heads, contextlib.nullcontext, longest)


def chosen(encoder: Encoder, longest: int = 32, heads: Sequence[Any] = HEADS, ranks: int = 1) -> int:
    return probe_micro_batch_tokens(encoder, heads, contextlib.nullcontext, longest, 0, ranks)


# -- what a token costs


def test_a_token_costs_more_in_a_longer_text(encoder: Encoder) -> None:
    encoder.use_attention("eager")  # it keeps a matrix a text; sdpa keeps none
    costs = [cost(encoder, longest) for longest in (8, 64, 256, 512)]
    assert costs == sorted(costs)
    assert costs[-1] > 2 * costs[0]
    encoder.use_attention("sdpa")


def test_a_token_costs_more_with_more_heads(encoder: Encoder) -> None:
    one, two, three = cost(encoder, 32, HEADS[:1]), cost(encoder, 32, HEADS[:2]), cost(encoder, 32, HEADS)
    assert one < two < three


def test_a_token_costs_at_least_its_states(encoder: Encoder) -> None:
    layers, width, numbers = 2, 16, 4
    assert cost(encoder, 64, HEADS[:1]) > 3 * layers * width * numbers


def test_a_token_costs_less_where_less_trains_or_is_kept(tmp_path: Path) -> None:
    folder = tiny.m3(tmp_path)
    configs = {
        "plain": TrainConfig(),
        "frozen": TrainConfig(freeze="encoder"),
        "checkpointed": TrainConfig(gradient_checkpointing=True),
        "adapters": TrainConfig(lora=LoraConfig(rank=2, target_modules=("query",))),
    }
    costs = {}
    for name, config in configs.items():
        encoder = load(folder)
        set_up(encoder, config)
        costs[name] = cost(encoder, 64)
    assert costs["frozen"] < costs["checkpointed"] < costs["plain"]
    assert costs["adapters"] < costs["plain"]


def test_what_comes_once_is_not_in_a_tokens_cost(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_bytes_of", lambda texts, *_: (10**6 + 700 * texts * 64, 10**9))
    assert cost(encoder, 64) == 700
    monkeypatch.setattr(memory, "_bytes_of", lambda texts, *_: (700 * texts * 64, 10**9 + 900 * texts * 64))
    assert cost(encoder, 64) == 900
    assert cost(encoder, 2000) == 900 * 64 / 2000  # two of the longest texts, however long


def test_copies_in_half_precision_are_no_cost_of_tokens(tmp_path: Path) -> None:
    """Autocast makes them once a step; a probe of few tokens would find them dear."""
    encoder = load(tiny.m3(tmp_path))
    bf16 = _bytes_a_token(encoder, HEADS[:1], lambda: torch.autocast("cpu", torch.bfloat16), 8)
    assert bf16 < cost(encoder, 8, HEADS[:1])


def test_the_probe_is_padded_as_batches_are(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[torch.Tensor] = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda ids, mask, heads: (masks.append(mask), forward(ids, mask, heads))[1])
    cost(encoder, 16)
    assert [mask.shape for mask in masks] == [(4, 16), (1, 16)]
    assert all((mask.sum(dim=1) == 15).all() for mask in masks)


def test_the_probe_counts_a_storage_once_and_weights_never() -> None:
    weight = torch.ones(8, 8, requires_grad=True)
    values = torch.ones(4, 8, requires_grad=True)
    kept = _Kept({weight.data_ptr()})
    with torch.autograd.graph.saved_tensors_hooks(kept.see, lambda tensor: tensor):
        out = (values @ weight).sigmoid()  # keeps values, weight and its own result
        (out[:2] * out[2:]).sum()  # two views of that result
    assert kept.total == (4 * 8 + 4 * 8) * 4


def test_the_probe_leaves_no_trace(encoder: Encoder) -> None:
    before = encoder.weights_hash()
    cost(encoder)
    assert encoder.training
    assert encoder.weights_hash() == before
    assert all(parameter.grad is None for parameter in encoder.parameters())


# -- what is chosen


def test_the_choice_is_memory_over_cost(encoder: Encoder, machine: dict[str, int]) -> None:
    weights = _BYTES_A_TRAINED_WEIGHT * sum(parameter.numel() for parameter in encoder.parameters())
    assert chosen(encoder) == _rounded_down((0.4 * 4 * GB - weights) / cost(encoder))
    assert chosen(encoder, ranks=2) == _rounded_down((0.4 * 2 * GB - weights) / cost(encoder))
    machine["bytes"] = 8 * GB
    assert chosen(encoder) == _rounded_down((0.4 * 8 * GB - weights) / cost(encoder))


def test_frozen_weights_take_less_room(tmp_path: Path, machine: dict[str, int]) -> None:
    encoder = load(tiny.m3(tmp_path))
    machine["bytes"] = 10 * 10**6
    encoder.backbone.requires_grad_(False)
    numbers = {
        on: sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad == on)
        for on in (True, False)
    }
    room = 0.4 * 10 * 10**6 - _BYTES_A_TRAINED_WEIGHT * numbers[True] - _BYTES_A_FROZEN_WEIGHT * numbers[False]
    assert room > 0
    assert chosen(encoder) == _rounded_down(room / cost(encoder))


@pytest.mark.parametrize("longest", [3, 256, 700])
def test_the_longest_text_always_fits(encoder: Encoder, machine: dict[str, int], longest: int) -> None:
    machine["bytes"] = 1000  # less than the weights alone
    assert chosen(encoder, longest) == max(longest, 256)


def test_the_choice_is_the_same_every_time(encoder: Encoder, machine: dict[str, int]) -> None:
    torch.manual_seed(1)
    first = chosen(encoder)
    torch.manual_seed(2)
    assert [chosen(encoder) for _ in range(3)] == [first] * 3


def test_the_log_says_what_was_chosen(
    encoder: Encoder, machine: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="bgetune"):
        tokens = chosen(encoder, ranks=2)
    (record,) = caplog.records
    said = re.fullmatch(
        r"train: micro_batch_tokens auto: ([\d,]+) tokens \((\d+) KB each; 40 % of the 2\.0 GB for this process, "
        r"less 0\.0 GB for weights and vectors; steps with more use gradient caching\)",
        record.getMessage(),
    )
    assert said is not None, record.getMessage()
    assert int(said[1].replace(",", "")) == tokens
    assert int(said[2]) == round(cost(encoder) / 1e3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, 1), (9.9, 9), (10.0, 10), (99.9, 99), (100.0, 100), (109.9, 100), (1234.5, 1200), (99999.0, 99000)],
)
def test_rounding_down_keeps_two_digits(value: float, expected: int) -> None:
    assert _rounded_down(value) == expected


# -- the machine


def test_host_memory_is_this_machines() -> None:
    assert 10**8 < host_memory() < 10**14


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000000\n", 10**6), ("max\n", None), ("9223372036854771712\n", None), (None, None)]
)
def test_a_containers_limit_counts_where_it_has_one(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int | None
) -> None:
    machine = memory.os.sysconf("SC_PAGE_SIZE") * memory.os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(Path, "is_file", lambda self: limit is not None and self.name == "memory.max")
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: limit)
    assert host_memory() == (machine if expected is None else expected)
