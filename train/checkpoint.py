"""Checkpoints to resume from: the model as a folder every reader takes, the optimizer, and where we were.

State is safetensors and JSON, never pickle. A checkpoint is whole or absent.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bgetune.encoder import Encoder
from bgetune.files import atomic_file, atomic_folder, read_json, write_json
from bgetune.run import Run


@dataclass
class Progress:
    """Where a training run is: everything that is not weights or optimizer state."""

    step: int = 0
    log_lines: int = 0
    best_score: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped_early: bool = False


def clear_unless_ours(run: Run) -> None:
    """Remove checkpoints and log that an earlier start with other inputs left; keep those of this start."""
    started, note = run.started("train"), run.resumable
    ours = started.read_bytes() if started.exists() else b"{}\n"
    if note.exists() and note.read_bytes() == ours:
        return
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    run.train_log.unlink(missing_ok=True)
    with atomic_file(note, "wb") as file:
        file.write(ours)


def save(folder: Path, encoder: Encoder, optimizer: torch.optim.Optimizer, progress: Progress, keep: int) -> None:
    """Write `folder/step-N` and remove all but the newest `keep`."""
    with atomic_folder(folder / f"step-{progress.step}") as partial:
        encoder.save(partial)
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        write_json(partial / "progress.json", asdict(progress))
    for step in sorted(_steps(folder))[:-keep]:
        shutil.rmtree(folder / f"step-{step}")


def save_best(folder: Path, encoder: Encoder, progress: Progress) -> None:
    with atomic_folder(folder) as partial:
        encoder.save(partial)
        write_json(partial / "best.json", {"step": progress.best_step, "dev_ndcg@10": progress.best_score})


def resume(folder: Path, encoder: Encoder, optimizer: torch.optim.Optimizer) -> Progress:
    """Bring encoder and optimizer to the newest checkpoint; a fresh Progress where there is none."""
    steps = _steps(folder)
    if not steps:
        return Progress()
    newest = folder / f"step-{max(steps)}"
    encoder.backbone.load_state_dict(load_file(newest / "model.safetensors"))
    _load_optimizer(optimizer, load_file(newest / "optimizer.safetensors"))
    return Progress(**read_json(newest / "progress.json"))


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.glob("step-*")] if folder.is_dir() else []
    return [int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Tensors of the optimizer's state, named `<parameter index>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value.cpu().contiguous() for i, entry in state.items() for name, value in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
