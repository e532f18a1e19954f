"""Retrieval by every head and by all together, against brute force; what is kept on disk is what was computed."""

from __future__ import annotations

import dataclasses
import doctest
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bgetune import search as search_module
from bgetune.config import HEADS, EvalConfig, Head, HeadConfig, TrainConfig
from bgetune.encode import encode, encode_once
from bgetune.encoded import Encoded, Writer
from bgetune.fusion import reciprocal_rank
from bgetune.index.exact import pair_scores
from bgetune.metrics import Results
from bgetune.representations import Representations
from bgetune.search import (
    DENSE_SPARSE,
    HYBRID,
    MULTI_VECTOR_FULL,
    RRF,
    TUNED,
    EncodedSet,
    as_results,
    encode_set,
    rankings,
    retrievers_of,
)
from tests import tiny
from tests.by_hand import (
    Domain,
    by_hand,
    dense_by_hand,
    dicts,
    domain_of,
    encoded,
    hybrid_by_hand,
    load,
    matrices,
    rrf_by_hand,
)
from tests.tiny import shards_in

EVERYTHING = retrievers_of(HEADS)


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory, m3: Path) -> Domain:
    return domain_of(tmp_path_factory.mktemp("domain"), m3)


def check(found: Results, expected: np.ndarray, domain: Domain, depth: int, found_none: bool = False) -> None:
    """The scores in their order, and every passage with its own score; equal scores may come in any order."""
    for i, query_id in enumerate(domain.queries.ids):
        own = {passage_id: expected[i, row] for row, passage_id in enumerate(domain.corpus.ids)}
        if found_none:
            own = {passage_id: score for passage_id, score in own.items() if score > 0}
        best = sorted(own.values(), reverse=True)[:depth]
        ours = list(found[query_id].values())
        assert len(ours) == len(best)
        np.testing.assert_allclose(ours, best, atol=2e-6)
        assert ours == sorted(ours, reverse=True)
        for passage_id, score in found[query_id].items():
            assert score == pytest.approx(own[passage_id], abs=2e-6)


def test_doctests() -> None:
    result = doctest.testmod(search_module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("multi_vector", ["rerank", "full"])
@pytest.mark.parametrize("depth", [100, 7])
def test_every_retriever_equals_brute_force(domain: Domain, tmp_path: Path, multi_vector: Any, depth: int) -> None:
    domain = domain.with_config(eval=EvalConfig(candidates=100, multi_vector=multi_vector))
    found = domain.search(tmp_path, EVERYTHING, depth=depth)
    assert list(found) == ["dense", "sparse", "multi_vector", "hybrid", "hybrid_rrf"]
    scores = by_hand(domain)
    for head in ("dense", "multi_vector"):
        check(found[head], scores[head], domain, depth)
    check(found["sparse"], scores["sparse"], domain, depth, found_none=True)
    assert found["sparse"]["odd"] == {}
    check(found[HYBRID], hybrid_by_hand(scores, domain.config.train), domain, depth)
    check(found[RRF], rrf_by_hand(single(scores)), domain, depth)


def single(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """In float32, where what is equal in search is equal too."""
    return {head: values.astype(np.float32) for head, values in scores.items()}


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_every_similarity(m3: Path, tmp_path: Path, similarity: Any) -> None:
    domain = domain_of(tmp_path / "domain", m3)
    domain = dataclasses.replace(domain, encoder=load(m3, similarity=similarity, normalize=False))
    found, scores = domain.search(tmp_path, ["dense", HYBRID]), by_hand(domain, similarity)
    assert np.abs(scores["multi_vector"]).max() > 1  # token vectors are not of length 1
    check(found["dense"], scores["dense"], domain, 100)
    for i, query_id in enumerate(domain.queries.ids):
        own = dict(zip(domain.corpus.ids, hybrid_by_hand(scores, domain.config.train)[i], strict=True))
        assert found[HYBRID][query_id] == pytest.approx(own, rel=1e-5, abs=1e-5)


def test_the_hybrids_weights_are_those_of_training(domain: Domain, tmp_path: Path) -> None:
    train = TrainConfig(
        dense=HeadConfig(ensemble_weight=0.15),
        sparse=HeadConfig(ensemble_weight=0.5),
        multi_vector=HeadConfig(ensemble_weight=0.0),
    )
    domain = domain.with_config(train=train)
    check(domain.search(tmp_path, [HYBRID])[HYBRID], hybrid_by_hand(by_hand(domain), train), domain, 100)


@pytest.mark.parametrize("wanted", [*([name] for name in EVERYTHING), ["dense", HYBRID]], ids="+".join)
def test_a_retriever_is_the_same_alone_and_among_others(domain: Domain, tmp_path: Path, wanted: list[str]) -> None:
    alone, together = domain.search(tmp_path, wanted), domain.search(tmp_path, EVERYTHING)
    assert alone == {name: together[name] for name in wanted}


def test_few_candidates_are_the_union_of_dense_and_sparse(domain: Domain, tmp_path: Path) -> None:
    few = 5
    domain = domain.with_config(eval=dataclasses.replace(domain.config.eval, candidates=few))
    found, scores = domain.search(tmp_path, EVERYTHING), by_hand(domain)
    mixed = hybrid_by_hand(scores, domain.config.train)
    for i, query_id in enumerate(domain.queries.ids):
        either = {*list(found["dense"][query_id])[:few], *list(found["sparse"][query_id])[:few]}
        for name, values in (("multi_vector", scores["multi_vector"]), (HYBRID, mixed)):
            assert set(found[name][query_id]) == either
            for passage_id, score in found[name][query_id].items():
                assert score == pytest.approx(values[i, domain.corpus.ids.index(passage_id)], abs=2e-6)
        assert set(found[RRF][query_id]) == either
        assert few <= len(either) <= 2 * few
    assert len(found["dense"]["q50"]) == 60  # the depth of a head alone is not cut to the candidates


def test_a_dense_model_is_searched_by_dense(tmp_path: Path) -> None:
    domain = domain_of(tmp_path / "domain", tiny.model(tmp_path / "model"))
    assert retrievers_of(domain.encoder.heads) == ["dense"]
    found = domain.search(tmp_path / "cache", ["dense", HYBRID])
    passages = encode(domain.encoder, domain.corpus, "passage", domain.config, "test")
    assert (passages.sparse, passages.multi_vector) == (None, None)
    queries = encode(domain.encoder, domain.queries, "query", domain.config, "test")
    scores = dense_by_hand(queries, passages, "cosine")
    check(found["dense"], scores, domain, 100)
    check(found[HYBRID], scores, domain, 100)  # of one head, itself


# -- what an evaluation asks for besides


def whole(domain: Domain, cache: Path, heads: tuple[Head, ...] = HEADS) -> EncodedSet:
    return encode_set(domain.encoder, domain.queries, domain.corpus, domain.config, heads, cache, "test")


def named(domain: Domain, found: Mapping[str, Any]) -> dict[str, Results]:
    return {name: as_results(domain.queries.ids, domain.corpus.ids, *ranking) for name, ranking in found.items()}


@pytest.mark.parametrize("multi_vector", ["rerank", "full", "both"])
def test_search_is_encoding_and_then_ranking(domain: Domain, tmp_path: Path, multi_vector: Any) -> None:
    domain = domain.with_config(eval=EvalConfig(candidates=5, multi_vector=multi_vector))
    encoded_set = whole(domain, tmp_path)
    assert encoded_set.heads == HEADS
    found = rankings(encoded_set, domain.config, EVERYTHING, "test")
    assert all((scores.dtype, rows.dtype) == (np.float32, np.int64) for scores, rows in found.values())
    assert named(domain, found) == domain.search(tmp_path, EVERYTHING)


def test_both_kinds_of_multi_vector_are_those_of_each_setting(domain: Domain, tmp_path: Path) -> None:
    few = {kind: domain.with_config(eval=EvalConfig(candidates=5, multi_vector=kind)) for kind in ("rerank", "full")}
    both = domain.with_config(eval=EvalConfig(candidates=5, multi_vector="both"))
    found = both.search(tmp_path, ["multi_vector", MULTI_VECTOR_FULL])
    reranked, full = (few[kind].search(tmp_path, ["multi_vector"])["multi_vector"] for kind in ("rerank", "full"))
    assert found == {"multi_vector": reranked, MULTI_VECTOR_FULL: full}
    assert reranked != full
    check(full, by_hand(domain)["multi_vector"], domain, 100)


def test_dense_and_sparse_need_no_token_vectors(domain: Domain, tmp_path: Path) -> None:
    scores = by_hand(domain)
    two = {head: scores[head] for head in ("dense", "sparse")}
    found = domain.search(tmp_path, [DENSE_SPARSE])
    check(found[DENSE_SPARSE], hybrid_by_hand(two, domain.config.train), domain, 100)
    encoded_set = whole(domain, tmp_path, ("dense", "sparse"))
    assert encoded_set.heads == ("dense", "sparse")
    assert len(shards_in(tmp_path)) == 2  # search encoded no more than these
    assert named(domain, rankings(whole(domain, tmp_path), domain.config, [DENSE_SPARSE], "test")) == found


def test_tuned_weights_are_those_given(domain: Domain, tmp_path: Path) -> None:
    encoded_set = whole(domain, tmp_path)
    given = {"dense": 0.0, "sparse": 2.0, "multi_vector": 0.125}
    found = named(domain, rankings(encoded_set, domain.config, [HYBRID, TUNED], "test", tuned_weights=given))
    scores = by_hand(domain)
    check(found[TUNED], sum(given[head] * values for head, values in scores.items()), domain, 100)
    check(found[HYBRID], hybrid_by_hand(scores, domain.config.train), domain, 100)
    with pytest.raises(AssertionError, match="hybrid_tuned"):
        rankings(encoded_set, domain.config, [TUNED], "test")


def test_a_fusion_of_the_library_ranks_what_each_head_found(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the candidates' scores as RRF does; what it makes of them is tested in test_fusion.py."""
    asked = []

    def fusion(name: str, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        asked.append((name, sorted(scores), float(np.isneginf(scores["sparse"]).mean())))
        return reciprocal_rank(scores)

    monkeypatch.setattr(search_module, "library_fusion", fusion)
    found = domain.search(tmp_path, [RRF, "hybrid_log_isr"])
    assert found["hybrid_log_isr"] == found[RRF]
    ((name, heads, absent),) = asked
    assert (name, heads) == ("log_isr", sorted(HEADS))
    assert 0 < absent < 1


def test_retrievers_of_a_model_and_a_setting() -> None:
    everything = EvalConfig(multi_vector="both", tune_weights=True, fusions=("isr", "mnz"))
    nothing = EvalConfig(multi_vector="full", tune_weights=False)
    fused = [HYBRID, TUNED, RRF, "hybrid_isr", "hybrid_mnz"]
    assert retrievers_of(HEADS, everything) == [*HEADS, MULTI_VECTOR_FULL, DENSE_SPARSE, *fused]
    assert retrievers_of(HEADS, nothing) == [*HEADS, DENSE_SPARSE, HYBRID, RRF]
    assert retrievers_of(("dense", "sparse"), everything) == ["dense", "sparse", *fused]
    two: tuple[Head, ...] = ("dense", "multi_vector")
    assert retrievers_of(two, everything) == [*two, MULTI_VECTOR_FULL, *fused]
    assert retrievers_of(("dense",), everything) == ["dense"]
    assert retrievers_of(HEADS) == [*HEADS, HYBRID, RRF]


# -- what is kept


@pytest.mark.parametrize("heads", [("dense",), ("dense", "sparse"), ("dense", "multi_vector"), HEADS], ids="+".join)
def test_what_was_kept_is_what_was_computed(domain: Domain, tmp_path: Path, heads: tuple[Head, ...]) -> None:
    texts, config, encoder = domain.corpus, domain.config, domain.encoder
    fresh = encode(encoder, texts, "passage", config, "test", heads)
    kept = encode_once(encoder, texts, "passage", config, "test", tmp_path, heads)
    read = encode_once(encoder, texts, "passage", config, "test", tmp_path, heads)
    (folder,) = shards_in(tmp_path)
    for other in (kept, read, Encoded.read(folder)):
        same(fresh, other, heads)
    assert isinstance(Encoded.read(folder).multi_vector.vectors, np.memmap) if "multi_vector" in heads else True
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def same(one: Encoded, other: Encoded, heads: tuple[str, ...]) -> None:
    for name in HEADS:
        assert (getattr(one, name) is None) == (getattr(other, name) is None) == (name not in heads)
    pairs = [(one.dense, other.dense)]
    if one.sparse is not None and other.sparse is not None:
        assert one.sparse.width == other.sparse.width
        pairs += [(getattr(one.sparse, name), getattr(other.sparse, name)) for name in ("indptr", "ids", "weights")]
    if one.multi_vector is not None and other.multi_vector is not None:
        pairs += [(one.multi_vector.vectors, other.multi_vector.vectors)]
        pairs += [(one.multi_vector.offsets, other.multi_vector.offsets)]
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_search_from_the_cache_is_the_same(domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = domain.search(tmp_path, EVERYTHING)
    assert len(shards_in(tmp_path)) == 2
    monkeypatch.setattr(Writer, "put", None)  # nothing can be encoded
    again = domain.search(tmp_path, EVERYTHING)
    assert first == again
    for name in EVERYTHING:
        assert [list(found) for found in first[name].values()] == [list(found) for found in again[name].values()]


def test_each_set_of_heads_is_kept_apart(domain: Domain, tmp_path: Path) -> None:
    domain.search(tmp_path, ["dense"])
    domain.search(tmp_path, ["sparse"])
    assert len(shards_in(tmp_path)) == 4
    domain.search(tmp_path, ["dense"])
    assert len(shards_in(tmp_path)) == 4


@pytest.mark.parametrize("after", [0, 1])
def test_a_folder_is_whole_or_absent(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whenever encoding fails: at its first batch, or after some."""
    put, calls = Writer.put, []

    def failing(self: Writer, texts: Any, found: Any) -> None:
        calls.append(texts)
        if len(calls) > after:
            raise KeyboardInterrupt
        put(self, texts, found)

    monkeypatch.setattr(Writer, "put", failing)
    domain = domain.with_config(encode_batch_tokens=64)
    with pytest.raises(KeyboardInterrupt):
        domain.search(tmp_path, EVERYTHING)
    assert shards_in(tmp_path) == []
    monkeypatch.setattr(Writer, "put", put)
    assert domain.search(tmp_path, EVERYTHING) == domain.search(tmp_path / "other", EVERYTHING)


def test_a_text_is_encoded_alike_in_any_company(domain: Domain) -> None:
    """But for rounding; half precision's for token vectors."""
    small = domain.with_config(encode_batch_tokens=1)
    (_, one), (_, other) = encoded(domain), encoded(small)
    np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-6)
    for ours, theirs in zip(dicts(one.sparse), dicts(other.sparse), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    for mine, yours in zip(matrices(one.multi_vector), matrices(other.multi_vector), strict=True):
        np.testing.assert_allclose(mine, yours, atol=1e-3)


def test_what_is_stored_is_what_the_encoder_says(domain: Domain) -> None:
    """Text by text, whatever order the batches come in; a weight of 0 is no entry."""
    domain = domain.with_config(encode_batch_tokens=64)
    _, passages = encoded(domain)
    lexical, vectors = dicts(passages.sparse), matrices(passages.multi_vector)
    assert sum(map(len, lexical)) > 0
    for i in (0, 7, 31, 59):
        alone = domain.corpus.take([i])
        ids, mask = domain.encoder.pad(domain.encoder.tokenize(alone.full_texts(), "passage")[0])
        with torch.no_grad():
            found: Representations = domain.encoder.eval()(ids, mask)
        weights = dict(zip(found.sparse.ids.tolist(), found.sparse.weights.tolist(), strict=True))
        assert lexical[i] == pytest.approx({token: weight for token, weight in weights.items() if weight > 0}, abs=1e-5)
        np.testing.assert_allclose(vectors[i], found.multi_vector.vectors, atol=1e-3)
        np.testing.assert_allclose(passages.vectors[i], found.dense[0], atol=1e-6)
    assert passages.sparse is not None
    assert (passages.sparse.weights > 0).all()
    ascending = [sorted(entry) == list(entry) for entry in lexical]
    assert all(ascending)


# -- the small functions


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_pair_scores_equal_the_whole_matrix(similarity: Any) -> None:
    draw = np.random.default_rng(0)
    queries, passages = (draw.normal(size=(n, 6)).astype(np.float32) for n in (4, 9))
    rows = np.array([draw.permutation(9)[:5] for _ in range(4)])
    expected = dense_by_hand(Encoded(queries), Encoded(passages), similarity)
    found = pair_scores(queries, passages, rows, similarity)
    np.testing.assert_allclose(found, np.take_along_axis(expected, rows, axis=1), atol=1e-5)


def test_results_leave_out_empty_places() -> None:
    scores, rows = np.array([[0.5, 0.25, 0.0]], dtype=np.float32), np.array([[2, 0, -1]])
    assert as_results(["q"], ["a", "b", "c"], scores, rows) == {"q": {"c": 0.5, "a": 0.25}}
