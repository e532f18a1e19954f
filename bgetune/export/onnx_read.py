"""The readers of the ONNX graphs: onnxruntime and the folder's tokenizer, nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bgetune.batching import pack
from bgetune.config_export import OnnxPrecision
from bgetune.encoder import Encoder
from bgetune.export.reading import Read, Reader, longest

ONNX_FILES: dict[OnnxPrecision, str] = {"fp32": "embeddings.onnx", "int8": "embeddings_int8.onnx"}
"""In `onnx/`. Not `model.onnx`: other readers look for one with `last_hidden_state` there, and would pool again."""

_BATCH_TOKENS = 4096


def graph_path(folder: Path, precision: OnnxPrecision) -> Path:
    return folder / "onnx" / ONNX_FILES[precision]


def read_graph(folder: Path, precision: OnnxPrecision, max_length: int, texts: Sequence[str]) -> Read:
    """What a graph gives for the texts, several at once.

    Args:
        folder: the export, with tokenizer and `onnx/`.
        max_length: tokens that a text is cut to.
    """
    import onnxruntime
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(str(graph_path(folder, precision)), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    lengths = [len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]]
    dense: dict[int, np.ndarray] = {}
    sparse: dict[int, dict[int, float]] = {}
    multi_vector: dict[int, np.ndarray] = {}
    for rows in pack(lengths, _BATCH_TOKENS):
        batch = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=max_length, return_tensors="np"
        )
        ids, mask = (batch[name].astype(np.int64) for name in ("input_ids", "attention_mask"))
        found = dict(zip(names, session.run(names, {"input_ids": ids, "attention_mask": mask}), strict=True))
        for at, row in enumerate(rows):
            dense[row] = found["dense"][at]
            if "sparse_weights" in found:
                sparse[row] = lexical(ids[at], found["sparse_weights"][at])
            if "multi_vectors" in found:
                keep = (mask[at] == 1) & (ids[at] != tokenizer.cls_token_id)
                multi_vector[row] = found["multi_vectors"][at][keep]
    every = range(len(texts))
    return Read(
        np.stack([dense[row] for row in every]),
        [sparse[row] for row in every] if sparse else None,
        [multi_vector[row] for row in every] if multi_vector else None,
    )


def lexical(ids: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    """Token ids and weights [L] to the largest weight of each token that has one.

    >>> lexical(np.array([0, 7, 9, 7, 2]), np.array([0.0, 0.5, 0.0, 2.0, 0.0]))
    {7: 2.0}
    """
    found: dict[int, float] = {}
    for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        if weight > found.get(token, 0.0):
            found[token] = weight
    return found


def _applies(precision: OnnxPrecision) -> Callable[[Path, Encoder], bool]:
    return lambda folder, encoder: graph_path(folder, precision).is_file()


def _read(precision: OnnxPrecision) -> Callable[[Path, Encoder, Sequence[str]], Read]:
    return lambda folder, encoder, texts: read_graph(folder, precision, longest(encoder), texts)


ONNX = Reader(
    "onnxruntime",
    "onnxruntime",
    _applies("fp32"),
    _read("fp32"),
    tolerance=1e-4,
    needs=f"onnx/{ONNX_FILES['fp32']}, which `export.onnx: [fp32]` writes",
)
ONNX_INT8 = Reader(
    "onnxruntime int8",
    "onnxruntime",
    _applies("int8"),
    _read("int8"),
    by_cosine=True,
    needs=f"onnx/{ONNX_FILES['int8']}, which `export.onnx: [int8]` writes",
)
