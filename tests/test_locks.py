"""A lock file: whose it is, how long one waits for it, and that it is free afterwards."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import pytest

from bgetune.locks import held


def test_the_second_is_told_who_holds_it_and_the_next_has_it(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with held(lock) as first, held(lock) as second:
        assert first is None
        assert second == str(os.getpid())
    assert lock.read_text() == ""
    with held(lock) as third:
        assert third is None


def test_it_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), held(tmp_path / ".lock"):
        raise ValueError("inside")
    with held(tmp_path / ".lock") as owner:
        assert owner is None


@pytest.mark.parametrize("patience", [5.0, math.inf])
def test_patience_is_rewarded(tmp_path: Path, patience: float) -> None:
    lock, begun = tmp_path / ".lock", threading.Event()

    def hold_for_a_while() -> None:
        with held(lock):
            begun.set()
            time.sleep(0.3)

    other = threading.Thread(target=hold_for_a_while)
    other.start()
    begun.wait()
    with held(lock, patience) as owner:
        assert owner is None
    other.join()


def test_impatience_is_over_in_time(tmp_path: Path) -> None:
    with held(tmp_path / ".lock"):
        start = time.monotonic()
        with held(tmp_path / ".lock", patience=0.3) as owner:
            assert owner is not None
        assert 0.3 <= time.monotonic() - start < 3
