"""Packing by token count: nothing lost, the budget kept, the cost the least there is, little padding."""

from __future__ import annotations

import doctest
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune import batching
from bgetune.batching import by_length, pack, padding_share

some_lengths = st.lists(st.integers(1, 512), max_size=60)
budgets = st.integers(1, 4096)


def test_doctests():
    result = doctest.testmod(batching)
    assert result.attempted > 0
    assert result.failed == 0


@settings(max_examples=300, deadline=None)
@given(some_lengths, budgets)
def test_every_text_once_and_the_budget_kept(lengths, budget):
    batches = pack(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(lengths, reverse=True)  # the longest first, so that memory peaks at once


@settings(max_examples=100, deadline=None)
@given(some_lengths, budgets)
def test_the_order_is_one_and_only(lengths, budget):
    assert [i for batch in pack(lengths, budget) for i in batch] == by_length(lengths)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Every way to cut a set into parts, sorted or not: Bell(n) of them."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for parts in partitions(rest):
        yield [[first], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [first, *part], *parts[i + 1 :]]


def cost(batches: list[list[int]], lengths: list[int], overhead: int) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) + overhead for batch in batches)


def fits(batches: list[list[int]], lengths: list[int], budget: int) -> bool:
    return all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=7), st.integers(50, 2000), st.sampled_from([16, 64, 128]))
def test_no_partition_of_any_kind_is_cheaper(lengths, budget, overhead):
    possible = [parts for parts in partitions(list(range(len(lengths)))) if fits(parts, lengths, budget)]
    least = min(cost(parts, lengths, overhead) for parts in possible)
    assert cost(batching._cheapest(lengths, budget, overhead), lengths, overhead) == least


@settings(max_examples=200, deadline=None)
@given(some_lengths, budgets)
def test_the_price_of_a_batch_is_halved_only_for_padding(lengths, budget):
    batches = pack(lengths, budget)
    prices = [128, 64, 32, 16]
    answers = [batching._cheapest(lengths, budget, price) for price in prices]
    good = [answer for answer in answers if padding_share(lengths, answer) < 0.10]
    assert batches == (good[0] if good else answers[-1])


def skewed(count: int, seed: int) -> list[int]:
    """Most texts short, median 20, one in twenty at the model's limit of 512."""
    draw = np.random.default_rng(seed)
    short = np.clip(draw.lognormal(np.log(19), 0.6, count), 3, 512)
    return np.where(draw.random(count) < 0.05, 512, short).astype(int).tolist()


def queries_and_code(count: int, seed: int) -> list[int]:
    """As in the quickstart: a third queries of a dozen tokens, the rest functions of 40 to 256."""
    draw = np.random.default_rng(seed)
    queries = np.clip(draw.lognormal(np.log(12), 0.4, count // 3), 5, 64)
    code = np.clip(draw.lognormal(np.log(110), 0.6, count - count // 3), 40, 256)
    return np.concatenate([queries, code]).astype(int).tolist()


@pytest.mark.parametrize("count", [48, 64, 96, 128, 256])
@pytest.mark.parametrize("lengths_of", [skewed, queries_and_code])
def test_padding_stays_under_a_tenth(lengths_of, count):
    for seed in range(20):
        lengths = lengths_of(count, seed)
        share = padding_share(lengths, pack(lengths, budget=8192))
        assert share < 0.10, (seed, share)
        # what a peer does: every text of the batch padded to its longest
        assert padding_share(lengths, [list(range(count))]) > 2 * share


def test_padding_share_counts_what_is_computed():
    assert padding_share([10, 2, 2], [[0], [1, 2]]) == 0.0
    assert padding_share([10, 2, 2], [[0, 1, 2]]) == pytest.approx(16 / 30)
    assert padding_share([], []) == 0.0
