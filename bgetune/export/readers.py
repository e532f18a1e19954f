"""The readers of our folder: each loads it as its own users do, and gives what it makes of some texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bgetune.config import HEADS, Head
from bgetune.encoder import Encoder
from bgetune.export.reading import Read, Reader, longest
from bgetune.head_files import HEADS_FILE
from bgetune.layout import flag_model_settings

# texts that a reader pads to one length: with long ones among them, a large batch is mostly padding
_BATCH = 8
_AUTO_CLASSES = {"m3": "encoder-only-m3", "base": "encoder-only-base"}
_NEEDS_POOLING = "pooling by cls or mean"
_NEEDS_BOTH_HEADS = "both the sparse and the multi-vector head, and a CLS token"


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


def _sentence_transformers(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    # a model of others may put a prompt before every text by default
    found = model.encode(list(texts), prompt="", batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True)
    return Read(np.asarray(found, dtype=np.float32))


def _transformers(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    """The recipe of the model card, written out here on its own so that a slip in our pooling or our heads shows."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    heads = _heads_in(folder)
    rows: dict[int, tuple[Tensor, dict[int, float], np.ndarray]] = {}
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(texts), _BATCH):
        some = by_length[at : at + _BATCH]
        batch = tokenizer(
            [texts[i] for i in some],
            padding=True,
            truncation=True,
            max_length=longest(encoder),
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state.float()
        dense = _pooled(states, batch["attention_mask"].unsqueeze(-1), encoder)
        for row, i in enumerate(some):
            mask = batch["attention_mask"][row].bool()
            ids, own = batch["input_ids"][row][mask], states[row][mask]
            weights = _weights(ids, own, heads, tokenizer)
            rows[i] = dense[row], weights, _token_vectors(ids, own, heads, tokenizer, encoder.spec.normalize)
    read = [rows[i] for i in range(len(texts))]
    return Read(
        torch.stack([dense for dense, _, _ in read]).numpy(),
        [weights for _, weights, _ in read] if "sparse_linear.weight" in heads else None,
        [vectors for _, _, vectors in read] if "colbert_linear.weight" in heads else None,
    )


def _heads_in(folder: Path) -> dict[str, Tensor]:
    """Tensors by their names in `heads.safetensors`; where that is absent, as in BGE-M3, of FlagEmbedding's files."""
    from safetensors.torch import load_file

    held = load_file(folder / HEADS_FILE) if (folder / HEADS_FILE).is_file() else {}
    for layer in ("sparse_linear", "colbert_linear") if not held else ():
        if (folder / f"{layer}.pt").is_file():
            parts = torch.load(folder / f"{layer}.pt", map_location="cpu", weights_only=True)
            held |= {f"{layer}.{part}": tensor for part, tensor in parts.items()}
    return {name: tensor.float() for name, tensor in held.items()}


def _pooled(states: Tensor, mask: Tensor, encoder: Encoder) -> Tensor:
    if encoder.spec.pooling_elsewhere == "cls":
        vectors = states[:, 0]
    elif encoder.spec.pooling_elsewhere == "mean":
        vectors = (states * mask).sum(1) / mask.sum(1)
    else:
        vectors = states.masked_fill(mask == 0, -torch.inf).amax(1)
    return vectors / vectors.norm(dim=1, keepdim=True) if encoder.spec.normalize else vectors


def _weights(ids: Tensor, states: Tensor, heads: dict[str, Tensor], tokenizer: Any) -> dict[int, float]:
    """Of one text: token id -> weight, the largest where a token is repeated; none without the head."""
    if "sparse_linear.weight" not in heads:
        return {}
    weights = (states @ heads["sparse_linear.weight"].T + heads["sparse_linear.bias"]).relu().squeeze(1)
    found: dict[int, float] = {}
    for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        if token not in tokenizer.all_special_ids and weight != 0:
            found[token] = max(weight, found.get(token, weight))
    return found


def _token_vectors(
    ids: Tensor, states: Tensor, heads: dict[str, Tensor], tokenizer: Any, normalize: bool
) -> np.ndarray:
    """Of one text: a row a token but CLS; none without the head."""
    if "colbert_linear.weight" not in heads:
        return np.zeros((0, 0), dtype=np.float32)
    vectors = states[ids != tokenizer.cls_token_id] if tokenizer.cls_token_id is not None else states
    vectors = vectors @ heads["colbert_linear.weight"].T + heads["colbert_linear.bias"]
    return (vectors / vectors.norm(dim=1, keepdim=True) if normalize else vectors).numpy()


def _flag_model(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    from FlagEmbedding import FlagModel

    model = FlagModel(str(folder), devices="cpu", **flag_model_settings(encoder.spec))
    return _asked(model, encoder, texts, ("dense",))


def _m3_model(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    from FlagEmbedding import BGEM3FlagModel

    heads = m3_heads(encoder)
    model = BGEM3FlagModel(str(folder), devices="cpu", **m3_settings(encoder, heads))
    return _asked(model, encoder, texts, heads)


def _auto_model(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    """It knows BGE's own models by their names; any other needs `model_class`."""
    from FlagEmbedding import FlagAutoModel

    heads = m3_heads(encoder)
    told = m3_settings(encoder, heads) if heads else flag_model_settings(encoder.spec)
    told |= {"model_class": _AUTO_CLASSES["m3" if heads else "base"], "trust_remote_code": False}
    model = FlagAutoModel.from_finetuned(str(folder), devices="cpu", query_instruction_format="{}{}", **told)
    return _asked(model, encoder, texts, heads or ("dense",))


def _asked(model: Any, encoder: Encoder, texts: Sequence[str], heads: Sequence[Head]) -> Read:
    """What a model of FlagEmbedding gives: an array, or of its M3 class a dict with an entry for each head."""
    found = model.encode(list(texts), batch_size=_BATCH, max_length=longest(encoder))
    if isinstance(found, np.ndarray):
        return Read(found.astype(np.float32))
    sparse = [{int(token): float(weight) for token, weight in row.items()} for row in found["lexical_weights"]]
    return Read(found["dense_vecs"] if "dense" in heads else None, sparse, found["colbert_vecs"])


def _always(folder: Path, encoder: Encoder) -> bool:
    return True


SENTENCE_TRANSFORMERS = Reader("sentence-transformers", "sentence_transformers", _always, _sentence_transformers)
TRANSFORMERS = Reader("transformers", "transformers", _always, _transformers)
FLAG_MODEL = Reader(
    "FlagEmbedding FlagModel",
    "FlagEmbedding",
    lambda folder, encoder: flag_model_reads(encoder),
    _flag_model,
    needs=_NEEDS_POOLING,
)
M3_MODEL = Reader(
    "FlagEmbedding BGEM3FlagModel",
    "FlagEmbedding",
    lambda folder, encoder: bool(m3_heads(encoder)),
    _m3_model,
    needs=_NEEDS_BOTH_HEADS,
    plain_texts=True,
)
AUTO_MODEL = Reader(
    "FlagEmbedding FlagAutoModel",
    "FlagEmbedding",
    lambda folder, encoder: flag_model_reads(encoder) or bool(m3_heads(encoder)),
    _auto_model,
    needs=_NEEDS_POOLING,
    plain_texts=True,
)
OF_THE_FOLDER: tuple[Reader, ...] = (SENTENCE_TRANSFORMERS, TRANSFORMERS, FLAG_MODEL, M3_MODEL, AUTO_MODEL)
"""The readers of the main folder's own files, without ONNX and what lies beside it."""
