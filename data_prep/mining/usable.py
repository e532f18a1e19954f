"""Which of the sources asked for the model at hand can serve."""

from __future__ import annotations

import logging
from dataclasses import replace

from bgetune.config import Head
from bgetune.config_data import MineConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError

log = logging.getLogger("bgetune")


def trained_heads(encoder: Encoder) -> tuple[Head, ...]:
    """Heads with weights: one that is asked for and that no training has made yet has none."""
    return tuple(head for head in encoder.heads if head not in encoder.absent_heads)


def usable(settings: MineConfig, heads: tuple[Head, ...], more_rounds: bool) -> MineConfig:
    """The settings, sources by name, without those that the model cannot serve yet and a later round will.

    Args:
        heads: the model's, with weights.

    Raises:
        UserError: a signal needs a head that the model lacks, or several where it has one.
    """
    lacking = [source for source in settings.sources if not _serves(source, heads)]
    rest = {source: share for source, share in settings.sources.items() if source not in lacking}
    if lacking and more_rounds and rest:
        log.warning("mine: %s left out of this round: the model has no such head yet", ", ".join(lacking))
        return usable(replace(settings, sources=rest), heads, more_rounds)
    asked = [("mine.sources", source) for source in lacking]
    asked += [("mine.agreement", signal) for signal in settings.agreement if not _serves(signal, heads)]
    if settings.teacher.kind == "hybrid" and len(heads) == 1:
        asked.append(("mine.teacher.kind", "hybrid"))
    for option, signal in asked:
        needs = "more heads than dense" if signal == "hybrid" else f"a {signal} head, and it has none with weights"
        raise UserError(
            f"{option}: {signal}: needs {needs}; use dense or bm25, or a model that has been trained for it"
        )
    # results do not depend on the order in which sources are written
    return replace(settings, sources=dict(sorted(settings.sources.items())))


def _serves(signal: str, heads: tuple[Head, ...]) -> bool:
    """
    >>> _serves("hybrid", ("dense",)), _serves("bm25", ("dense",)), _serves("sparse", ("dense", "sparse"))
    (False, True, True)
    """
    if signal == "hybrid":
        return len(heads) > 1
    return signal in ("bm25", "random", *heads)
