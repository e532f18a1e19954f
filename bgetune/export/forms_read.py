"""The readers of the forms beside an export: sentence-transformers' two other classes, and peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bgetune.config import ModelConfig
from bgetune.config_export import FORM_FOLDERS, Form
from bgetune.encoder import Encoder
from bgetune.export.reading import Read, Reader, our_read
from bgetune.files import read_json
from bgetune.head_files import read_heads
from bgetune.models import model_folder

_BATCH = 8  # texts; some are long


def _beside(form: Form, module: str) -> Callable[[Path, Encoder], bool]:
    """Whether the form lies beside the main folder, and the installed library has the class that reads it."""

    def applies(folder: Path, encoder: Encoder) -> bool:
        return _place(form, folder).is_dir() and importlib.util.find_spec(module) is not None

    return applies


def _place(form: Form, main: Path) -> Path:
    return main.resolve().parent / FORM_FOLDERS[form]


def _multi_vector(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(_place("multi_vector_encoder", folder)), device="cpu", local_files_only=True)
    found = model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True)
    return Read(multi_vector=[np.asarray(vectors, dtype=np.float32) for vectors in found])


def _sparse(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    from sentence_transformers import SparseEncoder

    # the code that comes with the folder is ours: forms_lexical.py
    place = str(_place("sparse_encoder", folder))
    model = SparseEncoder(place, device="cpu", local_files_only=True, trust_remote_code=True)
    found = model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False).coalesce()
    rows: list[dict[int, float]] = [{} for _ in texts]
    for row, token, weight in zip(*found.indices().tolist(), found.values().tolist(), strict=True):
        rows[row][token] = weight
    return Read(sparse=rows)


def _adapter(folder: Path, encoder: Encoder, texts: Sequence[str]) -> Read:
    """The base model and the adapter on it, pooled as ours; its heads on the same states."""
    from peft import PeftModel
    from transformers import AutoModel

    place = _place("adapter", folder)
    told = read_json(place / "adapter_config.json")
    base = model_folder(ModelConfig(told["base_model_name_or_path"], revision=told["revision"]))
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base, dtype=torch.float32), place)
    layers = read_heads(place, encoder.width)
    return our_read(Encoder(model, encoder.tokenizer, encoder.spec, layers, ("dense",)), texts)


MULTI_VECTOR_ENCODER = Reader(
    "sentence-transformers MultiVectorEncoder",
    "sentence_transformers",
    _beside("multi_vector_encoder", "sentence_transformers.multi_vector_encoder"),
    _multi_vector,
    needs="export-multi-vector beside the folder, and sentence-transformers 6.0 or later",
)
SPARSE_ENCODER = Reader(
    "sentence-transformers SparseEncoder",
    "sentence_transformers",
    _beside("sparse_encoder", "sentence_transformers.sparse_encoder"),
    _sparse,
    needs="export-sparse beside the folder",
)
ADAPTER = Reader("peft adapter", "peft", _beside("adapter", "peft"), _adapter, needs="export-adapter beside the folder")
