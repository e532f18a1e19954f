"""Dense indexes on disk: whole and the right one, or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import logging

import faiss
import numpy as np
import pytest

from bgetune.errors import UserError
from bgetune.index.dense import DenseIndex
from bgetune.index.exact import exact_search
from bgetune.index.stored import load_index, save_index
from bgetune.index.tune import Tuned, tune

VECTORS = np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32)
KINDS = ["Flat", "IVF8,Flat", "HNSW8", "IVF8,PQ4x4fs", "PCA4,IVF8,SQ8"]


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("factory", KINDS)
def test_loaded_answers_as_it_did(tmp_path, factory, similarity):
    index = DenseIndex.build(VECTORS, similarity, factory)
    tuned = tune(index, VECTORS[:30], exact_search(VECTORS[:30], VECTORS, similarity, 9)[1], 9, 0.9)
    save_index(tmp_path / "a.faiss", index, "key", tuned)
    again = load_index(tmp_path / "a.faiss", VECTORS, similarity, "key")
    assert again is not None
    assert len(again) == 800
    assert again.wider == tuned.wider
    for ours, theirs in zip(index.search(VECTORS[:50], 9), again.search(VECTORS[:50], 9), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_index_of_codes_keeps_how_much_is_re_scored(tmp_path):
    index = DenseIndex.build(VECTORS, "cosine", "IVF8,PQ4x4fs")
    save_index(tmp_path / "a.faiss", index, "key", Tuned("nprobe", 4, 0.9, 1.0, wider=16))
    again = load_index(tmp_path / "a.faiss", VECTORS, "cosine", "key")
    assert again is not None
    assert again.wider == 16


def test_two_saves_give_the_same_bytes(tmp_path):
    for name, milliseconds in (("a", 1.0), ("b", 2.0)):
        index = DenseIndex.build(VECTORS, "cosine", "IVF8,Flat")
        save_index(tmp_path / name, index, "key", Tuned("nprobe", 4, 0.9, milliseconds))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def saved(tmp_path):
    path = tmp_path / "a.faiss"
    save_index(path, DenseIndex.build(VECTORS, "cosine"), "key")
    assert load_index(path, VECTORS, "cosine", "key") is not None
    return path


def test_absent_torn_and_foreign_files_are_absent(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="bgetune")
    assert load_index(tmp_path / "none", VECTORS, "cosine", "key") is None
    path = saved(tmp_path)
    assert load_index(path, VECTORS, "cosine", "another key") is None
    assert load_index(path, VECTORS, "dot", "key") is None
    assert load_index(path, VECTORS[:5], "cosine", "key") is None
    assert caplog.text.count("is not what was asked for") == 3
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:500] + b"?" + whole[501:]):
        path.write_bytes(damaged)
        assert load_index(path, VECTORS, "cosine", "key") is None
    assert caplog.text.count("is not whole") == 4
    path.unlink()
    assert load_index(path, VECTORS, "cosine", "key") is None


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", "null"])
def test_a_damaged_note_is_no_index(tmp_path, note):
    path = saved(tmp_path)
    path.with_name("a.faiss.json").write_text(note)
    assert load_index(path, VECTORS, "cosine", "key") is None


def test_what_this_faiss_cannot_read_is_one_line(tmp_path):
    path = saved(tmp_path)
    note = json.loads(path.with_name("a.faiss.json").read_text())
    path.write_bytes(b"from the future")
    note["sha256"] = hashlib.sha256(b"from the future").hexdigest()
    path.with_name("a.faiss.json").write_text(json.dumps(note))
    with pytest.raises(UserError, match=r"a\.faiss: this FAISS \(.*\) cannot read it; remove it"):
        load_index(path, VECTORS, "cosine", "key")


def test_a_full_disk_leaves_the_old_index(tmp_path, monkeypatch):
    path = saved(tmp_path)

    def full(index, writer):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(OSError, match="No space"):
        save_index(path, DenseIndex.build(VECTORS[:10], "cosine"), "new")
    monkeypatch.undo()
    assert load_index(path, VECTORS, "cosine", "key") is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.faiss", "a.faiss.json"]
