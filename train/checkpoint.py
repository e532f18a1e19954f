"""Checkpoints to resume from: the model as a folder every reader takes, what it lacks, the optimizer, where we were.

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

from bgetune.files import atomic_file, atomic_folder, read_json, write_json
from bgetune.head_files import HEADS_FILE
from bgetune.run import STARTED_HEADS, Run

from .step import Learner


@dataclass
class Progress:
    """Where a training run is: everything that is not weights or optimizer state."""

    step: int = 0
    log_lines: int = 0
    best_score: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped_early: bool = False
    micro_batch_tokens: int | None = None
    """What `auto` came to, so that a resumed run computes as the first did."""


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


def started_heads(run: Run) -> Path:
    """The folder of heads that were started in closed form, since the base model has none."""
    return run.checkpoints / STARTED_HEADS


def save(folder: Path, learner: Learner, progress: Progress, keep: int) -> None:
    """Write `folder/step-N` and remove all but the newest `keep`."""
    with atomic_folder(folder / f"step-{progress.step}") as partial:
        learner.encoder.save(partial)
        save_file(_besides_the_model(learner), partial / "training.safetensors")
        save_file(_optimizer_tensors(learner.optimizer), partial / "optimizer.safetensors")
        write_json(partial / "progress.json", asdict(progress))
    for step in sorted(_steps(folder))[:-keep]:
        shutil.rmtree(folder / f"step-{step}")


def save_best(run: Run, learner: Learner, progress: Progress, retriever: str) -> None:
    """Write the model that is best on dev; with it the heads that base is measured with, where it has none."""
    with atomic_folder(run.best) as partial:
        learner.encoder.save(partial)
        if learner.encoder.has_adapters:
            _save_adapter(learner, partial / "adapter")
        if started_heads(run).is_dir():
            shutil.copytree(started_heads(run), partial / STARTED_HEADS)
        told = {"step": progress.best_step, "retriever": retriever, "dev_ndcg@10": progress.best_score}
        write_json(partial / "best.json", told)


def _save_adapter(learner: Learner, folder: Path) -> None:
    """As peft writes it, but for its list of layers, which it keeps in no order, and its card, which says nothing."""
    learner.encoder.backbone.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    told = read_json(folder / "adapter_config.json")
    if isinstance(told["target_modules"], list):
        told["target_modules"] = sorted(told["target_modules"])
    write_json(folder / "adapter_config.json", told)


def resume(folder: Path, learner: Learner) -> Progress:
    """Bring model and optimizer to the newest checkpoint; a fresh Progress where there is none."""
    steps = _steps(folder)
    if not steps:
        return Progress()
    newest, encoder = folder / f"step-{max(steps)}", learner.encoder
    if not encoder.has_adapters:  # they are merged into the folder's weights; what they wrap does not train
        encoder.backbone.load_state_dict(load_file(newest / "model.safetensors"))
    if (newest / HEADS_FILE).is_file():
        encoder.layers.load_state_dict(load_file(newest / HEADS_FILE))
    for name, tensor in load_file(newest / "training.safetensors").items():
        kind, _, rest = name.partition(".")
        module = learner.temperatures if kind == "temperatures" else encoder.backbone
        with torch.no_grad():
            module.get_parameter(rest).copy_(tensor)
    _load_optimizer(learner.optimizer, load_file(newest / "optimizer.safetensors"))
    return Progress(**read_json(newest / "progress.json"))


def _besides_the_model(learner: Learner) -> dict[str, torch.Tensor]:
    """What trains and is not in the model's folder as it is: temperatures, and adapters, which are merged there."""
    found = {f"temperatures.{name}": p.detach().cpu() for name, p in learner.temperatures.named_parameters()}
    if learner.encoder.has_adapters:
        named = learner.encoder.backbone.named_parameters()
        found.update({f"adapters.{name}": p.detach().cpu() for name, p in named if p.requires_grad})
    return found


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
