"""A corpus that stays on disk reads as the same file read into memory does."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune import corpus as corpus_module
from bgetune.corpus import Corpus, text_hash
from bgetune.data import Texts, read_texts
from tests.jobs import write_jsonl

ROWS: list[dict[str, Any]] = [
    {"_id": "plain", "title": "A title", "text": "and a text"},
    {"_id": "none", "title": None, "text": "the title is null"},
    {"_id": "absent", "text": "no title at all"},
    {"_id": "only-title", "title": "A title alone", "text": ""},
    {"_id": "東京/1", "title": "Ünïcode", "text": 'naïve café 🫀 \u2028 \x85 \r of 東京 \\n "quoted"'},
    {
        "_id": "known",
        "title": "",
        "text": "of a document",
        "metadata": {"document": "a.md", "section": ["x"], "start": 3},
    },
    {"_id": "copy", "title": "", "text": "A  TITLE\tand a text "},
]


def write(path: Path, rows: Sequence[dict[str, Any]], ascii_only: bool = False) -> Path:
    path.write_bytes("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode())
    return path


def opened(folder: Path, rows: Sequence[dict[str, Any]] = ROWS, **options: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    return Corpus.open(write(folder / "corpus.jsonl", rows, **options), folder / "vectors")


def check(found: Corpus, rows: Sequence[int]) -> None:
    """Against what reads the whole file."""
    whole = read_texts(found.source, with_titles=True)
    taken, expected = found.take(rows), whole.take(rows)
    for name in ("ids", "texts", "titles", "source", "lines"):
        assert getattr(taken, name) == getattr(expected, name), name
    assert taken.full_texts() == expected.full_texts()
    assert all(taken.where(i) == expected.where(i) for i in range(len(rows)))
    assert [found.text(row) for row in rows] == expected.full_texts()
    assert found.rows_of(expected.ids) == list(rows)
    assert len(found) == len(found.ids) == len(whole)
    assert list(found.ids) == whole.ids
    assert found.ids[1:5:2] == whole.ids[1:5:2]
    assert all(text_id in found.ids for text_id in whole.ids)
    assert found.text_hashes.tolist() == [text_hash(text) for text in whole.full_texts()]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_it_reads_as_the_whole_file_does(tmp_path: Path, ascii_only: bool) -> None:
    found = opened(tmp_path, ascii_only=ascii_only)
    check(found, range(len(ROWS)))
    check(found, [4, 0, 5])
    check(found, [])
    assert found.take(np.array([4])).lines == [5]


def test_what_is_not_there(tmp_path: Path) -> None:
    found = opened(tmp_path)
    assert found.row_of("nobody") is None
    for stranger in ("nobody", "", "PLAIN", 0, None):
        assert stranger not in found.ids
    with pytest.raises(AssertionError, match="passages of the corpus alone"):
        found.rows_of(["plain", "nobody"])
    with pytest.raises(IndexError):
        found.text(len(ROWS))


def test_equal_texts_have_equal_hashes(tmp_path: Path) -> None:
    found = opened(tmp_path)
    assert found.text_hashes[0] == found.text_hashes[6]
    assert len(set(found.text_hashes.tolist())) == len(ROWS) - 1


@pytest.mark.parametrize("hashed", [lambda text: 7, len, lambda text: 2**64 - 1 - len(text) % 2])
def test_ids_whose_hashes_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: Any) -> None:
    monkeypatch.setattr(corpus_module, "_hash", hashed)
    check(opened(tmp_path), range(len(ROWS)))
    for stranger in ("nobody", "plein", ""):  # the first two have the hash of a passage's id under each
        assert stranger not in Corpus.open(tmp_path / "corpus.jsonl", tmp_path / "vectors").ids


def test_the_index_is_made_once_and_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path)
    index = list((tmp_path / "vectors").iterdir())
    assert len(index) == 1
    scan = corpus_module._scan
    monkeypatch.setattr(corpus_module, "_scan", None)  # nothing can be read
    check(opened(tmp_path), range(len(ROWS)))
    with pytest.raises(TypeError):
        opened(tmp_path, [*ROWS, {"_id": "new", "text": "one more"}])
    monkeypatch.setattr(corpus_module, "_scan", scan)
    same_size = [{**ROWS[0], "_id": "plane"}, *ROWS[1:]]
    os.utime(first.source, (0, 0))
    changed = opened(tmp_path, same_size)
    assert changed.source.stat().st_size == first.source.stat().st_size
    check(changed, range(len(ROWS)))
    assert "plain" not in changed.ids


def test_a_half_made_index_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(source: Path) -> Any:
        yield np.zeros(3, dtype=np.int64)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(corpus_module, "_scan", half)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    assert list((tmp_path / "vectors").iterdir()) == []
    check(opened(tmp_path), range(len(ROWS)))


def test_two_corpora_at_once(tmp_path: Path) -> None:
    """The order by hash is kept for one of them; that of the other must not be taken for it."""
    one, other = opened(tmp_path / "one"), opened(tmp_path / "other", ROWS[::-1])
    for _ in range(2):
        assert one.rows_of(["plain", "copy"]) == [0, 6]
        assert other.rows_of(["plain", "copy"]) == [6, 0]


letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(letters, letters), min_size=1, max_size=8), st.integers(0, 999))
def test_any_texts(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]], seed: int) -> None:
    rows = [{"_id": f"{i}", "title": title, "text": f"x{text}"} for i, (title, text) in enumerate(texts)]
    path = write_jsonl(tmp_path_factory.mktemp("any") / "corpus.jsonl", rows)
    found = Corpus.open(path, path.parent)
    check(found, np.random.default_rng(seed).permutation(len(rows)).tolist())


def test_it_serves_where_texts_in_memory_serve(tmp_path: Path) -> None:
    """`TextSource`: what encodes takes either."""
    found = opened(tmp_path)
    in_memory: Texts = read_texts(found.source, with_titles=True)
    assert found.take(range(2, 5)).full_texts() == in_memory.take(range(2, 5)).full_texts()
    assert found.source == in_memory.source
