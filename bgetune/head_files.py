"""The files of the sparse and multi-vector heads: FlagEmbedding's two, and the same as safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bgetune.errors import UserError
from bgetune.heads import HeadLayers

HEADS_FILE = "heads.safetensors"
_NAMES = ("sparse_linear", "colbert_linear")


def read_heads(folder: Path, hidden_size: int) -> HeadLayers:
    """The heads a model folder holds, in float32; one that it lacks is None.

    Raises:
        UserError: a file is broken, holds something else, or belongs to a model of another hidden size.
    """
    return HeadLayers(**{name: _linear(_read(folder, name), folder, name, hidden_size) for name in _NAMES})


def _read(folder: Path, name: str) -> dict[str, Tensor] | None:
    pickled, together = folder / f"{name}.pt", folder / HEADS_FILE
    path = pickled if pickled.is_file() else together
    if not path.is_file():
        return None
    try:
        held = torch.load(path, map_location="cpu", weights_only=True) if path == pickled else load_file(path)
    except Exception as error:  # the unpickler fails on broken bytes as it happens: IndexError, UnicodeDecodeError, ...
        raise UserError(f"model.name_or_path: {path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise UserError(f"model.name_or_path: {path} holds something else than a layer's tensors by name")
    if path == pickled:
        return held
    return {key.partition(".")[2]: tensor for key, tensor in held.items() if key.startswith(f"{name}.")} or None


def _linear(state: dict[str, Tensor] | None, folder: Path, name: str, hidden_size: int) -> nn.Linear | None:
    if state is None:
        return None
    weight, bias = state.get("weight"), state.get("bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != hidden_size or set(state) - {"weight", "bias"}:
        shape = "no matrix" if weight is None else f"the shape {list(weight.shape)}"
        raise UserError(f"model.name_or_path: {name} in {folder} has {shape}, not [width, {hidden_size}]")
    if name == "sparse_linear" and len(weight) != 1:
        raise UserError(f"model.name_or_path: {name} in {folder} gives {len(weight)} weights a token, not one")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise UserError(f"model.name_or_path: {name} in {folder} has a bias {list(bias.shape)}, not [{len(weight)}]")
    linear = nn.Linear(hidden_size, len(weight), bias=True)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return linear


def heads_state(layers: HeadLayers, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors by name, `sparse_linear.weight` and so on, on the CPU."""
    return {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in layers.state_dict().items()}


def write_heads(folder: Path, layers: HeadLayers, dtype: torch.dtype = torch.float32) -> None:
    """Write the heads there are.

    FlagEmbedding's files are written only where both heads are: given one alone, its reader takes random
    weights for both and says nothing.
    """
    state = heads_state(layers, dtype)
    if not state:
        return
    save_file(state, folder / HEADS_FILE)
    if all(f"{name}.weight" in state for name in _NAMES):
        for name in _NAMES:
            own = {key.partition(".")[2]: tensor for key, tensor in state.items() if key.startswith(f"{name}.")}
            torch.save(own, folder / f"{name}.pt")
