"""Before anything imports torch: one thread, for the tests' own models are so small that more make each step slower.

It is set in the environment, so that the programs that tests start have it too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """A program that plays another rank than the first is silent; the next test is not."""
    level = logging.getLogger("bgetune").level
    yield
    logging.getLogger("bgetune").setLevel(level)
