"""Does every reader give our vectors? Loads a folder in each of them and compares."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch

from bgetune.encoder import Encoder

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


def our_vectors(encoder: Encoder, texts: tuple[str, ...]) -> np.ndarray:
    """float32 vectors [N, D] without an instruction, one text at a time, so that no padding is involved."""
    encoder.eval()
    limit = max(encoder.spec.query_max_length, encoder.spec.passage_max_length)
    rows = []
    with torch.inference_mode():
        for text in texts:
            batch = encoder.tokenizer([text], truncation=True, max_length=limit, return_token_type_ids=False)
            ids, mask = encoder.pad(batch["input_ids"])
            rows.append(encoder(ids, mask, ("dense",)).dense.float().numpy()[0])
    return np.stack(rows)


def compare_readers(folder: Path, encoder: Encoder, texts: tuple[str, ...] = SAMPLE) -> dict[str, float]:
    """Largest absolute difference from our vectors, for each reader that can express this model."""
    encoder = encoder.to("cpu")
    ours = our_vectors(encoder, texts)
    readers = {"sentence-transformers": _sentence_transformers, "transformers": _transformers}
    if encoder.spec.pooling in ("cls", "mean"):
        readers["FlagEmbedding"] = _flag_embedding
    return {name: float(np.abs(read(folder, encoder, texts) - ours).max()) for name, read in readers.items()}


def difference_table(differences: dict[str, float]) -> str:
    """One line a reader."""
    return "\n".join(f"  {name:<24}{value:.1e}" for name, value in differences.items())


def _sentence_transformers(folder: Path, encoder: Encoder, texts: tuple[str, ...]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.asarray(model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True), dtype=np.float32)


def _flag_embedding(folder: Path, encoder: Encoder, texts: tuple[str, ...]) -> np.ndarray:
    from FlagEmbedding import FlagModel

    spec, limit = encoder.spec, max(encoder.spec.query_max_length, encoder.spec.passage_max_length)
    model = FlagModel(
        str(folder),
        pooling_method=spec.pooling,
        normalize_embeddings=spec.normalize,
        use_fp16=False,
        devices="cpu",
        passage_max_length=limit,
    )
    with _no_progress_bars():
        return np.asarray(model.encode_corpus(list(texts)), dtype=np.float32)


def _transformers(folder: Path, encoder: Encoder, texts: tuple[str, ...]) -> np.ndarray:
    """The recipe of the model card, written out here on its own so that a slip in our pooling shows."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    limit = max(encoder.spec.query_max_length, encoder.spec.passage_max_length)
    with torch.inference_mode():
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        states, mask = model(**batch).last_hidden_state.float(), batch["attention_mask"].unsqueeze(-1)
        if encoder.spec.pooling == "cls":
            vectors = states[:, 0]
        elif encoder.spec.pooling == "mean":
            vectors = (states * mask).sum(1) / mask.sum(1)
        else:
            vectors = states.masked_fill(mask == 0, -torch.inf).amax(1)
        if encoder.spec.normalize:
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
    return vectors.numpy()


class _no_progress_bars:
    """FlagEmbedding draws bars for eleven texts; tqdm reads this variable when a bar is made."""

    def __enter__(self) -> None:
        os.environ["TQDM_DISABLE"] = "1"
        logging.getLogger("FlagEmbedding").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        os.environ.pop("TQDM_DISABLE", None)
