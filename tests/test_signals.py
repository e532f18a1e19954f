"""Every mining signal over many small parts against brute force over everything, and the stage that uses them."""

from __future__ import annotations

import doctest
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.config import HEADS, JobConfig, TrainConfig
from bgetune.config_data import MineConfig
from bgetune.corpus import Corpus
from bgetune.data import Texts, normalised, read_retrieval_set
from bgetune.encode import encode, encode_shards
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.files import read_json
from bgetune.index.bm25 import BM25Index
from bgetune.index.exact import exact_search
from bgetune.search import Ranking, ensemble_weights
from data_prep.__main__ import main
from data_prep.mining import dense_parts, lexical, parts, signals
from data_prep.mining.lexical import QueryWords
from data_prep.mining.parts import Part, PartWork, cut_parts
from data_prep.mining.signals import Signals, _of_part
from data_prep.neardup import words_of
from tests import jobs, tiny
from tests.by_hand import Domain, by_hand, hybrid_by_hand, load
from tests.jobs import Job, jsonl, mined_rows, stats_of, write_jsonl
from tests.tiny_reranker import write_reranker
from train.__main__ import main as train

CLOSE = 1e-5


def test_doctests() -> None:
    for module in (dense_parts, lexical, parts, signals):
        assert doctest.testmod(module).failed == 0


# -- a tiny corpus in shards of five texts, one shard a part


@dataclass(frozen=True)
class Side:
    """A corpus on disk, the queries, and every score by hand: float64 [Q, N] of each signal."""

    corpus: Corpus
    queries: Texts
    encoder: Encoder
    config: JobConfig
    scores: dict[str, np.ndarray]
    cache: Path

    def signals(self, folder: Path, texts_a_shard: int = 5, **mine: Any) -> Signals:
        settings = MineConfig(**{"rank_last": 25, "sources": {"dense": 1.0}, **mine})
        config = replace(self.config, encode_shard_texts=texts_a_shard)
        passages = encode_shards(self.encoder, self.corpus, "passage", config, "test", self.cache, HEADS)
        questions = encode_shards(self.encoder, self.queries, "query", config, "test", self.cache, HEADS)
        weights, similarity = ensemble_weights(config.train), self.encoder.spec.similarity
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(signals, "TOP", 0)  # the window, and nothing more for the audit
            return Signals(
                *(self.corpus, passages, self.queries, questions, similarity, weights, settings, folder / "mining")
            )


def side_of(folder: Path, **model: Any) -> Side:
    data = read_retrieval_set(tiny.domain(folder / "domain"))
    asked = data.queries_of("dev")
    # repeated words, and a query that no passage shares a word with
    odd = ["pain pain pain heart drug drug", "unheard", "the"]
    queries = Texts([*asked.ids, "a", "b", "c"], [*asked.texts, *odd], [], asked.source, [*asked.lines, 97, 98, 99])
    encoder, config = load(tiny.m3(folder / "m3"), **model), JobConfig(encode_precision="fp32")
    scores = by_hand(Domain(config, encoder, data.corpus, queries), encoder.spec.similarity)
    scores["hybrid"] = hybrid_by_hand(scores, TrainConfig())
    found, rows = BM25Index.build(data.corpus.full_texts()).search(queries.texts, len(data.corpus))
    scores["bm25"] = np.zeros((len(queries), len(data.corpus)))
    np.put_along_axis(scores["bm25"], np.maximum(rows, 0), np.where(rows >= 0, found, 0.0), axis=1)
    for i, at in enumerate(rows):  # -1 was put to row 0
        scores["bm25"][i, 0] = found[i][at == 0][0] if (at == 0).any() else 0.0
    return Side(Corpus.open(data.corpus.source, folder), queries, encoder, config, scores, folder / "vectors")


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return side_of(tmp_path_factory.mktemp("side"))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (signals, dense_parts):
        monkeypatch.setattr(module, "fair_rows", lambda starts: 1)
    monkeypatch.setattr(signals, "TOP", 1)  # the audit's first hundred would be the whole corpus


def check(found: Ranking, expected: np.ndarray, depth: int, lexical_one: bool = False) -> None:
    """Scores in their order, each row with its own score, and the very rows where scores differ.

    Args:
        lexical_one: a score of 0 is not found: row -1.
    """
    scores, rows = found
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert scores.shape == rows.shape == (len(expected), depth)
    for i, own in enumerate(expected):
        order = np.lexsort((np.arange(len(own)), -own))
        if lexical_one:
            order = order[own[order] > 0]
        count = min(depth, len(order))
        assert (rows[i, count:] == -1).all()
        np.testing.assert_allclose(scores[i, :count], own[order[:count]], rtol=CLOSE, atol=CLOSE)
        np.testing.assert_allclose(own[rows[i, :count]], scores[i, :count], rtol=CLOSE, atol=CLOSE)
        assert len(set(rows[i, :count])) == count
        gaps = np.diff(own[order], prepend=np.inf, append=-np.inf)
        apart = (np.abs(gaps[:-1]) > 2 * CLOSE) & (np.abs(gaps[1:]) > 2 * CLOSE)
        np.testing.assert_array_equal(rows[i, :count][apart[:count]], order[:count][apart[:count]])


SEARCHED = ("dense", "sparse", "bm25", "multi_vector", "hybrid")


@pytest.mark.parametrize("signal", SEARCHED)
@pytest.mark.parametrize("depth", [7, 60])
def test_a_ranking_is_that_of_brute_force(
    side: Side, tmp_path: Path, small_parts: None, signal: Any, depth: int
) -> None:
    """Where all passages are candidates; multi-vector and hybrid re-rank twice the window of dense and of sparse."""
    wide = max(depth, 30) if signal in ("multi_vector", "hybrid") else depth
    made = side.signals(tmp_path, sources={signal: 1.0}, rank_last=wide)
    assert len(made._work.parts) == 12
    check(made.ranking(signal), side.scores[signal], wide, signal in ("sparse", "bm25"))
    if signal == "dense":
        assert made.dense.facts is None, "exact search needs no telling"


@pytest.mark.parametrize("texts_a_shard", [4, 13, 60])
def test_parts_of_any_size_rank_alike(side: Side, tmp_path: Path, small_parts: None, texts_a_shard: int) -> None:
    made = side.signals(tmp_path, texts_a_shard, sources={"dense": 1.0, "bm25": 1.0, "sparse": 1.0})
    assert len(made._work.parts) == -(-60 // texts_a_shard)
    for signal in ("dense", "bm25", "sparse"):
        check(made.ranking(signal), side.scores[signal], 25, signal != "dense")


@pytest.mark.parametrize("similarity", ["euclidean"])
def test_every_similarity(tmp_path: Path, small_parts: None, similarity: Any) -> None:
    side = side_of(tmp_path, similarity=similarity, normalize=False)
    made = side.signals(tmp_path)
    check(made.ranking("dense"), side.scores["dense"], 25)
    rows = np.arange(60).reshape(1, 60).repeat(len(side.queries), axis=0)
    np.testing.assert_allclose(made.scores_of("dense", rows), side.scores["dense"], rtol=CLOSE, atol=CLOSE)


def test_few_candidates_are_those_of_dense_and_sparse(side: Side, tmp_path: Path, small_parts: None) -> None:
    made = side.signals(tmp_path, sources={"hybrid": 1.0}, rank_last=5)
    scores, rows = made.ranking("hybrid")
    first = {head: made._first(head)[1] for head in ("dense", "sparse")}
    for i in range(len(rows)):
        pool = sorted({int(row) for found in first.values() for row in found[i] if row >= 0})
        assert all(len(found[i]) == 10 for found in first.values())
        best = np.sort(side.scores["hybrid"][i, pool])[::-1][:5]
        np.testing.assert_allclose(scores[i], best, atol=CLOSE)
        assert set(rows[i]) <= set(pool)


@pytest.mark.parametrize("signal", [*SEARCHED, "random"])
def test_scores_of_given_passages_are_those_of_brute_force(
    side: Side, tmp_path: Path, small_parts: None, signal: Any
) -> None:
    draw = np.random.default_rng(0)
    made, expected = side.signals(tmp_path), side.scores["dense" if signal == "random" else signal]
    for width in (0, 1, 40):
        rows = draw.integers(-1, 60, (len(side.queries), width))
        rows[1] = -1
        found = made.scores_of(signal, rows)
        assert found.dtype == np.float32
        wanted = np.where(rows < 0, -np.inf, np.take_along_axis(expected, np.maximum(rows, 0), axis=1))
        np.testing.assert_allclose(found, wanted, rtol=CLOSE, atol=CLOSE)
        np.testing.assert_array_equal(made.scores_of(signal, rows), found)


def test_random_is_seeded_and_without_repetition(side: Side, tmp_path: Path) -> None:
    scores, rows = side.signals(tmp_path, rank_last=60).ranking("random")
    assert [sorted(at) for at in rows.tolist()] == [list(range(60))] * len(rows)
    assert len({tuple(at) for at in rows.tolist()}) == len(rows), "each query its own order"
    np.testing.assert_allclose(scores, np.take_along_axis(side.scores["dense"], rows, axis=1), atol=CLOSE)
    np.testing.assert_array_equal(side.signals(tmp_path / "b", rank_last=60).ranking("random")[1], rows)
    assert (side.signals(tmp_path / "c", rank_last=60, seed=1).ranking("random")[1] != rows).any()
    # whatever the other queries are
    few = replace(side, queries=side.queries.take([4, 2]))
    np.testing.assert_array_equal(few.signals(tmp_path / "d", rank_last=60).ranking("random")[1], rows[[4, 2]])


# -- BM25 in parts

words = st.lists(st.sampled_from([*"abcdefg", "The", "aa", "bb", "cc", "dd", "dd", "é-è"]), max_size=9).map(" ".join)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(words, min_size=1, max_size=12), st.lists(words, min_size=1, max_size=4), st.integers(1, 5))
def test_bm25_in_parts_is_bm25s(passages: list[str], queries: list[str], size: int) -> None:
    """Also of repeated words, and of texts without any."""
    known = QueryWords(queries)
    counted = [known.count(passages[start : start + size]) for start in range(0, len(passages), size)]
    totals = known.totals(counted)
    weights = np.concatenate([known.weights(part, totals).to_scipy().toarray() for part in counted])
    found = known.queries.to_scipy().toarray() @ weights.T
    scores, rows = BM25Index.build(passages).search(queries, len(passages))
    for i in range(len(queries)):
        expected = {int(row): float(score) for row, score in zip(rows[i], scores[i], strict=True) if row >= 0}
        assert {row: found[i, row] for row in np.flatnonzero(found[i] > 0)} == pytest.approx(expected, rel=1e-5)


# -- parts


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 400))
def test_parts_cover_all_rows_and_are_of_nearly_one_size(rows: int, shard: int, most: int) -> None:
    starts = [*range(0, rows, shard), rows]
    found = cut_parts(starts, most)
    assert [part.number for part in found] == list(range(len(found)))
    assert [found[0].first, *(part.last for part in found)] == [0, *(part.first for part in found[1:]), rows]
    for part in found:
        assert (part.first, part.last) == (starts[part.first_shard], starts[part.last_shard])
        assert len(part) <= max(most, shard)
    shards = [part.last_shard - part.first_shard for part in found]
    assert max(shards) - min(shards) <= 1, "else the last index has too few vectors to be trained"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 5), st.integers(0, 6), st.integers(0, 20), st.integers(0, 20), st.integers(0, 999))
def test_what_of_rows_lies_in_a_part(queries: int, width: int, first: int, length: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(-1, 40, (queries, width))
    part = Part(0, 0, 1, first, first + length)
    asking, places, local = _of_part(rows, part)
    inside = [[int(row) for row in at if first <= row < first + length] for at in rows]
    assert asking.tolist() == [i for i, at in enumerate(inside) if at]
    assert [[int(row) + first for row in at if row >= 0] for at in local] == [at for at in inside if at]
    assert all((np.diff((at < 0).astype(int)) >= 0).all() for at in local), "packed to the left"
    assert rows.ravel()[places].tolist() == [row for at in inside for row in at]
    assert local.shape == (len(asking), max(map(len, inside), default=0))


def test_work_of_parts_with_other_borders_is_other_work(tmp_path: Path) -> None:
    """A job that goes on with another memory has other parts under the same numbers."""
    starts = [0, 4, 8, 12]

    def rows_in(part: Part) -> dict[str, np.ndarray]:
        return {"rows": np.arange(part.first, part.last)}

    for most in (8, 4, 12):
        work = PartWork(tmp_path, cut_parts(starts, most), "test")
        found = [arrays["rows"] for _, arrays in work.each("rows", ["same"], rows_in)]
        np.testing.assert_array_equal(np.concatenate(found), np.arange(12))


# -- approximate indexes


def told(folder: Path) -> dict[str, Any]:
    return read_json(folder / "logs" / "index.json")


@pytest.mark.parametrize(("index", "name"), [("IVF4,Flat", "nprobe"), ("HNSW8", "efSearch"), ("IVF2,PQ4x4", "nprobe")])
def test_an_approximate_index_is_tuned_and_told_of(
    side: Side, tmp_path: Path, index: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = side.signals(tmp_path, index=index, index_recall=0.9)
    assert len(made.dense._work.parts) == 1
    with caplog.at_level(logging.INFO, logger="bgetune"):
        scores, rows = made.ranking("dense")
    known = np.where(rows < 0, -np.inf, np.take_along_axis(side.scores["dense"], np.maximum(rows, 0), axis=1))
    np.testing.assert_allclose(scores, known, atol=CLOSE)
    note, facts = told(tmp_path), made.dense.facts
    assert facts is not None
    assert set(note) == {"factory", "parts", "parameter", "recall", "milliseconds_a_query"}
    assert (note["factory"], note["parts"]) == (facts.factory, 1) == (index, 1)
    assert note["parameter"] == facts.parameter
    assert facts.parameter.startswith(f"{name} ")
    found = made._questions.vectors
    exact = exact_search(found, made._passages.dense(), "cosine", 25)[1]
    share = np.mean([len(set(ours) & set(theirs)) / 25 for ours, theirs in zip(rows, exact, strict=True)])
    assert facts.recall == pytest.approx(share)  # fewer queries than the held sample: all of them
    assert share >= 0.9
    assert any(f"index {index}" in message for message in caplog.messages)


def test_full_recall_is_exact_search_part_by_part(side: Side, tmp_path: Path) -> None:
    """Three parts: the index that was built goes on after a kill, and is one of this part alone."""
    options = {"index": "IVF4,Flat", "index_recall": 1.0, "memory_gb": 24 * 108 * 2 / 2**30}  # 1.5 (4 * 16 + 8) a row
    made = side.signals(tmp_path, 4, **options)
    assert [len(part) for part in made.dense._work.parts] == [20, 20, 20]
    found = made.ranking("dense")
    check(found, side.scores["dense"], 25)
    assert told(tmp_path)["parts"] == 3
    assert made.dense.facts is not None
    assert made.dense.facts.recall == 1.0
    for path in (tmp_path / "mining").glob("dense-*.npz"):
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "mining").glob("index-*")}
    assert len(kept) == 6
    again = side.signals(tmp_path, 4, **options).ranking("dense")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mining").glob("index-*")} == kept
    np.testing.assert_array_equal(again[1], found[1])


def test_the_last_part_has_vectors_enough_for_its_lists(side: Side, tmp_path: Path) -> None:
    """60 rows in shards of 7 with room for 30 a part: parts of four shards would leave one of 4 rows, for 8 lists."""
    made = side.signals(tmp_path, 7, index="IVF8,Flat", index_recall=1.0, memory_gb=30 * 108 * 2 / 2**30)
    check(made.ranking("dense"), side.scores["dense"], 25)
    assert told(tmp_path)["parts"] == 3


def test_an_index_that_cannot_be_built_is_one_line(side: Side, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^mine\.index: FAISS cannot build 'IVF500,Flat' over 60 vectors"):
        side.signals(tmp_path, index="IVF500,Flat").ranking("dense")


# -- the stage

WIDE = {"max_share_of_positive": None, "rank_last": 60, "near_duplicate": None}


def m3_job(tmp_path: Path, mine: dict[str, Any], **sections: Any) -> Job:
    model = {"name_or_path": str(tiny.m3(tmp_path / "m3"))}
    return jobs.prepared(tmp_path, model=model, encode_precision="fp32", encode_shard_texts=7, mine=mine, **sections)


def all_scores(job: Job) -> dict[str, np.ndarray]:
    """By hand, of the train queries."""
    data = read_retrieval_set(job.run.data("clinic"))
    domain = Domain(job.config, Encoder.load(job.config.model), data.corpus, data.queries_of("train"))
    scores = by_hand(domain)
    found, rows = BM25Index.build(data.corpus.full_texts()).search(domain.queries.texts, len(data.corpus))
    bm25 = np.zeros_like(scores["dense"])
    for i in range(len(rows)):
        bm25[i, rows[i][rows[i] >= 0]] = found[i][rows[i] >= 0]
    return {**scores, "bm25": bm25, "hybrid": hybrid_by_hand(scores, job.config.train)}


def row_of(passage_id: str) -> int:
    return int(passage_id.removeprefix("d"))


def each_negative(rows: dict[str, dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any], int]]:
    """The query's number, its line, and the place of a negative in it."""
    for i, row in enumerate(rows.values()):
        yield from ((i, row, place) for place in range(len(row["neg_ids"])))


def test_quotas_of_several_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = {"bm25": 1.0, "dense": 2.0, "hybrid": 1.0, "multi_vector": 1.0, "random": 1.0, "sparse": 1.0}
    job = m3_job(tmp_path, {**WIDE, "sources": sources, "negatives_per_query": 7, "rank_first": 2})
    rows, scores = mined_rows(job), all_scores(job)
    for row in rows.values():
        assert row["neg_sources"] == ["bm25", "dense", "dense", "hybrid", "multi_vector", "random", "sparse"]
        assert len(set(row["neg_ids"])) == 7
        assert not {"neg_found_scores"} & set(row)
    for i, row, place in each_negative(rows):
        source, rank = row["neg_sources"][place], row["neg_ranks"][place]
        own = scores["dense" if source == "random" else source][i]
        score = own[row_of(row["neg_ids"][place])]
        assert row["neg_scores"][place] == pytest.approx(score, abs=2e-5)
        if source == "random":
            assert rank == 0
        else:
            assert rank >= 2
            assert np.sort(own)[::-1][rank - 1] == pytest.approx(score, abs=2e-5)
    stats = stats_of(job)
    assert stats["negatives_by_source"] == {source: 40 * int(share) for source, share in sources.items()}
    assert main(["validate", str(job.run.examples)]) == 0
    assert "40 examples with 40 positives and 280 negatives" in capsys.readouterr().out
    assert not (job.run.root / "mining").exists()


def test_a_source_that_finds_too_little_is_not_made_up_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that one passage has: BM25 finds nothing else, and no other source steps in."""
    job = m3_job(tmp_path, {**WIDE, "sources": {"dense": 1.0, "bm25": 1.0}, "negatives_per_query": 4})
    folder = job.run.data("clinic")
    passages, queries = jsonl(folder / "corpus.jsonl"), jsonl(folder / "queries.jsonl")
    passages[0]["text"] += " zebra"
    queries[0]["text"] = "zebra"
    write_jsonl(folder / "corpus.jsonl", passages)
    write_jsonl(folder / "queries.jsonl", queries)
    rows = mined_rows(job)
    assert rows["q0"]["neg_sources"] == ["dense", "dense"]
    assert all(row["neg_sources"] == ["bm25"] * 2 + ["dense"] * 2 for row in list(rows.values())[1:])
    stats = stats_of(job)
    assert stats["queries_with_too_few"] == 1
    assert stats["queries_by_number_of_negatives"] == {"2": 1, "4": 39}
    assert "1 query" in " ".join(capsys.readouterr().out.split())
    assert main(["validate", str(job.run.examples)]) == 0


def test_no_text_is_given_twice_whoever_finds_it(tmp_path: Path) -> None:
    """Every passage of the topic stands in the corpus three times."""
    job = m3_job(tmp_path, {**WIDE, "sources": {"bm25": 1.0, "random": 1.0, "dense": 1.0}, "negatives_per_query": 30})
    path = job.run.data("clinic") / "corpus.jsonl"
    passages = jsonl(path)
    copies = [{**row, "_id": f"{row['_id']}-{copy}", "text": row["text"].upper()} for copy in "bc" for row in passages]
    write_jsonl(path, [*passages, *copies])
    for row in mined_rows(job).values():
        texts = [normalised(text) for text in row["neg"]]
        assert len(set(texts)) == len(texts) > 10


def test_agreement_drops_what_both_signals_put_above_the_positive(tmp_path: Path) -> None:
    job = m3_job(
        tmp_path, {**WIDE, "sources": {"dense": 1.0}, "negatives_per_query": 60, "agreement": ["dense", "bm25"]}
    )
    rows, scores = mined_rows(job), all_scores(job)
    dropped = 0
    for i, row in enumerate(rows.values()):
        best = {signal: scores[signal][i, row_of(row["pos_ids"][0])] for signal in ("dense", "bm25")}
        both = {
            passage
            for passage in range(60)
            if all(scores[signal][i, passage] > best[signal] + 1e-6 for signal in best) and passage != i
        }
        assert not both & {row_of(passage_id) for passage_id in row["neg_ids"]}
        dropped += len(both)
        assert len(row["neg_ids"]) == 59 - len(both)
    assert stats_of(job)["dropped"]["two signals agree"] == dropped > 0


@pytest.mark.parametrize("threshold", [0.5, None])
def test_near_duplicates_of_a_positive_are_dropped(tmp_path: Path, threshold: float | None) -> None:
    options = {**WIDE, "near_duplicate": threshold, "negatives_per_query": 60}
    job = m3_job(tmp_path, options)
    path = job.run.data("clinic") / "corpus.jsonl"
    passages = jsonl(path)
    turned = " ".join(reversed(passages[0]["text"].split()))  # the same words in another order
    write_jsonl(path, [*passages[:59], {**passages[0], "_id": "d59", "text": turned}])
    rows = mined_rows(job)
    texts = {row["_id"]: words_of(f"{row['title']} {row['text']}") for row in jsonl(path)}
    for query_id, row in rows.items():
        own = texts[row["pos_ids"][0]]
        near = {
            passage_id
            for passage_id, other in texts.items()
            if threshold is not None and len(own & other) >= threshold * len(own | other)
        }
        expected = set(texts) - near - set(row["pos_ids"])
        assert set(row["neg_ids"]) == expected, query_id
    assert ("d59" in rows["q0"]["neg_ids"]) is (threshold is None)


def test_the_hybrid_as_teacher_filters_and_teaches(tmp_path: Path) -> None:
    teacher = {"kind": "hybrid", "max_share_of_positive": 0.95, "candidates": 12}
    job = m3_job(tmp_path, {**WIDE, "sources": {"dense": 1.0}, "teacher": teacher}, train={"teacher": "kl_div"})
    rows, scores = mined_rows(job), all_scores(job)
    limits = [0.95 * scores["hybrid"][i, row_of(row["pos_ids"][0])] for i, row in enumerate(rows.values())]
    for i, row in enumerate(rows.values()):
        assert row["pos_scores"] == pytest.approx([scores["hybrid"][i, row_of(p)] for p in row["pos_ids"]], abs=2e-4)
    assert sum(len(row["neg"]) for row in rows.values()) > 50
    for i, row, place in each_negative(rows):
        passage = row_of(row["neg_ids"][place])
        assert row["neg_scores"][place] == pytest.approx(scores["hybrid"][i, passage], abs=2e-4)
        assert row["neg_found_scores"][place] == pytest.approx(scores["dense"][i, passage], abs=2e-5)
        assert row["neg_scores"][place] <= limits[i] + 2e-4
        assert row["neg_ranks"][place] <= 12 + 1 + 5  # the first dozen; a positive and equal texts aside
    # all that the filter leaves of the dozen is taken, where that is little
    name = "teacher score above the limit of mine.teacher.max_share_of_positive (0.95)"
    dropped = stats_of(job)["dropped"][name]
    assert 0 < dropped <= 40 * 12
    few = [len(row["neg"]) for row in rows.values() if len(row["neg"]) < 4]
    assert stats_of(job)["queries_with_too_few"] == len(few)
    jobs.fresh_accelerator()
    assert train([*job.words, "--train.max_steps", "2", "--update"]) == 0


def test_the_hybrid_as_teacher_without_filter_only_teaches(tmp_path: Path) -> None:
    job = m3_job(tmp_path, WIDE)
    plain, scores = mined_rows(job), all_scores(job)
    assert main(["mine", *job.words, "--mine.teacher.kind", "hybrid", "--update"]) == 0
    for i, (row, other) in enumerate(zip(jsonl(job.run.examples), plain.values(), strict=True)):
        assert row["neg_ids"] == other["neg_ids"]
        assert row["neg_found_scores"] == other["neg_scores"]
        expected = [scores["hybrid"][i, row_of(passage_id)] for passage_id in row["neg_ids"]]
        assert row["neg_scores"] == pytest.approx(expected, abs=2e-4)


def test_a_cross_encoder_as_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one test with a reranker: its library takes seconds."""
    folder = write_reranker(tmp_path / "reranker", "bert")
    teacher = {"kind": "cross_encoder", "name_or_path": str(folder), "max_length": 64, "margin": 0.1, "candidates": 20}
    job = m3_job(tmp_path, {**WIDE, "sources": {"dense": 1.0, "bm25": 1.0}, "teacher": teacher})
    rows = mined_rows(job)
    from sentence_transformers import CrossEncoder

    judge = CrossEncoder(str(folder), max_length=64, device="cpu")
    pairs = [(row["query"], text) for row in rows.values() for text in (*row["pos"], *row["neg"])]
    import torch

    expected = iter(judge.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False).tolist())
    for row in rows.values():
        assert row["pos_scores"] == pytest.approx([next(expected) for _ in row["pos"]], abs=1e-4)
        assert row["neg_scores"] == pytest.approx([next(expected) for _ in row["neg"]], abs=1e-4)
        assert all(score <= max(row["pos_scores"]) - 0.1 + 1e-4 for score in row["neg_scores"])
        assert len(row["neg_found_scores"]) == len(row["neg"])
    assert stats_of(job)["dropped"]["teacher score above the limit of mine.teacher.margin (0.1)"] > 0
    assert main(["validate", str(job.run.examples)]) == 0
    before = {path.name: path.read_bytes() for path in job.run.examples.parent.iterdir()}
    assert main(["mine", *job.words, "--force"]) == 0
    assert {path.name: path.read_bytes() for path in job.run.examples.parent.iterdir()} == before


def test_an_index_of_the_users_choice_in_the_stage(tmp_path: Path) -> None:
    job = m3_job(tmp_path, WIDE)
    exact, audit = mined_rows(job), job.run.examples.parent / "audit.html"
    assert "IVF4,Flat" not in audit.read_text()
    assert main(["mine", *job.words, "--mine.index", "IVF4,Flat", "--mine.index_recall", "1.0", "--update"]) == 0
    assert [row["neg_ids"] for row in jsonl(job.run.examples)] == [row["neg_ids"] for row in exact.values()]
    assert "IVF4,Flat" in audit.read_text()
    assert read_json(job.run.root / "logs" / "index.json")["recall"] == 1.0


def test_a_source_that_the_model_cannot_give_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = jobs.prepared(tmp_path, mine={"sources": {"sparse": 1.0}})
    assert main(["mine", *job.words]) == 2
    assert jobs.only_error(capsys).startswith("error: mine.sources: sparse: needs a sparse head")


def test_encoding_is_as_encode_says(side: Side) -> None:
    """What brute force was made from: the same vectors as the shards hold."""
    whole = encode(side.encoder, side.corpus.take(range(60)), "passage", side.config, "test", HEADS)
    shards = encode_shards(side.encoder, side.corpus, "passage", side.config, "test", side.cache, HEADS)
    np.testing.assert_allclose(shards.read().vectors, whole.vectors, atol=1e-6)
