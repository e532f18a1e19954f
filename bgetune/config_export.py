"""The options of `export` and of the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["multi_vector_encoder", "sparse_encoder", "adapter"]
"""A folder beside the export: of sentence-transformers' other two classes, or the LoRA adapter by itself."""
FORM_FOLDERS: dict[Form, str] = {
    "multi_vector_encoder": "export-multi-vector",
    "sparse_encoder": "export-sparse",
    "adapter": "export-adapter",
}
"""Where each lies, beside `export/`."""
OnnxPrecision = Literal["fp32", "int8"]


def branch_of(folder: str) -> str:
    """The branch of a repository on the Hub that a form's folder goes to.

    >>> branch_of("export-multi-vector")
    'multi-vector'
    """
    return folder.removeprefix("export-")


@dataclass(frozen=True)
class ExportConfig:
    """The folder other tools read."""

    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the exported weights."""
    forms: Literal["auto"] | tuple[Form, ...] = "auto"
    """Folders beside it, whose weights are the same files (hard links): `export-multi-vector/` and `export-sparse/` for
    sentence-transformers' MultiVectorEncoder and SparseEncoder, `export-adapter/` for the LoRA adapter without the base
    model. auto: of every head there is, and the adapter where there is one."""
    onnx: tuple[OnnxPrecision, ...] = ()
    """ONNX graphs in `export/onnx/`, with every head as an output; needs the extra `onnx`."""
    verify_texts: int = 200
    """Texts that every reader must give our vectors for; half of them from the job's own data."""
    license: str = "auto"
    """Licence for the model card. auto: what the base model's own card says, and `unknown` where it says nothing."""
    language: str = "en"
    """Language for the model card; several with commas."""


@dataclass(frozen=True)
class HubConfig:
    """Where the export is pushed to. The token is never an option: HF_TOKEN, or `hf auth login`."""

    repo: str | None = None
    """ORG/NAME; `adapt` and `export` push there when they are done. `bgetune export RUN --push ORG/NAME` wins."""
    private: bool = False
    """Make the repository private, where it is made."""
    revision: str | None = None
    """Branch; it is made where it is absent. null: main."""
    checkpoints: Literal["none", "best", "every"] = "none"
    """Push checkpoints while training makes them, to the branch `checkpoints` of `repo`: whenever dev got better, or
    each that is saved."""
