"""Is a difference real? Paired comparison of two systems on the same queries.

Q queries, K comparisons, N resamples. All randomness comes from a seed; the same arrays and seed give the same bits.
Vectorised in blocks rather than by scipy's `permutation_test` and `bootstrap`, which hold [N, Q] at once;
the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

# Metric values that differ by less are equal: the same ranks summed in another order are no win.
TIE = 1e-9
# Numbers in one array of a resampling, of which there are three at once (8 bytes each: 32 MiB).
_BLOCK = 1 << 22
# Digits that a sum has whatever the order of its terms, which is the BLAS library's affair.
_DIGITS = 12
ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """Tuned less base over Q queries, in the metric's own unit."""

    abs: float
    """Mean difference."""
    rel: float | None
    """Mean difference over base's mean; None where base's mean is 0."""
    ci95: tuple[float, float]
    """95 % percentile bootstrap interval of the mean difference, queries resampled."""
    p: float
    """Two-sided p of the paired randomisation test."""
    p_t: float
    """Two-sided p of the paired t test; 1 for a single query, of which it can say nothing."""
    effect_size: float | None
    """Cohen's d of the differences (mean over standard deviation); None where all are the same and not 0."""
    won: int
    """Queries on which tuned scores higher."""
    lost: int
    """Queries on which tuned scores lower."""
    tied: int
    """The others."""
    p_holm: float | None = None
    """p corrected for the number of sets; None for a set by itself."""

    def to_row(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Comparison:
        return cls(**{**row, "ci95": tuple(row["ci95"])})


def compare(base: np.ndarray, tuned: np.ndarray, bootstrap_samples: int, permutations: int, seed: int) -> Comparison:
    """Compare two systems, paired by query.

    Args:
        base, tuned: float [Q], one metric for each query, in the same order; Q is at least 1.
        bootstrap_samples, permutations: resamples for the interval, sign flips for the test.
        seed: decides both.

    >>> c = compare(np.array([0.0, 0.5, 1.0, 0.2]), np.array([0.5, 1.0, 1.0, 0.7]), 1000, 1000, seed=0)
    >>> c.abs, c.won, c.lost, c.tied, c.p  # 2 of the 2**3 sign flips are as far from 0: all plus, all minus
    (0.375, 3, 0, 1, 0.25)
    """
    return compare_all(base[:, None], tuned[:, None], bootstrap_samples, permutations, seed)[0]


def compare_all(
    base: np.ndarray, tuned: np.ndarray, bootstrap_samples: int, permutations: int, seed: int
) -> list[Comparison]:
    """K comparisons over the same Q queries, resampled together: to draw takes longer than to sum.

    Args:
        base, tuned: float [Q, K].
    """
    assert base.shape == tuned.shape, (base.shape, tuned.shape)
    assert len(base) > 0
    differences = tuned.astype(np.float64) - base
    differences[np.abs(differences) < TIE] = 0.0
    intervals = bootstrap_intervals(differences, bootstrap_samples, np.random.default_rng([seed, 0]))
    ps = randomisation_ps(differences, permutations, np.random.default_rng([seed, 1]))
    return [
        _comparison(base[:, k], np.ascontiguousarray(differences[:, k]), intervals[k], ps[k]) for k in range(len(ps))
    ]


def _comparison(base: np.ndarray, differences: np.ndarray, ci95: tuple[float, float], p: float) -> Comparison:
    mean, base_mean = float(differences.mean()), float(base.mean())
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(
        abs=mean,
        rel=mean / base_mean if base_mean else None,
        ci95=ci95,
        p=p,
        p_t=t_test_p(differences),
        effect_size=effect_size(differences),
        won=won,
        lost=lost,
        tied=len(differences) - won - lost,
    )


def verdict(comparison: Comparison) -> str:
    """ "better" or "worse" only where the interval leaves out 0 and the randomisation test agrees.

    Both, because the percentile interval is too narrow for few queries: for a single one it is a point. Over several
    sets the test's p is Holm's.
    """
    low, high = comparison.ci95
    p = comparison.p if comparison.p_holm is None else comparison.p_holm
    if p >= ALPHA or low <= 0 <= high:
        return "no difference shown"
    return "better" if low > 0 else "worse"


def holm(ps: Sequence[float]) -> list[float]:
    """p of each of several tests, corrected so that any false alarm among them keeps to its level (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])  # 3 * .01; 2 * .03; the last may not be below the one before
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(ps), 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = highest
    return corrected


def _blocks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to `total`, each small enough that size * width numbers fit a block."""
    step = max(1, _BLOCK // width)
    for start in range(0, total, step):
        yield min(step, total - start)


def bootstrap_interval(differences: np.ndarray, samples: int, rng: np.random.Generator) -> tuple[float, float]:
    """That of one column, float64 [Q]."""
    return bootstrap_intervals(differences[:, None], samples, rng)[0]


def bootstrap_intervals(differences: np.ndarray, samples: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """2.5th and 97.5th percentile of the mean of Q differences drawn with replacement (Efron 1979), of each column.

    Args:
        differences: float64 [Q, K].
    """
    count = len(differences)
    means = []
    for size in _blocks(samples, max(differences.shape)):
        drawn = rng.integers(0, count, (size, count))
        drawn += count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means.append(times.astype(np.float64) @ differences / count)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0).round(_DIGITS) + 0.0  # no -0.0
    same = np.ptp(differences, axis=0) == 0
    low[same] = high[same] = differences[0, same]
    return list(zip(low.tolist(), high.tolist(), strict=True))


def randomisation_ps(differences: np.ndarray, permutations: int, rng: np.random.Generator) -> list[float]:
    """Two-sided p of Fisher's paired randomisation test on the mean (Smucker, Allan, Carterette, CIKM 2007), by column.

    Under the null each difference may as well have the other sign. Exact where all sign flips are no more than
    `permutations`; else sampled, with the observed one counted in, so that p is never 0 (Phipson, Smyth 2010).

    Args:
        differences: float64 [Q, K]; zeros do not matter.
    """
    count, columns = differences.shape
    ps = [_exact_p(differences[:, k], permutations) for k in range(columns)]
    sampled = [k for k, p in enumerate(ps) if p is None]
    if sampled:
        of_these = differences[:, sampled]
        reached, hits = _reached(of_these), np.zeros(len(sampled), dtype=np.int64)
        for size in _blocks(permutations, max(differences.shape)):
            octets = rng.integers(0, 256, (size, -(-count // 8)), dtype=np.uint8)
            sums = _flipped_sums(of_these, np.unpackbits(octets, axis=1, count=count))
            hits += (np.abs(sums) >= reached).sum(axis=0)
        for k, hit in zip(sampled, hits.tolist(), strict=True):
            ps[k] = (hit + 1) / (permutations + 1)
    return [p for p in ps if p is not None]


def _exact_p(differences: np.ndarray, permutations: int) -> float | None:
    """p by all sign flips of [Q] differences; None where they are too many."""
    moved = differences[differences != 0][:, None]
    if len(moved) == 0:
        return 1.0
    if 2 ** len(moved) > min(permutations, _BLOCK >> 6):
        return None
    every = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
    return float((np.abs(_flipped_sums(moved, every)) >= _reached(moved)).mean())


def _reached(differences: np.ndarray) -> np.ndarray:
    """[K] what a sum must come to. Sums in another order differ in the last bits: what equals ours has reached it."""
    return np.abs(differences.sum(axis=0)) - 1e-10 * np.abs(differences).sum(axis=0)


def _flipped_sums(differences: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Sums [N, K] of differences [Q, K] for each row of `flips` [N, Q], 1 where the sign is turned."""
    return differences.sum(axis=0) - 2.0 * (flips.astype(np.float64) @ differences)


def _spread(differences: np.ndarray) -> float:
    """Standard deviation with Q - 1; 0 where it is nothing but rounding."""
    if len(differences) < 2:
        return 0.0
    spread = float(differences.std(ddof=1))
    return spread if spread > 1e-12 * float(np.abs(differences).max()) else 0.0


def t_test_p(differences: np.ndarray) -> float:
    """Two-sided p of the paired t test (Student's) on float64 [Q]."""
    if len(differences) < 2 or not differences.any():
        return 1.0
    if _spread(differences) == 0:
        return 0.0  # t is infinite
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def effect_size(differences: np.ndarray) -> float | None:
    """Cohen's d for paired samples (d_z), mean over standard deviation of float64 [Q]."""
    spread = _spread(differences)
    if spread == 0:
        return None if differences.any() else 0.0
    return float(differences.mean()) / spread
