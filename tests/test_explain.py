"""Explanations: scores are search's, matches and alignment add up to them, tokens are shown as the text has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bgetune.config import EvalConfig, JobConfig, ModelConfig
from bgetune.data import read_retrieval_set
from bgetune.encoder import Encoder
from bgetune.explain import ALIGNED, MATCHES, around, as_written, explain
from bgetune.search import search
from tests import tiny

HEADS = ("dense", "sparse", "multi_vector")
MODEL = ModelConfig(query_max_length=80, passage_max_length=80)


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def encoder(m3: Path) -> Encoder:
    return Encoder.load_folder(m3, MODEL)


def job(model: ModelConfig = MODEL, **options: Any) -> JobConfig:
    return JobConfig(model=model, eval=EvalConfig(multi_vector="full"), **options)


@pytest.mark.parametrize(("similarity", "dtype"), [("cosine", "fp32"), ("dot", "fp16"), ("euclidean", "fp32")])
def test_scores_are_those_of_search(m3: Path, tmp_path: Path, similarity: Any, dtype: Any) -> None:
    model = dataclasses.replace(MODEL, similarity=similarity, normalize=False)
    config, encoder = job(model, encode_dtype=dtype), Encoder.load_folder(m3, model)
    data = read_retrieval_set(tiny.domain(tmp_path / "domain"))
    queries = data.queries.take(range(6))
    found = search(encoder, queries, data.corpus, config, list(HEADS), tmp_path / "cache", "test")
    text_of = dict(zip(data.corpus.ids, data.corpus.full_texts(), strict=True))
    asked = [(i, p) for i, query_id in enumerate(queries.ids) for p in list(found["dense"][query_id])[:4]]
    rows = explain(encoder, config, [(queries.texts[i], text_of[p]) for i, p in asked])
    for (i, passage_id), row in zip(asked, rows, strict=True):
        assert list(row["scores"]) == list(HEADS)
        for head in HEADS:
            assert row["scores"][head] == pytest.approx(found[head][queries.ids[i]].get(passage_id, 0.0), abs=1e-5)


def test_matches_add_up_to_the_sparse_score(encoder: Encoder) -> None:
    row = explain(encoder, job(), [("heart pain heart drug for", "Drug for the heart and the Heart")])[0]
    assert {match["token"] for match in row["matches"]} <= {"heart", "Drug", "for"}
    products = [match["product"] for match in row["matches"]]
    assert products == sorted(products, reverse=True)
    assert sum(products) == pytest.approx(row["scores"]["sparse"], abs=1e-3)
    assert products
    for match in row["matches"]:
        assert match["product"] == pytest.approx(match["query"] * match["passage"], abs=1e-3)


def test_the_largest_matches_are_shown(encoder: Encoder) -> None:
    words = " ".join([*tiny.TOPICS, *tiny.WORDS, *map(str, range(10))])
    row = explain(encoder, job(), [(words, words)])[0]
    products = [match["product"] for match in row["matches"]]
    assert len(products) == MATCHES
    assert sum(products) < row["scores"]["sparse"]
    assert explain(encoder, job(), [("heart", "lung")])[0]["matches"] == []


def nearest(encoder: Encoder, query: str, passage: str) -> tuple[list[float], list[str]]:
    """For each query token the largest product and the vocabulary's name of the passage token, by brute force."""

    def vectors(text: str, role: str) -> tuple[torch.Tensor, list[str]]:
        token_ids, _ = encoder.tokenize([text], role)
        found = encoder(*encoder.pad(token_ids)).multi_vector
        assert found is not None
        names = encoder.tokenizer.convert_ids_to_tokens(token_ids[0])
        return found.vectors, [name for name in names if name != "<s>"]

    encoder.eval()
    with torch.inference_mode():
        (asked, _), (there, names) = vectors(query, "query"), vectors(passage, "passage")
        best, at = (asked @ there.T).max(dim=1)
    return best.tolist(), [names[i] for i in at.tolist()]


def test_alignment_is_the_largest_product_of_each_query_token(encoder: Encoder) -> None:
    query, passage = "what heart pain", "the drug does help Heart and lung"
    row = explain(encoder, job(), [(query, passage)])[0]
    assert [one["query"] for one in row["alignment"]] == ["what", "heart", "pain", "</s>"]
    scores, tokens = nearest(encoder, query, passage)
    assert [one["score"] for one in row["alignment"]] == pytest.approx(scores, abs=1e-3)
    assert np.mean(scores) == pytest.approx(row["scores"]["multi_vector"], abs=1e-3)
    assert [one["passage"].lower() for one in row["alignment"]] == tokens
    for one in row["alignment"]:
        assert one["passage"] in one["context"] or (one["passage"] == "</s>" and one["context"] == "")


def test_long_texts_are_cut_as_in_search(m3: Path) -> None:
    model = ModelConfig(query_max_length=100, passage_max_length=6, passage_instruction="for test ")
    encoder = Encoder.load_folder(m3, model)
    row = explain(encoder, job(model), [("heart " * 200, "skin bone drug cure risk")])[0]
    assert len(row["alignment"]) == ALIGNED
    assert row["matches"] == []
    # <s> for test skin bone </s>: the instruction takes part, what is cut off does not
    assert {one["passage"] for one in row["alignment"]} <= {"for", "test", "skin", "bone", "</s>"}
    words = "drug risk sign care what does help skin bone"
    matches = explain(encoder, job(model), [(words, "skin bone drug cure risk")])[0]["matches"]
    assert matches
    assert {match["token"] for match in matches} <= {"skin", "bone"}


def test_cls_tokens_that_were_put_in_between_shift_nothing(m3: Path) -> None:
    query, passage = "kidney blood", " ".join(tiny.WORDS[i % 7] if i != 600 else "kidney" for i in range(700))
    model = ModelConfig(pooling="mcls", query_max_length=16, passage_max_length=900)
    encoder = Encoder.load_folder(m3, model)
    row = explain(encoder, job(model), [(query, passage)])[0]
    scores, tokens = nearest(encoder, query, passage)
    assert [one["query"] for one in row["alignment"]] == ["kidney", "blood", "</s>"]
    assert [one["passage"] for one in row["alignment"]] == tokens
    assert [one["score"] for one in row["alignment"]] == pytest.approx(scores, abs=1e-3)


def test_a_dense_model_has_scores_only(tmp_path: Path) -> None:
    config = ModelConfig(query_max_length=16, passage_max_length=32)
    encoder = Encoder.load_folder(tiny.model(tmp_path), config)
    rows = explain(encoder, job(config), [("heart", "heart"), ("heart", "lung"), ("heart", "heart")])
    assert [list(row) for row in rows] == [["scores"]] * 3
    assert rows[0]["scores"]["dense"] == pytest.approx(1.0, abs=1e-5)
    assert rows[0] == rows[2] != rows[1]
    assert explain(encoder, job(config), []) == []


def test_the_encoder_is_left_as_it_was(encoder: Encoder) -> None:
    for training in (True, False):
        encoder.train(training)
        explain(encoder, job(), [("heart", "heart")])
        assert encoder.training is training


def subwords(kind: str) -> PreTrainedTokenizerFast:
    """The three kinds of marks: ## inside a word, ▁ or Ġ before it; with the pieces of "rickets"."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "wordpiece":
        vocabulary = {token: i for i, token in enumerate([*special, "rick", "##ets", "my", "心", "."])}
        raw = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    elif kind == "metaspace":
        pieces = [*special, "▁rick", "ets", "▁my", "心", ".", "▁"]
        raw = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3))
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        grown, merges = [], []
        for word in ("Ġrick", "ets", "Ġmy", "my"):
            for i in range(1, len(word)):
                if word[: i + 1] not in grown:
                    grown.append(word[: i + 1])
                    merges.append((word[:i], word[i]))
        vocabulary = {token: i for i, token in enumerate([*special, *alphabet, *grown])}
        raw = Tokenizer(models.BPE(vocabulary, merges))
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, cls_token="<s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


class Placeless:
    """A tokenizer written in Python: it cannot say where its tokens were."""

    is_fast = False

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        assert "return_offsets_mapping" not in options
        return self._tokenizer(texts, **options)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("wide"), vocabulary_size=300)


@pytest.mark.parametrize("kind", ["wordpiece", "metaspace", "bytes"])
def test_tokens_are_shown_as_the_text_has_them(wide: Path, kind: str) -> None:
    encoder = Encoder.load_folder(wide, MODEL)
    encoder.tokenizer = subwords(kind)
    row = explain(encoder, job(), [("my rickets 心.", "has my rickets 心.")])[0]
    shown = [one["query"] for one in row["alignment"]]
    # each of the three bytes of 心 is a token, and so is the space before it for two of the kinds
    assert list(dict.fromkeys(one for one in shown if one != "␣")) == ["my", "rick", "##ets", "心", ".", "</s>"]
    for one in row["alignment"]:
        if one["context"]:
            assert one["passage"].removeprefix("##") in one["context"] or one["passage"] == "␣"
    assert {match["token"] for match in row["matches"]} <= {"my", "rick", "##ets", "心", ".", "␣"}


def test_a_tokenizer_without_places(wide: Path) -> None:
    encoder = Encoder.load_folder(wide, MODEL)
    encoder.tokenizer = subwords("wordpiece")
    placed = explain(encoder, job(), [("my rickets", "has my rickets 心.")])[0]
    encoder.tokenizer = Placeless(encoder.tokenizer)
    row = explain(encoder, job(), [("my rickets", "has my rickets 心.")])[0]
    assert row["scores"] == placed["scores"]
    for one, other in zip(row["alignment"], placed["alignment"], strict=True):
        # its vocabulary has no "has", and knows of no letter's case
        assert (one["query"], one["score"]) == (other["query"], other["score"])
        assert one["passage"] in (other["passage"], "<unk>")
        assert one["passage"] in ("<unk>", "</s>") or one["passage"].removeprefix("##") in one["context"]
    assert row["matches"] == placed["matches"]


@given(st.text(alphabet="ab é心ไ.\n\t ", max_size=60), st.data())
def test_any_place_of_any_text_can_be_shown(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    shown, piece = around(text, start, end), as_written(text, start, end)
    assert piece.removeprefix("##") == text[start:end].strip()
    assert len(shown) <= end - start + 2 * 40 + 2
    if start < end:
        assert " ".join(text[start:end].split()) in shown
    else:
        assert (shown, piece) == ("", "")


def test_around_says_where_it_left_off() -> None:
    assert around("one two", 0, 3) == "one two"
    assert around("a b c d e f g", 6, 7) == "a b c d e f g"
    assert around("z a b c d e f g h", 8, 9) == "…a b c d e f g…"
    assert around("x" * 100, 50, 51) == f"…{'x' * 81}…"
