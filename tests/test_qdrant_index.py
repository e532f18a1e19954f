"""A corpus gets into Qdrant whole or not at all: stopped at any request, faults, two at once, and a live alias."""

from __future__ import annotations

import doctest
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.errors import UserError
from bgetune.index import qdrant_check, qdrant_migrate, qdrant_snippet, qdrant_versions, qdrant_write
from bgetune.index.qdrant import Unfinished, connected, point_id
from bgetune.index.qdrant_check import sample_questions
from bgetune.index.qdrant_migrate import Done, Target, holds, migrate, tidy
from bgetune.index.qdrant_versions import refuse_bad_name
from bgetune.index.qdrant_write import Storage
from bgetune.search import EncodedSet
from tests.by_hand import random_vectors
from tests.qdrant_server import CUT, LOST, Fault, QdrantServer, busy

HEADS = ("dense", "sparse", "multi_vector")
SIZE, BATCH = 40, 8
CORPUS = Texts(
    [f"p{i:03}" for i in range(SIZE)], [f"text {i}" for i in range(SIZE)], [f"title {i}" for i in range(SIZE)]
)
QUESTIONS = sample_questions(None, CORPUS, 2, seed=0)
CONFIG = JobConfig()
DIGESTS = [f"{i:x}" * 64 for i in range(10)]
NAMES = [f"docs-{digest[:12]}" for digest in DIGESTS]


def content(seed: int = 0, heads: tuple[str, ...] = HEADS) -> EncodedSet:
    rng = np.random.default_rng(seed)
    return EncodedSet(random_vectors(rng, SIZE, heads), random_vectors(rng, len(QUESTIONS), heads), "cosine")


BOTH = content()


def run(
    server: QdrantServer, number: int = 0, waits: tuple[float, ...] = (), heads: tuple[str, ...] = HEADS, **target: Any
) -> Done | None:
    """`bgetune index` from where the model has encoded; None: it holds already."""
    asked = Target("docs", batch=BATCH, **target)
    done = None
    with connected(server.url, "--qdrant", waits) as client:
        if not holds(client, asked, DIGESTS[number], SIZE):
            settings = CORPUS, "clinic", content(number, heads), QUESTIONS, CONFIG
            done = migrate(client, asked, DIGESTS[number], *settings, local=False)
        tidy(client, asked)
    return done


def alias(server: QdrantServer) -> str | None:
    return {each.alias_name: each.collection_name for each in server.local.get_aliases().aliases}.get("docs")


def stand_for(server: QdrantServer, name: str, alias: str = "docs") -> None:
    create = models.CreateAlias(collection_name=name, alias_name=alias)
    server.local.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])


def names(server: QdrantServer) -> list[str]:
    return sorted(each.name for each in server.local.get_collections().collections)


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as started:
        yield started


def test_doctests() -> None:
    for module in (qdrant_check, qdrant_snippet, qdrant_versions):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_what_is_written_and_that_it_is_written_once(server: QdrantServer) -> None:
    done = run(server)
    assert done is not None
    assert (done.name, done.before, alias(server)) == (NAMES[0], None, NAMES[0])
    assert (done.checked.points, done.checked.questions, done.checked.approximate) == (SIZE, 2, 1.0)
    assert done.checked.retriever == "hybrid"
    (record,) = server.local.retrieve("docs", [point_id("p003")])
    assert record.payload == {"id": "p003", "title": "title 3", "text": "text 3", "set": "clinic"}
    config = server.local.get_collection("docs").config
    assert set(config.params.vectors) == {"dense", "multi_vector"}
    assert set(config.params.sparse_vectors) == {"sparse"}
    told = {"made_by": "bgetune", "alias": "docs", "state": "complete", "replaced": []}
    assert config.metadata == told
    queries = [body for body, each in zip(server.bodies, server.requests, strict=True) if each.endswith("/query")]
    scored = [each for query in queries for each in query["prefetch"]]
    assert scored
    assert all(each["params"]["exact"] for each in scored), "a graph may miss a candidate, whose score were 0 then"
    before = len(server.requests)
    assert run(server) is None
    assert server.written == SIZE
    assert not [each for each in server.requests[before:] if each.startswith(("PUT", "PATCH", "DELETE"))]
    assert len(server.requests) - before <= 12


def test_long_texts_travel_in_smaller_requests(server: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Texts(CORPUS.ids, ["letters " * (1000 if i == 3 else 1) for i in range(SIZE)])
    passages, payload = content(0, ("dense",)).passages, qdrant_write.payload_of(corpus)
    monkeypatch.setattr(qdrant_write, "_NUMBERS", 1000)
    with connected(server.url, "--qdrant") as client:
        qdrant_write.create_collection(client, "x", passages, "cosine")
        qdrant_write.write_points(client, "x", corpus, passages, np.arange(SIZE), payload, "")
    sent = [len(body["points"]) for body, each in zip(server.bodies, server.requests, strict=True) if "/points" in each]
    assert sent == [3, 1, SIZE - 4]


def test_dense_alone_and_quantized(server: QdrantServer) -> None:
    with connected(server.url, "--qdrant") as client:
        target = Target("docs", storage=Storage("scalar", on_disk=True))
        done = migrate(
            client, target, DIGESTS[0], CORPUS, "clinic", content(0, ("dense",)), QUESTIONS, CONFIG, local=False
        )
    assert done.checked.retriever == "dense"
    created = next(body for body, each in zip(server.bodies, server.requests, strict=True) if each.startswith("PUT"))
    dense = created["vectors"]["dense"]
    assert dense["quantization_config"]["scalar"]["type"] == "int8"
    assert (dense["on_disk"], created["on_disk_payload"]) == (True, True)
    queries = [body for body, each in zip(server.bodies, server.requests, strict=True) if each.endswith("/query")]
    exact, graph = queries[0]["params"], queries[-1]["params"]
    assert (exact["exact"], exact["quantization"]["ignore"]) == (True, True)
    assert (graph["quantization"]["rescore"], graph["quantization"]["oversampling"]) == (True, 3.0)


def test_earlier_versions_are_kept_as_told_and_can_be_gone_back_to(server: QdrantServer) -> None:
    for number in range(3):
        run(server, number)
    assert (alias(server), names(server)) == (NAMES[2], NAMES[1:3])
    back = run(server, 1)
    assert back is not None
    assert (alias(server), back.before, names(server)) == (NAMES[1], NAMES[2], NAMES[1:3])
    assert server.written == 3 * SIZE, "going back writes nothing"
    run(server, 3, keep=3)
    assert names(server) == NAMES[1:4]
    run(server, 4, keep=0)
    assert names(server) == [NAMES[4]]


def test_points_that_were_lost_are_written_again_and_what_is_too_old_goes_later_too(server: QdrantServer) -> None:
    run(server)
    run(server, 1)
    server.local.delete("docs", [point_id("p003")])
    done = run(server, 1)
    assert done is not None
    assert (done.before, alias(server), names(server)) == (NAMES[1], NAMES[1], NAMES[:2])
    assert (server.local.count("docs").count, server.written) == (SIZE, 2 * SIZE + 1)
    assert run(server, 1, keep=0) is None
    assert names(server) == [NAMES[1]]


def test_only_what_is_ours_and_unused_is_removed(server: QdrantServer) -> None:
    size = models.VectorParams(size=2, distance=models.Distance.DOT)
    for name in ("docs-aaaaaaaaaaaa", "docs-old", "others"):
        server.local.create_collection(name, vectors_config={"dense": size})
    for number in (0, 1):
        run(server, number)
    stand_for(server, NAMES[0], "pinned")
    run(server, 2, keep=0, drop_others=True)
    assert names(server) == sorted(["docs-aaaaaaaaaaaa", "docs-old", "others", NAMES[0], NAMES[2]])


def test_an_alias_of_the_users_own_is_taken_over_and_its_collection_left(
    server: QdrantServer, caplog: pytest.LogCaptureFixture
) -> None:
    size = models.VectorParams(size=2, distance=models.Distance.DOT)
    server.local.create_collection("v1", vectors_config=size)
    stand_for(server, "v1")
    caplog.set_level("INFO", "bgetune")
    done = run(server, keep=0)
    assert done is not None
    assert (done.before, names(server)) == ("v1", sorted(["v1", NAMES[0]]))
    assert "docs stood for 'v1', which bgetune did not make" in caplog.text


# -- stopped


def test_stopped_at_any_kind_of_request_it_goes_on_and_writes_nothing_twice(server: QdrantServer) -> None:
    run(server, heads=("dense",))
    start = len(server.requests)
    run(server, 1, heads=("dense",))
    sent = server.requests[start:]
    kinds = [sent.index(each) for each in dict.fromkeys(sent)]
    amid = [place for place, each in enumerate(sent) if each.startswith("PUT") and each.endswith("/points")]
    stops = sorted({*kinds, *amid[1:3]})
    assert len(stops) > 12
    for stop in stops:
        server.local.delete_collection(NAMES[1])
        stand_for(server, NAMES[0])
        begun, written = len(server.requests), server.written

        def refuse(number: int, method: str, path: str, last: int = begun + stop) -> Fault | None:
            return busy(503) if number >= last else None

        server.refuse = refuse
        with pytest.raises((UserError, Unfinished)):
            run(server, 1, heads=("dense",))
        switched = "POST /collections/aliases" in server.requests[begun : begun + stop]
        assert alias(server) == NAMES[1 if switched else 0], sent[stop]
        assert server.local.count("docs").count == SIZE
        server.refuse = lambda number, method, path: None
        run(server, 1, heads=("dense",))
        assert (alias(server), names(server)) == (NAMES[1], NAMES[:2])
        assert server.written == written + SIZE, sent[stop]


def test_every_fault_once_and_every_lost_answer() -> None:
    """Each request in turn meets trouble and is sent again; what was carried out and not answered, too."""
    faults = [busy(429, Retry_After="0"), busy(429), busy(429, Retry_After="Wed, 21 Oct 2026"), busy(500), busy(502)]
    troubles: list[Fault] = [*faults, busy(503), busy(504), CUT, LOST, LOST, LOST, LOST]
    with QdrantServer() as server:
        run(server)
        # after a good one, so that each is met by another request
        server.faults = [each for trouble in troubles for each in (trouble, None)]
        done = run(server, 1, waits=(0.0, 0.0))
        assert done is not None
        assert server.faults == []
        assert (alias(server), server.local.count(NAMES[1]).count) == (NAMES[1], SIZE)


def test_the_answer_to_the_creation_is_lost() -> None:
    lost = {"once": True}

    def refuse(number: int, method: str, path: str) -> Fault | None:
        created = method == "PUT" and path.count("/") == 2
        return LOST if created and lost.pop("once", False) else None

    with QdrantServer(refuse=refuse) as server:
        assert run(server, waits=(0.0,)) is not None
        assert lost == {}
        assert alias(server) == NAMES[0]


def test_a_server_that_stays_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bgetune")
    writes = {"left": 2}

    def refuse(number: int, method: str, path: str) -> Fault | None:
        if method == "PUT" and path.endswith("/points"):
            writes["left"] -= 1
        return Fault(503, message="out of memory") if writes["left"] < 0 else None

    with QdrantServer(refuse=refuse) as server:
        with pytest.raises(Unfinished) as error:
            run(server, waits=(0.0, 0.0))
        told = f"--qdrant: the Qdrant server at {server.url} went on failing (out of memory), asked 3 times"
        assert str(error.value).startswith(told)
        assert "run the same command again, it goes on from here" in str(error.value)
        assert caplog.text.count("out of memory; asking again in 0 s") == 2
        server.refuse = lambda number, method, path: None
        caplog.clear()
        run(server)
        assert f"{NAMES[0]}: {2 * BATCH} of {SIZE} points are there already" in caplog.text
        assert server.written == SIZE


# -- live


def test_the_alias_answers_all_the_while(server: QdrantServer) -> None:
    run(server)
    stop, wrong, answered = threading.Event(), [], []
    vector = BOTH.passages.vectors[0].tolist()

    def ask() -> None:
        client = QdrantClient(server.url, check_compatibility=False)
        while not stop.is_set():
            try:
                found = client.query_points("docs", query=vector, using="dense", limit=3).points
                (answered if len(found) == 3 else wrong).append(len(found))
            except Exception as error:
                wrong.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    for number in (1, 2):
        run(server, number, keep=1)
    stop.set()
    asking.join()
    assert wrong == []
    assert len(answered) > 10
    assert names(server) == NAMES[1:3]


def test_two_at_once_with_the_same_content_and_with_another(server: QdrantServer) -> None:
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            run(server, number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in (0, 0, 1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert alias(server) in NAMES[:2]
    assert names(server) == NAMES[:2]
    assert [server.local.count(name).count for name in NAMES[:2]] == [SIZE, SIZE]


def test_a_version_being_written_is_left_unless_told(server: QdrantServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bgetune")
    server.refuse = lambda number, method, path: busy(503) if path.endswith("/points/count") else None
    with pytest.raises(UserError):
        run(server)
    server.refuse = lambda number, method, path: None
    run(server, 1)
    assert names(server) == NAMES[:2]
    assert f"left as they are, being written or given up: {NAMES[0]}" in caplog.text
    run(server, 2, drop_others=True)
    assert names(server) == NAMES[1:3]


# -- the check


@pytest.mark.parametrize("what", ["a vector", "a payload", "a missing point", "a point too many", "a point in place"])
def test_what_is_not_as_written_does_not_go_live(server: QdrantServer, what: str) -> None:
    run(server)
    server.local.create_collection(
        NAMES[1],
        vectors_config=server.local.get_collection("docs").config.params.vectors,
        sparse_vectors_config=server.local.get_collection("docs").config.params.sparse_vectors,
        metadata={"made_by": "bgetune", "alias": "docs", "state": "writing", "replaced": []},
    )
    vectors = {"dense": [1.0] * 6}
    ours = models.PointStruct(id=point_id("p000"), vector=vectors, payload={"id": "p000"})
    strange = models.PointStruct(id=7, vector=vectors, payload={"id": "p000"})
    if what == "a vector":
        server.local.upsert(NAMES[1], [ours])
    elif what == "a payload":
        server.local.upsert(NAMES[1], [models.PointStruct(**{**ours.model_dump(), "payload": {"id": "another"}})])
    elif what == "a point too many":
        server.local.upsert(NAMES[1], [strange])

    def refuse(number: int, method: str, path: str) -> None:
        if path.endswith("/query") or not server.requests[-1].endswith("/count"):
            return
        if what in ("a missing point", "a point in place") and server.local.count(NAMES[1]).count == SIZE:
            server.local.delete(NAMES[1], [point_id("p020")])
            if what == "a point in place":
                server.local.upsert(NAMES[1], [strange])

    server.refuse = refuse
    told = {
        "a vector": "the point of 'p000' is not what was written",
        "a payload": "the point of 'p000' is not what was written",
        "a missing point": "it holds 39 points where 40 were written",
        "a point too many": "it holds 41 points where 40 were written",
        "a point in place": "the point of 'p020' is not there",
    }
    with pytest.raises(Unfinished, match=told[what]) as error:
        run(server, 1)
    assert str(error.value).endswith("the alias was not switched; remove the collection and run again")
    assert alias(server) == NAMES[0]


def test_another_ranking_does_not_go_live(server: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_check, "ensemble_weights", lambda train: dict.fromkeys(HEADS, 9.0))
    told = r"^docs-0{12}: the question 'title \d+' is not ranked as bgetune ranks it: place 1 has 'p\d+' with "
    with pytest.raises(Unfinished, match=told):
        run(server)
    assert alias(server) is None


@pytest.mark.parametrize(("states", "ends"), [(["yellow", "yellow", "grey"], True), (["yellow", "red"], False)])
def test_no_switch_before_the_index_is_built(states: list[str], ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_write, "_BETWEEN_LOOKS", 0.0)
    coming: list[str] = []
    with QdrantServer(status=lambda: coming.pop(0) if coming else "green") as server:
        create = qdrant_migrate.write_points

        def written(*args: Any, **options: Any) -> None:
            create(*args, **options)
            coming.extend(states)

        monkeypatch.setattr(qdrant_migrate, "write_points", written)
        if ends:
            assert run(server) is not None
            assert coming == []
        else:
            with pytest.raises(Unfinished, match="its index is not built; see to the server and run again"):
                run(server)
        assert alias(server) == (NAMES[0] if ends else None)


# -- mistakes


def test_a_collection_of_the_aliass_name(server: QdrantServer) -> None:
    server.local.create_collection("docs", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    with pytest.raises(UserError, match=r"^--collection: 'docs' is a collection there, and an alias .*choose another"):
        run(server)
    assert names(server) == ["docs"]


def test_a_version_of_another_programs(server: QdrantServer) -> None:
    server.local.create_collection(NAMES[0], vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    with pytest.raises(UserError, match=rf"^--collection: the collection '{NAMES[0]}' was not made by bgetune"):
        run(server)
    assert server.written == 0


def test_a_server_too_old_for_notes() -> None:
    with QdrantServer(keeps_metadata=False) as server:
        with pytest.raises(UserError, match=r"^--qdrant: the server keeps no notes .*Qdrant 1\.16 or newer$"):
            run(server)
        assert names(server) == []


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "hidden-key")
    with QdrantServer(key="another") as server:
        with pytest.raises(UserError, match=r"refuses \(Must provide an API key, got \.\.\.\)$") as error:
            run(server)
        assert "hidden-key" not in str(error.value)
    with QdrantServer(key="hidden-key") as server:
        assert run(server) is not None


@pytest.mark.parametrize("name", ["", "a/b", "..", "a:b", "x" * 201, "tab\t"])
def test_names_that_qdrant_would_not_take(name: str) -> None:
    with pytest.raises(UserError, match=r"^--collection: .* cannot be a collection's name in Qdrant; use 1 to 200"):
        refuse_bad_name(name, "--collection")


def test_questions_are_titles_or_first_words_where_there_are_none() -> None:
    untitled = Texts(["a"], ["one two three four five six seven eight nine ten eleven twelve thirteen"])
    assert sample_questions(None, untitled, 5, 0).texts == [" ".join(untitled.texts[0].split()[:12])]
    some = sample_questions(None, CORPUS, 5, 0)
    assert len(some) == 5
    assert set(some.texts) <= set(CORPUS.titles)
    asked = Texts(["q1", "q2"], ["first", "second"])
    assert sample_questions(asked, CORPUS, 5, 0).ids == ["q1", "q2"]
