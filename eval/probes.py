"""What a model should not forget: how alike sentences are, what texts are about. Measured, and compared by resampling.

Texts are encoded in the role of passages: neither side asks, and BGE puts no instruction before a passage.
Shapes: N items (pairs, or test texts), D width of a vector, S resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.encode import encode
from bgetune.encoder import Encoder
from bgetune.index.exact import pair_scores

from .probe_files import ClassificationProbe, Probe, SimilarityProbe, read_probe
from .significance import bootstrap_interval

__all__ = [
    "ClassificationProbe",
    "Probe",
    "ProbeValues",
    "SimilarityProbe",
    "compare_probes",
    "measure_probe",
    "read_probe",
    "spearman",
]

_BLOCK = 1 << 15  # numbers in each of the arrays of a block of resamples; more would leave the processor's cache


@dataclass(frozen=True)
class ProbeValues:
    """What one system makes of a probe."""

    items: np.ndarray
    """float64 [N]: the similarity of each pair; or 1 for each test text whose label was found, else 0."""
    value: float
    """Spearman's correlation with the gold scores; or accuracy."""


def measure_probe(probe: Probe, encoder: Encoder, config: JobConfig) -> ProbeValues:
    """Encode the probe's texts by the dense head and score them.

    Similarity is the model's own (`model.similarity`). Labels are learned by a logistic regression on the vectors as
    they are, with scikit-learn's defaults as in MTEB (L2, C = 1); it has no randomness.

    Raises:
        UserError: a text is longer than the maximum and `model.overlong` is `error`.
    """

    def vectors(texts: Texts, part: str) -> np.ndarray:
        return encode(encoder, texts, "passage", config, f"{probe.name} {part}").vectors

    if isinstance(probe, SimilarityProbe):
        first, second = vectors(probe.first, "first sentences"), vectors(probe.second, "second sentences")
        own = np.arange(len(probe))[:, None]
        items = pair_scores(first, second, own, encoder.spec.similarity)[:, 0].astype(np.float64)
        return ProbeValues(items, spearman(probe.gold, items))
    found = _classified(vectors(probe.train, "train"), probe.train_labels, vectors(probe.test, "test"))
    items = (found == np.array(probe.test_labels)).astype(np.float64)
    return ProbeValues(items, float(items.mean()))


def _classified(train: np.ndarray, labels: list[str], test: np.ndarray) -> np.ndarray:
    """The label, a string, of each of the vectors [N, D] in `test`."""
    from sklearn.linear_model import LogisticRegression

    # MTEB stops after 100 steps; 1000 let vectors of any length come to the end
    return LogisticRegression(max_iter=1000).fit(train.astype(np.float64), labels).predict(test.astype(np.float64))


def compare_probes(probe: Probe, values: Mapping[str, ProbeValues], samples: int, seed: int) -> dict[str, Any]:
    """The report's row: every system's value, and what each but the first gains on the first.

    The 95 % interval is a percentile bootstrap, items resampled, both systems on the same ones. It tells of other
    items, not of other training texts: the classifier is not trained again. The verdict is the interval's.

    Args:
        values: system -> its values; the first is the reference.
        samples, seed: of the bootstrap.
    """
    (_, reference), *others = values.items()
    gain, verdict = {}, {}
    for name, other in others:
        low, high = _interval(probe, reference.items, other.items, samples, seed)
        gain[name] = {"abs": other.value - reference.value, "ci95": [low, high]}
        verdict[name] = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return {
        "name": probe.name,
        "kind": probe.kind,
        "metric": probe.metric,
        "n": len(probe),
        "values": {name: found.value for name, found in values.items()},
        "gain": gain,
        "verdict": verdict,
    }


def _interval(probe: Probe, reference: np.ndarray, other: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    draw = np.random.default_rng([seed, 0])
    if isinstance(probe, ClassificationProbe):
        return bootstrap_interval(other - reference, samples, draw)
    if np.array_equal(reference, other):
        return 0.0, 0.0
    gold, before, after = _Ranked(probe.gold), _Ranked(reference), _Ranked(other)
    found = []
    for counts in _resampled(len(probe), samples, draw):
        ranks = gold.ranks(counts)
        found.append(_correlation(ranks, after.ranks(counts), counts))
        found[-1] -= _correlation(ranks, before.ranks(counts), counts)
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return float(low), float(high)


def spearman(gold: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's rank correlation of two float arrays [N], equal values at their mean rank.

    0 where all of one are equal: such scores order nothing. Else scipy's `spearmanr`.

    >>> round(spearman(np.array([1.0, 2.0, 3.0, 3.0]), np.array([0.1, 0.4, 0.2, 0.9])), 4)
    0.6325
    >>> spearman(np.array([1.0, 2.0]), np.array([0.5, 0.5]))
    0.0
    """
    once = np.ones((1, len(gold)))
    return float(_correlation(_Ranked(gold).ranks(once), _Ranked(scores).ranks(once), once)[0])


class _Ranked:
    """Sorted once: the mean ranks of a resample are then a running sum of its counts, and nothing is sorted again."""

    def __init__(self, values: np.ndarray) -> None:
        self._order = np.argsort(values, kind="stable")
        _, self._group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        self._starts = np.cumsum(sizes) - sizes

    def ranks(self, counts: np.ndarray) -> np.ndarray:
        """float64 [S, N]: each item's mean rank less (N + 1) / 2, in samples that hold it `counts` [S, N] times.

        (N + 1) / 2 is the mean of a sample's ranks, whatever is tied.
        """
        of_group = np.add.reduceat(counts.take(self._order, axis=1), self._starts, axis=1)
        mean_ranks = np.cumsum(of_group, axis=1) - (of_group - 1) / 2
        return (mean_ranks - (counts.shape[1] + 1) / 2).take(self._group, axis=1)


def _resampled(count: int, samples: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """float64 [s, N], `samples` rows in all: how often each of N items is in a sample of N with replacement."""
    step = max(1, _BLOCK // count)
    for start in range(0, samples, step):
        size = min(step, samples - start)
        drawn = draw.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _correlation(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson's correlation [S] of centred ranks [S, N] with weights `counts`; 0 where a row has one value."""
    x, y = counts * first, counts * second
    scale = np.sqrt(np.einsum("sn,sn->s", x, first) * np.einsum("sn,sn->s", y, second))
    product = np.einsum("sn,sn->s", x, second)
    # ranks are multiples of 1/2, exact in float64: what varies at all has a sum of squares far above 0
    return np.divide(product, scale, out=np.zeros_like(scale), where=scale > 0)
