"""Where a process computes, and in which precision."""

from __future__ import annotations

import os

import torch

from bgetune.config import Precision
from bgetune.errors import UserError


def this_device() -> torch.device:
    """Where this process computes: its own card under a launcher, the first card, Apple's GPU, or the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type to autocast to, None for plain float32. `auto`: bfloat16 where the hardware multiplies it fast.

    Raises:
        UserError: bf16 is asked for and the card has none.
    """
    if precision == "fp32":
        return None
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    else:
        fast = False
    if precision == "bf16" and not fast and device.type == "cuda":
        raise UserError("train.precision: this card has no bf16; use fp32")
    return torch.bfloat16 if fast or precision == "bf16" else None
