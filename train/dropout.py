"""Dropout on a processor whose masks are drawn four at a time.

torch draws a random number of 32 bits for each element, on one thread, and keeps the mask as floats: a fifth of a
step (docs/log.md). Sixteen bits decide as well, and the mask is kept as bytes. Only what calls
`torch.nn.functional.dropout` gains: modules, adapters and eager attention do, `scaled_dot_product_attention` does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LEVELS = 1 << 16


def quick_dropout(device: torch.device) -> contextlib.AbstractContextManager:
    """While it is open, a model on a processor draws its masks by `dropout`; on other devices nothing changes."""
    return QuickDropout() if device.type == "cpu" else contextlib.nullcontext()


class QuickDropout(TorchFunctionMode):
    """While it is open, `torch.nn.functional.dropout` is `dropout`, whoever calls it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return (dropout if func is functional.dropout else func)(*args, **(kwargs or {}))


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero elements with probability p, rounded to 1 / 65,536, and scale the others to the same mean.

    Drawn from a stream that torch's generator seeds, so that `torch.manual_seed` repeats it. What is dropped is 0, if
    it was not finite too. `functional.dropout` does the work on other devices, in place, and for a p that rounds to 0
    or 1.
    """
    dropped = round(p * _LEVELS)
    if not training or inplace or input.device.type != "cpu" or not 0 < dropped < _LEVELS:
        return functional.dropout(input, p, training, inplace)
    return _Dropout.apply(input, dropped)


class _Dropout(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, input: Tensor, dropped: int) -> Tensor:
        kept = (_sixteen_bits(input.numel()) >= dropped - _LEVELS // 2).view(input.shape)
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - dropped)  # type: ignore[attr-defined]
        return _masked(input, kept, ctx.scale)  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _masked(gradients[0], kept, ctx.scale), None


def _masked(values: Tensor, kept: Tensor, scale: float) -> Tensor:
    return torch.where(kept, values, 0.0).mul_(scale)


def _sixteen_bits(count: int) -> Tensor:
    """int16 [count], uniform over all its values."""
    seed = int(torch.randint(2**63 - 1, ()))
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    return torch.from_numpy(words.view(np.int16))[:count]
