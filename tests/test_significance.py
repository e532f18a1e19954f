"""Significance: exact enumeration, scipy, a simulated null, and the inputs that break formulas."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy import stats

from eval.significance import (
    Comparison,
    bootstrap_intervals,
    compare,
    compare_all,
    randomisation_ps,
    verdict,
)


def compared(
    base: list[float] | np.ndarray, tuned: list[float] | np.ndarray, n: int = 2000, seed: int = 0
) -> Comparison:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compare(np.asarray(base, dtype=float), np.asarray(tuned, dtype=float), n, n, seed)


def pair(queries: int, gain: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.random(queries)
    return base, base + gain + rng.normal(0, 0.2, queries)


def mean_difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return np.mean(x - y, axis=axis)


@pytest.mark.parametrize("seed", range(5))
def test_randomisation_is_exact_for_few_queries(seed: int):
    differences = np.random.default_rng(seed).normal(0.3, 1, 9).round(1)  # rounded, so that sums tie
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=9)]
    brute = np.mean([total >= abs(differences.sum()) - 1e-9 for total in sums])
    assert randomisation_ps(differences[:, None], 1000, np.random.default_rng(0)) == [pytest.approx(brute)]
    by_scipy = stats.permutation_test(
        (differences, np.zeros(9)), mean_difference, permutation_type="samples", n_resamples=1000, vectorized=True
    )
    assert brute == pytest.approx(by_scipy.pvalue)


def test_randomisation_agrees_with_scipy_where_it_samples():
    base, tuned = pair(60, 0.04, seed=3)
    ours = compared(base, tuned, 10_000)
    theirs = stats.permutation_test(
        (tuned, base), mean_difference, permutation_type="samples", n_resamples=9999, vectorized=True,
        rng=np.random.default_rng(1), batch=1000,
    )  # fmt: skip
    assert 0.01 < ours.p < 0.99
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_interval_and_t_agree_with_scipy():
    base, tuned = pair(200, 0.05)
    ours = compared(base, tuned, 10_000)
    theirs = stats.bootstrap(
        (tuned - base,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1), batch=1000
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.ci95 == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    assert ours.p_t == pytest.approx(stats.ttest_rel(tuned, base).pvalue)
    differences = tuned - base
    assert ours.effect_size == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert ours.abs == pytest.approx(differences.mean())
    assert ours.rel == pytest.approx(differences.mean() / base.mean())
    assert (ours.won, ours.lost, ours.tied) == ((differences > 0).sum(), (differences < 0).sum(), 0)


def test_p_is_uniform_under_a_true_null():
    rng = np.random.default_rng(0)
    values = [randomisation_ps(rng.normal(0, 1, (30, 1)), 200, rng)[0] for _ in range(500)]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(values) <= 0.05) < 0.09


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        base, tuned = pair(80, 0.1, seed)
        low, high = compared(base, tuned, 400).ci95
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 200 <= 0.99


def columns(queries: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Comparisons of all kinds side by side: a gain, none, all equal, the same everywhere, on four queries."""
    base, better = pair(queries, 0.05)
    few = base.copy()
    few[:4] += [0.2, 0.1, -0.3, 0.4]
    tuned = [better, pair(queries, 0.0, seed=7)[1], base, base + 0.2, few]
    return np.stack([base] * len(tuned), axis=1), np.stack(tuned, axis=1)


def test_many_together_are_what_each_is_alone():
    base, tuned = columns()
    together = compare_all(base, tuned, 3000, 3000, 5)
    for k, found in enumerate(together):
        assert found == compare(base[:, k], tuned[:, k], 3000, 3000, 5)
    assert together[2].ci95 == (0, 0)
    assert together[4].p == 10 / 16  # of the four that differ all signs are tried


def test_the_interval_is_that_of_a_plain_loop():
    differences = np.random.default_rng(2).normal(0.1, 1, (40, 3))
    rng = np.random.default_rng(9)
    means = [differences[drawn].mean(axis=0) for drawn in rng.integers(0, 40, (300, 40))]
    expected = np.percentile(means, [2.5, 97.5], axis=0).T
    np.testing.assert_allclose(bootstrap_intervals(differences, 300, np.random.default_rng(9)), expected, atol=1e-12)


def test_p_is_that_of_a_plain_loop():
    differences = np.random.default_rng(2).normal(0.2, 1, (40, 3))
    rng = np.random.default_rng(9)
    hits = np.zeros(3)
    for flips in np.unpackbits(rng.integers(0, 256, (300, 5), dtype=np.uint8), axis=1):
        hits += np.abs((differences * np.where(flips, -1, 1)[:, None]).sum(axis=0)) >= np.abs(differences.sum(axis=0))
    assert randomisation_ps(differences, 300, np.random.default_rng(9)) == pytest.approx((hits + 1) / 301)


def test_all_equal():
    same = compared([0.1, 0.5, 0.7], [0.1, 0.5, 0.7])
    assert (same.abs, same.rel, same.ci95, same.p, same.p_t, same.effect_size) == (0, 0, (0, 0), 1, 1, 0)
    assert (same.won, same.lost, same.tied) == (0, 0, 3)
    assert verdict(same) == "no difference shown"


def test_rounding_is_no_win():
    assert compared([0.1 + 0.2, 1.0], [0.3, 1.0]).tied == 2


def test_the_same_gain_everywhere():
    gain = compared([0.1] * 20, [0.3] * 20)
    assert gain.ci95 == pytest.approx((0.2, 0.2))
    assert gain.p == pytest.approx(1 / 2001)  # never 0
    assert (gain.p_t, gain.effect_size) == (0, None)
    assert verdict(gain) == "better"


@pytest.mark.parametrize("tuned", [0.0, 0.4, 0.9])
def test_one_query_shows_nothing(tuned: float):
    alone = compared([0.4], [tuned])
    assert (alone.p, alone.p_t) == (1, 1)
    assert alone.ci95 == (alone.abs, alone.abs)
    assert verdict(alone) == "no difference shown"


def test_base_of_zero_has_no_relative_gain_and_rows_are_strict_json():
    row = compared([0.0, 0.0], [0.5, 0.0]).to_row()
    assert row["rel"] is None
    json.dumps(row, allow_nan=False)


def test_same_seed_same_bits_and_another_seed_is_near():
    base, tuned = pair(100, 0.03)
    first = compared(base, tuned, seed=4)
    assert first == compared(base, tuned, seed=4)
    other = compared(base, tuned, seed=5)
    assert other.ci95 != first.ci95
    assert other.ci95 == pytest.approx(first.ci95, abs=0.01)


def test_swapping_the_systems_turns_the_sign():
    base, tuned = pair(100, 0.03)
    there, back = compared(base, tuned, 10_000), compared(tuned, base, 10_000)
    assert back.abs == -there.abs
    assert (back.won, back.lost) == (there.lost, there.won)
    assert back.p == pytest.approx(there.p, abs=0.02)
    assert back.p_t == pytest.approx(there.p_t)


def test_verdicts_on_a_better_a_worse_and_an_equal_model():
    seeds = range(20)
    assert all(verdict(compared(*pair(200, 0.1, s), 500)) == "better" for s in seeds)
    assert all(verdict(compared(*pair(200, -0.1, s), 500)) == "worse" for s in seeds)
    assert sum(verdict(compared(*pair(200, 0.0, s), 500)) == "no difference shown" for s in seeds) >= 18


def test_a_large_test_split_is_quick_and_lean():
    base, tuned = pair(1200, 0.0)
    start = time.process_time()
    compared(base, tuned, 10_000)
    assert time.process_time() - start < 2
    tracemalloc.start()
    compared(base, tuned, 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20
