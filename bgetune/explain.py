"""Why a passage scores as it does: each head's score, the words that match, the tokens that are aligned.

Shapes: N pairs of query and passage, Tq and Tp tokens of one of them, M width of a token's vector.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bgetune.batching import pack
from bgetune.config import JobConfig
from bgetune.encode import autocast
from bgetune.encoded import Encoded, Writer
from bgetune.encoder import Encoder
from bgetune.heads import MCLS_EVERY
from bgetune.index.exact import pair_scores
from bgetune.index.multi_vector import MultiVectorIndex, TokenMatrix
from bgetune.index.sparse import SparseIndex, SparseMatrix

MATCHES, ALIGNED = 12, 64
"""Matched tokens, and aligned query tokens, of a pair at most."""
_WORDS, _CHARACTERS = 3, 40
"""Around a token on either side: so many words, of so many characters together at most."""
_INSIDE = "##"


def explain(encoder: Encoder, config: JobConfig, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """How each head scores each query with its passage.

    Tokens are shown as the text has them; one that goes on inside a word has ## before it, whatever the tokenizer.

    Args:
        pairs: N times query and passage as a whole, title before text; both are cut as in search.

    Returns:
        For each pair "scores", head -> what search gives. With a sparse head "matches": the tokens of both texts, at
        most 12, the largest product first, each with token, query and passage (the weights) and product. With a
        multi-vector head "alignment": for each of the first 64 query tokens, in order, the passage token of the largest
        dot product, which is the score, and the passage's words around that.
    """
    if not pairs:
        return []
    queries = _Read.read(encoder, [query for query, _ in pairs], "query", config)
    passages = _Read.read(encoder, [passage for _, passage in pairs], "passage", config)
    scores = _scores(queries.encoded, passages.encoded, encoder)
    rows: list[dict[str, Any]] = []
    for i in range(len(pairs)):
        row: dict[str, Any] = {"scores": {head: round(float(of_pair[i]), 6) for head, of_pair in scores.items()}}
        asked, there = queries.encoded, passages.encoded
        if asked.sparse is not None and there.sparse is not None:
            row["matches"] = _matches(asked.sparse, there.sparse, i, passages.tokens[i])
        if asked.multi_vector is not None and there.multi_vector is not None:
            vectors = _vectors(asked.multi_vector, i), _vectors(there.multi_vector, i)
            row["alignment"] = _alignment(*vectors, queries.tokens[i], passages.tokens[i])
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Tokens:
    """The tokens of one text, CLS among them."""

    tokenizer: Any
    text: str
    ids: Sequence[int]
    places: Sequence[tuple[int, int]]
    """Start and end of each in `text`; (0, 0) for what is not in it. Empty: the tokenizer knows no places."""

    @classmethod
    def find(cls, encoder: Encoder, text: str, role: str, ids: Sequence[int]) -> _Tokens:
        """Args: text: without the instruction; ids: what `Encoder.tokenize` made of it."""
        text = encoder.spec.instruction(role) + text
        if not encoder.tokenizer.is_fast:
            return cls(encoder.tokenizer, text, ids, [])
        # cut to as many tokens as there are, less the CLS that mcls has put in between
        inserted = (len(ids) - 1) // (MCLS_EVERY + 1) if encoder.spec.pooling == "mcls" else 0
        again = encoder.tokenizer(text, truncation=True, max_length=len(ids) - inserted, return_offsets_mapping=True)
        return cls(encoder.tokenizer, text, again["input_ids"], again["offset_mapping"])

    def with_vectors(self) -> list[int]:
        """Which have vectors of their own: all but CLS."""
        return [i for i, token in enumerate(self.ids) if token != self.tokenizer.cls_token_id]

    def name(self, i: int) -> str:
        """The token as its text has it, or else as the vocabulary has it."""
        return (self.places and as_written(self.text, *self.places[i])) or _in_vocabulary(self.tokenizer, self.ids[i])

    def context(self, i: int) -> str:
        if self.places:
            return around(self.text, *self.places[i])
        return self.tokenizer.decode(self.ids[max(0, i - _WORDS) : i + _WORDS + 1], skip_special_tokens=True)


@dataclass(frozen=True)
class _Read:
    """N texts of one role: what the heads make of them, and their tokens."""

    encoded: Encoded
    tokens: list[_Tokens]

    @classmethod
    def read(cls, encoder: Encoder, texts: Sequence[str], role: str, config: JobConfig) -> _Read:
        """Through search's `Writer`, which rounds; `bgetune.encode` would say once more which texts are cut."""
        token_ids, _ = encoder.tokenize(texts, role)
        writer = Writer(encoder, token_ids, encoder.heads, None, config.encode_dtype)
        was_training = encoder.training
        encoder.eval()
        with torch.inference_mode(), autocast(encoder, config):
            for batch in pack([len(ids) for ids in token_ids], config.encode_batch_tokens):
                ids, mask = encoder.pad([token_ids[i] for i in batch])
                writer.put(batch, encoder(ids.to(encoder.device), mask.to(encoder.device)))
        encoder.train(was_training)
        tokens = [_Tokens.find(encoder, text, role, ids) for text, ids in zip(texts, token_ids, strict=True)]
        return cls(writer.close(), tokens)


def _scores(queries: Encoded, passages: Encoded, encoder: Encoder) -> dict[str, np.ndarray]:
    """Head -> float32 [N], by the code that search scores candidates with."""
    found = {}
    if queries.dense is not None and passages.dense is not None:
        found["dense"] = pair_scores(queries.dense, passages.dense, _own(queries.dense), encoder.spec.similarity)
    if queries.sparse is not None and passages.sparse is not None:
        found["sparse"] = SparseIndex.build(passages.sparse).scores_of(queries.sparse, _own(queries.sparse))
    if queries.multi_vector is not None and passages.multi_vector is not None:
        index = MultiVectorIndex(passages.multi_vector)
        found["multi_vector"] = index.rerank(queries.multi_vector, _own(queries.multi_vector))
    return {head: scores[:, 0] for head, scores in found.items()}


def _own(queries: np.ndarray | SparseMatrix | TokenMatrix) -> np.ndarray:
    """int64 [N, 1]: the one passage of each query."""
    return np.arange(len(queries))[:, None]


def _matches(queries: SparseMatrix, passages: SparseMatrix, i: int, tokens: _Tokens) -> list[dict[str, Any]]:
    """What the texts of pair i share; `tokens` are the passage's."""
    (asked, weights_q), (there, weights_p) = _entries(queries, i), _entries(passages, i)
    shared, at_q, at_p = np.intersect1d(asked, there, assume_unique=True, return_indices=True)
    weights_q, weights_p = weights_q[at_q], weights_p[at_p]
    products = weights_q * weights_p
    return [
        {
            "token": tokens.name(list(tokens.ids).index(int(shared[k]))),
            "query": round(float(weights_q[k]), 4),
            "passage": round(float(weights_p[k]), 4),
            "product": round(float(products[k]), 4),
        }
        for k in np.lexsort((shared, -products))[:MATCHES]
    ]


def _entries(texts: SparseMatrix, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, ascending, and weights of text i."""
    span = slice(texts.indptr[i], texts.indptr[i + 1])
    return texts.ids[span], texts.weights[span]


def _vectors(texts: TokenMatrix, i: int) -> np.ndarray:
    """float32 [T, M] of text i."""
    return texts.vectors[texts.offsets[i] : texts.offsets[i + 1]].astype(np.float32)


def _alignment(query: np.ndarray, passage: np.ndarray, asked: _Tokens, there: _Tokens) -> list[dict[str, Any]]:
    """The passage's nearest token of each of the query's; query: float32 [Tq, M], passage: float32 [Tp, M]."""
    at_q, at_p = asked.with_vectors(), there.with_vectors()
    assert (len(query), len(passage)) == (len(at_q), len(at_p))
    if not len(passage):
        return []
    products = query[:ALIGNED] @ passage.T
    return [
        {
            "query": asked.name(at_q[i]),
            "passage": there.name(at_p[best]),
            "score": round(float(products[i, best]), 4),
            "context": there.context(at_p[best]),
        }
        for i, best in enumerate(products.argmax(axis=1).tolist())
    ]


def as_written(text: str, start: int, end: int) -> str:
    """What stands at start to end, without white space, and with ## where it goes on inside a word.

    >>> as_written("my rickets", 2, 7), as_written("my rickets", 7, 10), as_written("心脏", 1, 2)
    ('rick', '##ets', '脏')
    """
    piece = text[start:end].strip()
    before = text[:end].rstrip()[: -len(piece)] if piece else ""
    spaced = piece.isalnum() and unicodedata.east_asian_width(piece[0]) not in "WF"
    return f"{_INSIDE}{piece}" if spaced and before[-1:].isalnum() else piece


def around(text: str, start: int, end: int) -> str:
    """What stands at start to end, with up to three words before and behind; nothing for a token without a place.

    >>> around("one two three four five six seven eight nine", 19, 21)  # iv
    '…two three four five six seven eight…'
    >>> around("a word", 0, 0)
    ''
    """
    if start == end:
        return ""
    left = re.search(rf"(?:\S+\s+){{0,{_WORDS}}}\S*$", text[:start][-_CHARACTERS:])
    right = re.match(rf"\S*(?:\s+\S+){{0,{_WORDS}}}", text[end:][:_CHARACTERS])
    assert left, "the pattern matches the empty text"
    assert right, "the pattern matches the empty text"
    shown = " ".join(f"{left[0]}{text[start:end]}{right[0]}".split())
    before, behind = text[:start].strip() != left[0].strip(), text[end:].strip() != right[0].strip()
    return f"{'…' * before}{shown}{'…' * behind}"


def _in_vocabulary(tokenizer: Any, token: int) -> str:
    """A token that is in no text, such as SEP, or only a space in it: ␣."""
    return tokenizer.decode([token]).strip() or "␣"
