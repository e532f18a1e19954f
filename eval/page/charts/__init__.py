"""The report's pictures: pure functions from figures to one `<figure>` with an SVG; the same input, the same bytes."""

from __future__ import annotations

from .axes import Gain
from .bars import BarGroup, bars
from .differences import Counts, differences
from .gains import GainRow, gains
from .heatmap import heatmap, less
from .lines import Mark, lines
from .scatter import Dot, scatter

__all__ = [
    "BarGroup",
    "Counts",
    "Dot",
    "Gain",
    "GainRow",
    "Mark",
    "bars",
    "differences",
    "gains",
    "heatmap",
    "less",
    "lines",
    "scatter",
]
