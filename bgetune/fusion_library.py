"""Fusions out of the library ranx (Bassani & Romelli, CIKM 2022, doi 10.1145/3511808.3557207).

Shapes: Q queries, C candidates of a query.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bgetune.errors import UserError, did_you_mean

FUSIONS = ("anz", "bordafuse", "isr", "log_isr", "logn_isr", "max", "med", "min", "mnz", "sum")
"""ranx's names. Left out: what learns from judgements or wants weights or a parameter of its own; condorcet, whose
order of ties changes from run to run; rrf, which is always measured."""

_INSTALL = 'install it with: pip install "bgetune[fusion]"'


def check_fusions(names: Sequence[str]) -> None:
    """Refuse what cannot be computed, before hours of training.

    Raises:
        UserError: an unknown name, one named twice, or ranx is not installed.
    """
    for i, name in enumerate(names):
        if name == "rrf":
            raise UserError("eval.fusions: rrf is always measured, as hybrid_rrf; leave it out")
        if name not in FUSIONS:
            raise UserError(f'eval.fusions: "{name}": use any of {", ".join(FUSIONS)}{did_you_mean(name, FUSIONS)}')
        if name in names[:i]:
            raise UserError(f"eval.fusions: {name} is named twice; name each fusion once")
    if names and importlib.util.find_spec("ranx") is None:
        raise UserError(f"eval.fusions: {', '.join(names)}: the package ranx is not installed; {_INSTALL}")


def library_fusion(name: str, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """One of ranx's fusions, over the scores of each retriever brought to 0 to 1 for each query ("min-max").

    Equal scores of one retriever rank by place, as in `fusion.reciprocal_rank`.

    Args:
        name: one of `FUSIONS`, or rrf.
        scores: retriever -> float [Q, C], the same candidates in the same places; -inf: not found.

    Returns:
        float32 [Q, C]; 0 where no retriever found anything.

    Raises:
        UserError: ranx is missing or broken.
    """
    found = {retriever: values for retriever, values in scores.items() if not np.isneginf(values).all()}
    fused = np.zeros(next(iter(scores.values())).shape, dtype=np.float32)
    if len(found) < 2:  # nothing to fuse, which ranx refuses
        return next((np.where(np.isneginf(v), 0.0, v).astype(np.float32) for v in found.values()), fused)
    with _ranx(name) as ranx:
        runs = [ranx.Run(_as_run(found[retriever])) for retriever in sorted(found)]
        results = ranx.fuse(runs, norm="min-max", method=name).run
    for query, passages in results.items():
        for place, score in passages.items():
            fused[int(query), int(place)] = score
    return fused


def _as_run(scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Query -> place -> score, without what was not found."""
    distinct = _apart(scores)
    found = ~np.isneginf(scores)
    return {
        str(i): dict(zip(map(str, np.flatnonzero(found[i]).tolist()), distinct[i, found[i]].tolist(), strict=True))
        for i in range(len(scores))
    }


def _apart(scores: np.ndarray) -> np.ndarray:
    """Float32 scores as float64, equal ones of a row made to fall from left to right by the least there is.

    ranx leaves the order of equal scores to an unstable sort.

    >>> apart = _apart(np.array([[0.5, 0.25, 0.5]], dtype=np.float32))[0]
    >>> bool(apart[0] > apart[2] > apart[1]), apart.astype(np.float32).tolist()
    (True, [0.5, 0.25, 0.5])
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1).astype(np.float64)
    places = np.broadcast_to(np.arange(ranked.shape[1]), ranked.shape)
    starts = np.ones(ranked.shape, dtype=bool)
    starts[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    nth = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)  # among its equals
    finite = np.where(np.isneginf(ranked), 0.0, ranked)
    apart = np.empty_like(ranked)
    np.put_along_axis(apart, order, finite - nth * np.spacing(np.maximum(np.abs(finite), 1e-200)), axis=1)
    return np.where(np.isneginf(scores), -np.inf, apart)


@contextmanager
def _ranx(name: str) -> Iterator[Any]:
    """ranx, run as the Python it is written in: to compile a fusion takes a minute, 1,000 queries a few seconds."""
    try:
        from numba import config

        before, config.DISABLE_JIT = config.DISABLE_JIT, 1
        try:
            import ranx
        finally:
            config.DISABLE_JIT = before
    except ImportError as error:
        raise UserError(f"eval.fusions: {name}: the package ranx cannot be loaded ({error}); {_INSTALL}") from None
    config.DISABLE_JIT = 1
    try:
        yield ranx
    finally:
        config.DISABLE_JIT = before
