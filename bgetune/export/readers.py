"""Does every reader give what our heads give? Loads a folder in each of them and compares."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bgetune.config import HEADS, Head
from bgetune.encoder import Encoder
from bgetune.heads import MCLS_EVERY
from bgetune.layout import flag_model_settings
from bgetune.representations import Representations, SparseRows

# Short, long, many scripts, emoji, punctuation only, nearly empty: what tends to part tokenizers and poolings.
SAMPLE = (
    "What is the capital of France?",
    "def add(a, b):\n    return a + b",
    "Die Straße nach Gießen führt über Köln.",
    "東京は日本の首都です。",
    "Москва — столица России.",
    "القاهرة هي عاصمة مصر",
    "🙂🚀 emoji only 🙃",
    "...",
    "a",
    " leading and trailing spaces ",
    "A longer text about retrieval, repeated so that it fills the window. " * 40,
)


def our_representations(encoder: Encoder, texts: Sequence[str]) -> list[Representations]:
    """Each text with every head there is, without an instruction; one at a time, so that no padding is involved."""
    encoder.eval()
    heads = [head for head in HEADS if encoder.layers.has(head)]
    found = []
    with torch.inference_mode():
        for text in texts:
            batch = _tokenized(encoder, [text])
            ids, mask = encoder.pad(batch)
            found.append(encoder(ids, mask, heads))
    return found


def our_vectors(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """float32 dense vectors [N, D] of the same."""
    return _dense(our_representations(encoder, texts))


def _dense(found: Sequence[Representations]) -> np.ndarray:
    return np.concatenate([each.dense.float().numpy() for each in found if each.dense is not None])


def _limit(encoder: Encoder) -> int:
    return max(encoder.spec.query_max_length, encoder.spec.passage_max_length)


def _tokenized(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    batch = encoder.tokenizer(list(texts), truncation=True, max_length=_limit(encoder), return_token_type_ids=False)
    return batch["input_ids"]


def read_alike(encoder: Encoder, texts: Sequence[str]) -> tuple[str, ...]:
    """The texts that other readers give the tokens that we do: with mcls, those too short for a second CLS token."""
    if encoder.spec.pooling != "mcls":
        return tuple(texts)
    lengths = map(len, _tokenized(encoder, texts))
    return tuple(text for text, length in zip(texts, lengths, strict=True) if length <= MCLS_EVERY + 1)


def m3_settings(encoder: Encoder, heads: Sequence[Head]) -> dict[str, Any]:
    """What FlagEmbedding's `BGEM3FlagModel` must be told to give what these of our heads give."""
    settings = flag_model_settings(encoder.spec)
    if "dense" not in heads:
        del settings["pooling_method"]
    told: dict[str, Head] = {"return_dense": "dense", "return_sparse": "sparse", "return_colbert_vecs": "multi_vector"}
    settings |= {option: head in heads for option, head in told.items()}
    width = getattr(encoder.layers.colbert_linear, "out_features", encoder.width)
    return settings if width == encoder.width else {**settings, "colbert_dim": width}


def m3_heads(encoder: Encoder) -> tuple[Head, ...]:
    """The heads that `BGEM3FlagModel` reads from our folder as they are.

    None, unless both of its own are there: it would take random weights for the other (see `write_heads`). It also
    needs a CLS token, since it leaves out the vector of a text's first token, and it knows no pooling by max.
    """
    own = encoder.layers.has("sparse") and encoder.layers.has("multi_vector")
    if not own or encoder.tokenizer.cls_token_id is None:
        return ()
    return tuple(head for head in HEADS if head != "dense" or flag_model_reads(encoder))


def flag_model_reads(encoder: Encoder) -> bool:
    """Whether FlagEmbedding has our pooling."""
    return encoder.spec.pooling_elsewhere in ("cls", "mean")


def compare_readers(folder: Path, encoder: Encoder, texts: Sequence[str] = SAMPLE) -> dict[str, float]:
    """Largest difference from what we give, for each reader that can express this model, head by head.

    Absolute, or relative where there are numbers above 1, as in vectors that are not of length 1. Infinite where a
    reader gives another number of vectors; NaN where it, or we, give NaN.
    """
    encoder = encoder.to("cpu")
    texts = read_alike(encoder, texts)
    ours = our_representations(encoder, texts)
    readers = {"sentence-transformers": _sentence_transformers, "transformers": _transformers}
    if flag_model_reads(encoder):
        readers["FlagEmbedding"] = _flag_embedding
    found = {name: _largest(read(folder, encoder, texts), _dense(ours)) for name, read in readers.items()}
    if heads := m3_heads(encoder):
        found |= _compare_m3(_flag_embedding_m3(folder, encoder, texts, heads), ours, heads)
    return found


def _compare_m3(theirs: dict[str, Any], ours: list[Representations], heads: Sequence[Head]) -> dict[str, float]:
    found = {}
    if "dense" in heads:
        found["FlagEmbedding M3 dense"] = _largest(np.asarray(theirs["dense_vecs"]), _dense(ours))
    rows = [each.sparse for each in ours if each.sparse is not None]
    pairs = zip(theirs["lexical_weights"], rows, strict=True)
    found["FlagEmbedding M3 sparse"] = float(np.max([_sparse_difference(told, row) for told, row in pairs]))
    matrices = [each.multi_vector.vectors.float().numpy() for each in ours if each.multi_vector is not None]
    both = zip(theirs["colbert_vecs"], matrices, strict=True)
    found["FlagEmbedding M3 multi-vector"] = float(np.max([_largest(told, matrix) for told, matrix in both]))
    return found


def _largest(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest difference, as a share of our largest number where that is above 1: float32 has seven digits.

    >>> _largest(np.array([0.5, 0.25]), np.array([0.5, 0.5])), _largest(np.array([15.0]), np.array([20.0]))
    (0.25, 0.25)
    """
    if theirs.shape != ours.shape:
        return float("inf")
    return float(np.abs(theirs - ours).max(initial=0.0)) / max(1.0, float(np.abs(ours).max(initial=0.0)))


def _sparse_difference(theirs: dict[str, float], ours: SparseRows) -> float:
    """Over the tokens that either has; a token that is left out weighs 0."""
    told = {int(token): float(weight) for token, weight in theirs.items()}
    weights = dict(zip(ours.ids.tolist(), ours.weights.tolist(), strict=True))
    both = np.array([[told.get(token, 0.0), weights.get(token, 0.0)] for token in told | weights]).reshape(-1, 2)
    return _largest(both[:, 0], both[:, 1])


def difference_table(differences: dict[str, float]) -> str:
    """One line a reader."""
    return "\n".join(f"  {name:<32}{value:.1e}" for name, value in differences.items())


def _sentence_transformers(folder: Path, encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.asarray(model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True), dtype=np.float32)


def _flag_embedding(folder: Path, encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    from FlagEmbedding import FlagModel

    told = {**flag_model_settings(encoder.spec), "passage_max_length": _limit(encoder)}
    model = FlagModel(str(folder), devices="cpu", **told)
    with _no_progress_bars():
        return np.asarray(model.encode(list(texts)), dtype=np.float32)


def _flag_embedding_m3(folder: Path, encoder: Encoder, texts: Sequence[str], heads: Sequence[Head]) -> dict[str, Any]:
    from FlagEmbedding import BGEM3FlagModel

    told = {**m3_settings(encoder, heads), "passage_max_length": _limit(encoder)}
    model = BGEM3FlagModel(str(folder), devices="cpu", **told)
    with _no_progress_bars():
        return model.encode(list(texts))


def _transformers(folder: Path, encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """The recipe of the model card, written out here on its own so that a slip in our pooling shows."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    pooling = encoder.spec.pooling_elsewhere
    with torch.inference_mode():
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=_limit(encoder), return_tensors="pt")
        states, mask = model(**batch).last_hidden_state.float(), batch["attention_mask"].unsqueeze(-1)
        if pooling == "cls":
            vectors = states[:, 0]
        elif pooling == "mean":
            vectors = (states * mask).sum(1) / mask.sum(1)
        else:
            vectors = states.masked_fill(mask == 0, -torch.inf).amax(1)
        if encoder.spec.normalize:
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
    return vectors.numpy()


class _no_progress_bars:
    """FlagEmbedding draws bars for eleven texts; tqdm reads this variable when a bar is made."""

    def __enter__(self) -> None:
        self._before = os.environ.get("TQDM_DISABLE")
        os.environ["TQDM_DISABLE"] = "1"
        logging.getLogger("FlagEmbedding").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = self._before
