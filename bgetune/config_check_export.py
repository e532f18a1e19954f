"""Which values of `export` and `hub` have the right type and no sense."""

from __future__ import annotations

import importlib.util

from bgetune.config_check_data import at_least, require
from bgetune.config_export import ExportConfig, Form, HubConfig
from bgetune.errors import UserError
from bgetune.export.push_secret import branch_name, repository_name

_ONNX_MODULES = ("onnx", "onnxscript", "onnxruntime")
_HEADS: dict[Form, str] = {"multi_vector_encoder": "multi_vector", "sparse_encoder": "sparse"}
_CHECKPOINTS = "checkpoints"


def check_export(export: ExportConfig, heads: tuple[str, ...] | str, lora_rank: int, merged: bool) -> None:
    """
    Args:
        heads: model.heads.
        merged: whether merge.shares asks for merged weights, which are no base and an adapter.
    """
    at_least(1, "export.verify_texts", export.verify_texts)
    require(bool(export.license.strip()), "export.license", export.license, "name one as the Hub does, or auto")
    require(bool(export.language.strip()), "export.language", export.language, "write a code such as en")
    forms = () if export.forms == "auto" else export.forms
    require(len(set(forms)) == len(forms), "export.forms", list(forms), "name each once, or auto")
    for form, head in _HEADS.items():
        if form in forms and heads != "auto":
            require(head in heads, "export.forms", form, f"it is made of the {head} head; add that to model.heads")
    if "adapter" in forms:
        require(lora_rank > 0, "export.forms", "adapter", "nothing trains one; set train.lora.rank")
        require(not merged, "export.forms", "adapter", "weights that merge.shares makes are no base and an adapter")
    require(len(set(export.onnx)) == len(export.onnx), "export.onnx", list(export.onnx), "name each once")
    if export.onnx:
        refuse_without_onnx()  # now, and not after the training


def refuse_without_onnx() -> None:
    """
    Raises:
        UserError: a package that makes or runs an ONNX graph is absent.
    """
    absent = [name for name in _ONNX_MODULES if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(f"export.onnx: needs {', '.join(absent)}; run pip install 'bgetune[onnx]', or leave it out")


def check_hub(hub: HubConfig) -> None:
    if hub.repo is not None:
        repository_name(hub.repo, "hub.repo")
    if hub.revision is not None:
        branch_name(hub.revision, "hub.revision")
    if hub.checkpoints != "none":
        require(hub.repo is not None, "hub.checkpoints", hub.checkpoints, "name the repository in hub.repo as well")
        taken = hub.revision == _CHECKPOINTS
        require(not taken, "hub.revision", hub.revision, "hub.checkpoints are pushed to that branch; name another")
