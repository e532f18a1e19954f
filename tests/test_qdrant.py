"""A Qdrant collection ranks as exact search does, for every head and for all together; and a user's mistakes."""

from __future__ import annotations

import doctest
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models

from bgetune.config import EvalConfig, HeadConfig, JobConfig, Similarity, TrainConfig
from bgetune.data import Texts
from bgetune.errors import UserError
from bgetune.index import qdrant, qdrant_search, qdrant_write
from bgetune.index.qdrant import MEMORY, connected, point_id
from bgetune.index.qdrant_search import search_collection
from bgetune.index.qdrant_write import wait_until_indexed, write_collection
from bgetune.search import EncodedSet, as_results, ensemble_weights, rankings
from tests.by_hand import random_vectors

CANDIDATES = 8
CONFIG = JobConfig(eval=EvalConfig(candidates=CANDIDATES), train=TrainConfig(dense=HeadConfig(ensemble_weight=0.7)))


def texts(size: int, kind: str = "p") -> Texts:
    return Texts([f"{kind}{i:03}" for i in range(size)], [f"text {i}" for i in range(size)])


def compare_all(seed: int, size: int, similarity: Similarity, heads: tuple[str, ...]) -> None:
    """Every retriever finds what exact search finds, with the same scores, in the same order."""
    rng = np.random.default_rng(seed)
    both = EncodedSet(random_vectors(rng, size, heads), random_vectors(rng, 5, heads), similarity)
    wanted = [*heads, "hybrid"] if len(heads) > 1 else list(heads)
    exact = rankings(both, CONFIG, wanted, "test", depth=size)  # no cut: ties at one might fall either way
    corpus = texts(size)
    with connected(MEMORY, "eval.indexes") as client:
        write_collection(client, "all", corpus, both.passages, similarity)
        for name in wanted:
            weights = ensemble_weights(CONFIG.train) if name == "hybrid" else None
            found = search_collection(
                client, "all", both.questions, range(5), similarity, name, size, CANDIDATES, weights
            )
            ours = as_results(list("abcde"), corpus.ids, *exact[name])
            for theirs, expected in zip(found, ours.values(), strict=True):
                assert list(theirs) == list(expected), name
                assert list(theirs.values()) == pytest.approx(list(expected.values()), abs=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("heads", [("dense",), ("dense", "multi_vector"), ("dense", "sparse", "multi_vector")])
def test_rankings_equal_exact_search(similarity: Similarity, heads: tuple[str, ...]):
    compare_all(0, 40, similarity, heads)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_rankings_equal_exact_search_for_any_vectors(seed: int, size: int):
    compare_all(seed, size, "cosine", ("dense", "sparse", "multi_vector"))


def test_doctests():
    for module in (qdrant, qdrant_search, qdrant_write):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_written_in_batches_kept_on_disk_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(qdrant_write, "_NUMBERS", 100)
    corpus = Texts([f"p{i}" for i in range(20)], [f"text {i}" for i in range(20)], [f"title {i}" for i in range(20)])
    passages = random_vectors(np.random.default_rng(0), 20, ("dense", "sparse", "multi_vector"))
    with connected(str(tmp_path / "db"), "qdrant") as client:
        write_collection(client, "plain", corpus, passages, "cosine")
        write_collection(client, "full", corpus, passages, "cosine", with_texts=True)
    with connected(str(tmp_path / "db"), "qdrant") as client:
        (plain,) = client.retrieve("plain", [point_id("p3")], with_vectors=True)
        (full,) = client.retrieve("full", [point_id("p3")])
        assert client.count("full").count == 20
        multi = client.get_collection("full").config.params.vectors["multi_vector"]
    assert plain.payload == {"id": "p3"}
    assert full.payload == {"id": "p3", "title": "title 3", "text": "text 3"}
    assert multi.multivector_config.comparator == models.MultiVectorComparator.MAX_SIM
    assert (multi.distance, multi.datatype, multi.hnsw_config.m) == ("Dot", "float16", 0)
    offsets = passages.multi_vector.offsets
    assert np.allclose(plain.vector["multi_vector"], passages.multi_vector.vectors[offsets[3] : offsets[4]])


def test_a_collection_that_exists_is_left_alone():
    passages = random_vectors(np.random.default_rng(0), 3, ("dense",))
    with connected(MEMORY, "x") as client:
        write_collection(client, "mine", texts(3), passages, "cosine")
        with pytest.raises(UserError, match=r"^--qdrant: the collection 'mine' is there already; remove it"):
            write_collection(client, "mine", texts(3), passages, "cosine", option="--qdrant")
        assert client.count("mine").count == 3


def test_another_number_of_points_is_told():
    twice = Texts(["a", "b", "a"], ["1", "2", "3"])
    with connected(MEMORY, "x") as client, pytest.raises(UserError, match="holds 2 points where 3 were written"):
        write_collection(client, "x", twice, random_vectors(np.random.default_rng(0), 3, ("dense",)), "cosine")


def test_an_empty_corpus_is_an_empty_collection():
    rng = np.random.default_rng(0)
    with connected(MEMORY, "x") as client:
        write_collection(client, "x", texts(0), random_vectors(rng, 0, ("dense",)), "dot")
        asked = search_collection(client, "x", random_vectors(rng, 2, ("dense",)), range(2), "dot", "dense", 10)
        assert list(asked) == [{}, {}]


def test_no_server():
    with pytest.raises(UserError) as error, connected("http://user:secret@127.0.0.1:9", "eval.indexes"):
        pass
    told = str(error.value)
    assert told.startswith("eval.indexes: no Qdrant server answers at http://127.0.0.1:9 (")
    assert "\n" not in told
    assert "secret" not in told


def test_no_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    told = r"^eval\.indexes: qdrant needs .*pip install 'bgetune\[qdrant\]'"
    with pytest.raises(UserError, match=told), connected(MEMORY, "eval.indexes"):
        pass


def test_a_folder_that_another_program_holds(tmp_path: Path):
    told = r"^b: .*already accessed by another"
    with connected(str(tmp_path), "a"), pytest.raises(UserError, match=told), connected(str(tmp_path), "b"):
        pass


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with connected("~/db", "x") as client:
        write_collection(client, "x", texts(3), random_vectors(np.random.default_rng(0), 3, ("dense",)), "cosine")
    assert (tmp_path / "db" / "collection" / "x").is_dir()


@pytest.mark.parametrize(
    ("answer", "told"), [(b'{"status": {"error": "no\\nkey"}}', "no key"), (b"<html>", "401 Unauthorized")]
)
def test_a_server_that_refuses(answer: bytes, told: str):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(UserError) as error, connected(address, "eval.indexes"):
            pass
    assert str(error.value) == f"eval.indexes: the Qdrant server at {address} refuses ({told})"


def test_waits_for_the_index(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    states = iter([models.CollectionStatus.GREY, models.CollectionStatus.YELLOW, models.CollectionStatus.GREEN])
    woken: list[str] = []
    monkeypatch.setattr(qdrant_write, "_BETWEEN_LOOKS", 0)
    client: Any = SimpleNamespace(
        get_collection=lambda name: SimpleNamespace(status=next(states)),
        update_collection=lambda name, optimizers_config: woken.append(name),
    )
    assert wait_until_indexed(client, "x")
    assert (list(states), woken) == ([], ["x"])
    monkeypatch.setattr(qdrant_write, "_LONGEST_WAIT", -1.0)
    client = SimpleNamespace(get_collection=lambda name: SimpleNamespace(status=models.CollectionStatus.YELLOW))
    assert not wait_until_indexed(client, "x")
    assert "still at work after an hour" in caplog.text
    client = SimpleNamespace(get_collection=lambda name: SimpleNamespace(status=models.CollectionStatus.RED))
    assert not wait_until_indexed(client, "x")
    assert "failed, as its own log says" in caplog.text
