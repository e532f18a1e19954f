"""Encoding in shards: the same as in one piece, whole or absent, checked when read, shared by processes."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune import files
from bgetune.config import HEADS, JobConfig
from bgetune.corpus import Corpus
from bgetune.data import Texts, read_texts
from bgetune.encode import EncodedShards, encode, encode_shards
from bgetune.encoded import Encoded, RowPieces, Writer
from bgetune.encoder import Encoder
from tests import tiny
from tests.by_hand import dicts, load, matrices
from tests.jobs import hashes

CONFIG = JobConfig(encode_precision="fp32", encode_batch_tokens=64, encode_shard_texts=16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load(tiny.m3(tmp_path_factory.mktemp("m3")))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return read_texts(tiny.domain(tmp_path_factory.mktemp("domain")) / "corpus.jsonl", with_titles=True)


@pytest.fixture(scope="module")
def undisturbed(encoder: Encoder, texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards, 16 texts each but the last."""
    cache = tmp_path_factory.mktemp("undisturbed")
    shards(encoder, texts, cache)
    return cache


def shards(
    encoder: Encoder, texts: Any, cache: Path, heads: Any = HEADS, shared: bool = False, **options: Any
) -> EncodedShards:
    config = dataclasses.replace(CONFIG, **options)
    return encode_shards(encoder, texts, "passage", config, "test", cache, heads, shared)


def check(found: Encoded, expected: Encoded, dense: float = 1e-6) -> None:
    """To rounding: batches have other texts in them. Token vectors are in half precision."""
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=dense)
    for ours, theirs in zip(dicts(found.sparse), dicts(expected.sparse), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert found.multi_vector is not None
    assert expected.multi_vector is not None
    np.testing.assert_array_equal(found.multi_vector.offsets, expected.multi_vector.offsets)
    for mine, yours in zip(matrices(found.multi_vector), matrices(expected.multi_vector), strict=True):
        np.testing.assert_allclose(mine, yours, atol=1e-3)


# -- the same as in one piece


@pytest.mark.parametrize("size", [2, 7, 16, 60, 1000])
def test_shards_of_any_size_hold_what_one_holds(encoder: Encoder, texts: Texts, tmp_path: Path, size: int) -> None:
    found = shards(encoder, texts, tmp_path, encode_shard_texts=size)
    assert len(found) == len(texts)
    assert len(found.folders) == -(-60 // size)
    assert found.starts == [*range(0, 60, size), 60]
    expected = encode(encoder, texts, "passage", CONFIG, "test", HEADS)
    check(found.read(), expected)
    np.testing.assert_allclose(found.dense()[:], expected.vectors, atol=1e-6)
    if size == 7:
        part = encode(encoder, texts.take(range(14, 28)), "passage", CONFIG, "test", HEADS)
        check(found.read(2, 4), part)
        np.testing.assert_allclose(found.dense(2, 4)[:], part.vectors, atol=1e-6)


@pytest.mark.parametrize("heads", [("dense",), ("sparse",), ("multi_vector",), ("dense", "sparse")])
def test_some_heads_only(encoder: Encoder, texts: Texts, tmp_path: Path, heads: Any) -> None:
    found, all_heads = shards(encoder, texts, tmp_path, heads).read(), shards(encoder, texts, tmp_path).read()
    assert {head for head in HEADS if getattr(found, head) is not None} == set(heads)
    if found.dense is not None:
        np.testing.assert_array_equal(found.dense, all_heads.vectors)
    if found.sparse is not None:
        assert dicts(found.sparse) == dicts(all_heads.sparse)
    if found.multi_vector is not None:
        for ours, theirs in zip(matrices(found.multi_vector), matrices(all_heads.multi_vector), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_corpus_on_disk_gives_the_bytes_of_texts_in_memory(
    encoder: Encoder, texts: Texts, undisturbed: Path, tmp_path: Path
) -> None:
    shards(encoder, Corpus.open(texts.source, tmp_path / "index"), tmp_path / "cache")
    assert hashes(tmp_path / "cache") == hashes(undisturbed)


def test_a_shards_bytes_depend_on_its_own_texts_alone(
    encoder: Encoder, texts: Texts, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = shutil.copytree(undisturbed, tmp_path / "cache")
    more = texts.take([*range(60), 3, 4])  # the last shard, of 12 texts, gets two more
    encoded = counted(monkeypatch)
    found = shards(encoder, more, cache)
    assert sum(encoded) == 14
    assert len({folder for folder in found.folders if (undisturbed / folder.name).is_dir()}) == 3


def test_half_precision_is_half_the_size(encoder: Encoder, texts: Texts, undisturbed: Path, tmp_path: Path) -> None:
    found, full = shards(encoder, texts, tmp_path, encode_dtype="fp16"), shards(encoder, texts, undisturbed)
    check(found.read(), full.read(), dense=1e-3)
    assert found.read().vectors.dtype == found.dense().dtype == np.float16
    sizes = [np.load(each.folders[0] / "dense.npy").nbytes for each in (found, full)]
    assert sizes == [16 * 16 * 2, 16 * 16 * 4]
    assert not {folder.name for folder in found.folders} & {folder.name for folder in full.folders}


def test_two_equal_shards_are_one_folder(
    encoder: Encoder, texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = counted(monkeypatch)
    twice = texts.take([*range(16), *range(16, 32), *range(16), *range(5)])
    found = shards(encoder, twice, tmp_path)
    assert sum(encoded) == 16 + 16 + 5
    assert found.folders[0] == found.folders[2]
    assert len(tiny.shards_in(tmp_path)) == 3
    check(found.read(), encode(encoder, twice, "passage", CONFIG, "test", HEADS))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each batch that is encoded from now on has."""
    put, calls = Writer.put, []

    def counting(self: Writer, batch: Any, found: Any) -> None:
        calls.append(len(batch))
        put(self, batch, found)

    monkeypatch.setattr(Writer, "put", counting)
    return calls


# -- damage


def damaged(path: Path) -> Iterator[bytes]:
    """A byte changed at the front, in the middle and at the end; the first half; nothing."""
    whole = path.read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        yield whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    yield whole[: len(whole) // 2]
    yield b""


ARRAYS = ("dense", "sparse_indptr", "sparse_ids", "sparse_weights", "multi_vectors", "multi_offsets")


@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_array_is_noticed_and_encoded_again(
    encoder: Encoder,
    texts: Texts,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    cache = shutil.copytree(undisturbed, tmp_path / "cache")
    encoded, second = counted(monkeypatch), shards(encoder, texts, cache).folders[1]
    for content in damaged(second / f"{name}.npy"):
        (second / f"{name}.npy").write_bytes(content)
        caplog.clear()
        shards(encoder, texts, cache)
        assert caplog.messages == [f"{second}: {name}.npy is not what was written there; encoding its texts again"]
        assert sum(encoded) == 16
        encoded.clear()
        assert hashes(cache) == hashes(undisturbed)
    (second / f"{name}.npy").unlink()
    shards(encoder, texts, cache)
    assert hashes(cache) == hashes(undisturbed)


def test_a_damaged_note_is_noticed_and_its_texts_encoded_again(
    encoder: Encoder, texts: Texts, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file with the checksums; a shard without it was never whole."""
    cache = shutil.copytree(undisturbed, tmp_path / "cache")
    note = shards(encoder, texts, cache).folders[1] / "heads.json"
    for content in (*damaged(note), b"[]", b"{}", b"\xff\xfe"):
        note.write_bytes(content)
        caplog.clear()
        shards(encoder, texts, cache)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert hashes(cache) == hashes(undisturbed)
    note.unlink()
    caplog.clear()
    shards(encoder, texts, cache)
    assert not caplog.messages
    assert hashes(cache) == hashes(undisturbed)


# -- kills and processes


def killed(encoder: Encoder, texts: Texts, cache: Path, moment: str, number: int) -> int:
    """Encode in a process of its own, killed at the `number`th batch, file flush, or rename; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        calls = [0]

        def dying(original: Any) -> Any:
            def replacement(*args: Any, **kwargs: Any) -> Any:
                calls[0] += 1
                if calls[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            return replacement

        if moment == "batch":
            Writer.put = dying(Writer.put)  # type: ignore[method-assign] # of this process alone
        elif moment == "flush":
            files._flush_to_disk = dying(files._flush_to_disk)
        else:
            files.os.replace = dying(os.replace)
        shards(encoder, texts, cache)
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    ("moment", "number", "whole"), [("batch", 1, 0), ("batch", 8, 1), ("flush", 10, 1), ("rename", 6, 2)]
)
def test_a_killed_encoding_leaves_whole_shards_and_goes_on(
    encoder: Encoder,
    texts: Texts,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    number: int,
    whole: int,
) -> None:
    assert killed(encoder, texts, tmp_path, moment, number) == -signal.SIGKILL
    there = [path for path in tiny.shards_in(tmp_path) if not path.name.startswith(".")]
    assert len(there) == whole
    expected = hashes(undisturbed)
    assert {name: digest for name, digest in hashes(tmp_path).items() if not name.startswith(".")}.items() <= (
        expected.items()
    )
    encoded = counted(monkeypatch)
    shards(encoder, texts, tmp_path)
    assert sum(encoded) == 60 - 16 * whole
    assert hashes(tmp_path) == expected


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_shards(
    encoder: Encoder,
    texts: Texts,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
) -> None:
    encoded, shares = counted(monkeypatch), []
    for rank in reversed(range(processes)):  # one after the other, the first one last
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        shards(encoder, texts, tmp_path, shared=True)
        shares.append(sum(encoded))
        encoded.clear()
    sizes = [16, 16, 16, 12]
    assert shares == [sum(sizes[rank::processes]) for rank in reversed(range(processes))]
    assert hashes(tmp_path) == hashes(undisturbed)


def test_one_process_of_a_launch_that_encodes_alone_encodes_all(
    encoder: Encoder, texts: Texts, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As dev retrieval does while others wait for it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    shards(encoder, texts, tmp_path)
    assert hashes(tmp_path) == hashes(undisturbed)


# -- rows in pieces


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 3), st.data())
def test_rows_in_pieces_are_taken_as_from_one_array(lengths: list[int], width: int, data: st.DataObject) -> None:
    total = sum(lengths)
    joined = np.arange(total * width, dtype=np.float32).reshape(total, width)
    rows = RowPieces(np.split(joined, np.cumsum(lengths)[:-1]))
    assert len(rows) == total
    assert rows.shape == joined.shape
    assert rows.dtype == joined.dtype
    bounds = st.none() | st.integers(-total - 2, total + 2)
    at = data.draw(st.slices(total) | st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2, -1, -3])))
    np.testing.assert_array_equal(rows[at], joined[at])
    some = data.draw(st.lists(st.integers(0, total - 1), max_size=8) if total else st.just([]))
    np.testing.assert_array_equal(rows[np.array(some, dtype=np.int64)], joined[some])
