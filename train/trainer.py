"""The loop around the step: schedule, dev retrieval, best checkpoint, early stopping, resuming."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import sys
import time

import torch
from accelerate import Accelerator, PartialState
from torch import nn

from bgetune.config import JobConfig, TrainConfig
from bgetune.encoder import Encoder, autocast_dtype
from bgetune.errors import UserError
from bgetune.progress import progress as progress_bar
from bgetune.run import Run

from . import checkpoint
from .checkpoint import Progress
from .dataset import TrainingSet, batch_at, load_training_set, steps_per_epoch
from .dev import DevSet
from .log import TrainLog, start_trackers
from .schedule import learning_rate, parameter_groups
from .step import StepResult, training_step

log = logging.getLogger("bgetune")


def train(config: JobConfig, run: Run) -> None:
    """Fine-tune and leave the checkpoint that is best on dev in `checkpoints/best`.

    Raises:
        UserError: data that cannot be trained on, or a loss that is not finite.
    """
    data = load_training_set(run.examples, config.train, config.model.query_instruction)
    encoder = Encoder.load(config.model)
    if config.model.overlong == "error":
        _refuse_overlong(data, encoder, run)
    checkpoint.clear_unless_ours(run)
    accelerator = _accelerator(config, run, encoder)
    Trainer(config, run, data, encoder, accelerator).run_to_end()


def _attention(config: JobConfig, encoder: Encoder) -> str:
    """sdpa's backward pass on a processor is slow for short texts (docs/log.md); its forward pass is not."""
    if config.train.attention != "auto":
        return config.train.attention
    short = max(config.model.query_max_length, config.model.passage_max_length) <= 256
    return "eager" if short and encoder.device.type == "cpu" else encoder.attention


def _accelerator(config: JobConfig, run: Run, encoder: Encoder) -> Accelerator:
    probe = PartialState()
    if probe.num_processes > 1:
        raise UserError("train: several processes are not supported yet; launch one (--num_processes 1)")
    dtype = autocast_dtype(config.train.precision, probe.device)
    encoder.to(probe.device)
    log.info("train: on %s in %s", probe.device.type, "fp32" if dtype is None else "bf16 autocast over fp32 weights")
    accelerator = Accelerator(
        mixed_precision="no" if dtype is None else "bf16",
        log_with=list(config.train.report_to) or None,
        project_dir=run.train_log.parent,
    )
    start_trackers(accelerator, config)
    return accelerator


class Trainer:
    """One training run; `run_to_end` reads as the run goes."""

    def __init__(
        self, config: JobConfig, run: Run, data: TrainingSet, encoder: Encoder, accelerator: Accelerator
    ) -> None:
        self._settings: TrainConfig = config.train
        self._run, self._data, self._encoder, self._accelerator = run, data, encoder, accelerator
        self._dev = DevSet(config, run)
        self._attention_of = {"training": _attention(config, encoder), "dev": encoder.attention}
        self._total = total_steps(len(data.examples), config.train)
        _set_up(encoder, config.train)
        groups = parameter_groups(encoder.named_parameters(), config.train.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=config.train.learning_rate)
        self._progress: Progress = checkpoint.resume(run.checkpoints, encoder, self._optimizer)
        self._log = TrainLog(run.train_log, self._progress.log_lines, accelerator)

    def run_to_end(self) -> None:
        """Train from wherever the newest checkpoint is to the last step, or until dev stops improving."""
        state, settings = self._progress, self._settings
        if state.step:
            log.info("train: goes on after step %d of %d", state.step, self._total)
        else:
            self._evaluate()
        with progress_bar(self._total, "train", "step", initial=state.step) as bar:
            while state.step < self._total and not state.stopped_early:
                began = time.perf_counter()
                result, rate = self._step()
                seconds = time.perf_counter() - began
                self._log_step(result, rate, seconds)
                bar.set_postfix(loss=f"{result.losses['loss']:.3f}", tok_s=f"{result.tokens / seconds:,.0f}")
                bar.update(1)
                if state.step % settings.eval_every == 0 or state.step == self._total:
                    self._evaluate()
                if state.step % settings.save_every == 0:
                    self._save()
        self._log.close()
        self._say_how_it_ended()

    def _step(self) -> tuple[StepResult, float]:
        state = self._progress
        rate = learning_rate(state.step, self._total, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        # dropout depends on seed and step alone: a resumed run draws what an uninterrupted one draws
        torch.manual_seed(_step_seed(self._settings.seed, state.step))
        self._encoder.train()
        self._encoder.use_attention(self._attention_of["training"])
        batch = batch_at(state.step, self._data, self._settings)
        result = training_step(self._encoder, self._optimizer, batch, self._accelerator, self._settings)
        state.step += 1
        return result, rate

    def _log_step(self, result: StepResult, rate: float, seconds: float) -> None:
        values = {
            **result.losses,
            "grad_norm": result.grad_norm,
            "learning_rate": rate,
            "tokens": result.tokens,
            "padding_share": round(result.padding_share, 4),
        }
        self._log.write(self._progress.step, values, {"tokens_per_second": result.tokens / seconds})

    def _evaluate(self) -> None:
        """Measure dev; keep the model if it is the best so far; note when it is time to stop."""
        state = self._progress
        self._encoder.use_attention(self._attention_of["dev"])
        scores = self._dev.evaluate(self._encoder, state.step)
        self._log.write(state.step, {f"dev/{name}": value for name, value in scores.items()})
        score = scores["ndcg@10"]
        better = state.best_score is None or score > state.best_score
        log.info("dev, step %d: nDCG@10 %.4f%s", state.step, score, " (best)" if better else "")
        if better:
            state.best_score, state.best_step, state.evaluations_since_best = score, state.step, 0
            checkpoint.save_best(self._run.best, self._encoder, state)
            return
        state.evaluations_since_best += 1
        patience = self._settings.early_stopping_patience
        state.stopped_early = patience is not None and state.evaluations_since_best >= patience

    def _save(self) -> None:
        self._progress.log_lines = self._log.lines
        folder, keep = self._run.checkpoints, self._settings.keep_checkpoints
        checkpoint.save(folder, self._encoder, self._optimizer, self._progress, keep)

    def _say_how_it_ended(self) -> None:
        state = self._progress
        if state.stopped_early:
            log.info("train: stopped early at step %d: dev has not improved since step %d", state.step, state.best_step)
        if state.best_step == 0:
            log.warning("train: no checkpoint beat the base model on dev; `best` is the base model itself")
        log.info("train: best dev nDCG@10 %.4f at step %d of %d", state.best_score, state.best_step, self._total)


def _refuse_overlong(data: TrainingSet, encoder: Encoder, run: Run) -> None:
    for role, texts in (
        ("query", [example.query for example in data.examples]),
        ("passage", [text for example in data.examples for text in (*example.pos, *example.neg)]),
    ):
        _, cut = encoder.tokenize(texts, role)
        if cut:
            limit = f"model.{role}_max_length ({encoder.spec.max_length(role)} tokens)"
            start = texts[cut[0]][:40]
            raise UserError(
                f"{run.examples}: the text {start!r}... is longer than {limit}; raise it, or set model.overlong"
            )


def total_steps(examples: int, config: TrainConfig) -> int:
    steps = max(1, round(config.epochs * steps_per_epoch(examples, config.batch_size)))
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"dropout {seed} {step}".encode()).digest()[:8], "big") >> 1


def _set_up(encoder: Encoder, config: TrainConfig) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the filling is to expose reads of uninitialised memory; it cost a fifth of a step
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - unknown to torch's stubs
    _keep_freed_memory()
    if config.gradient_checkpointing:
        encoder.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.dropout is not None:
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
            elif isinstance(getattr(module, "attention_dropout", None), float):
                setattr(module, "attention_dropout", config.dropout)  # noqa: B010 - not every class declares it


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of giving it back to the system after every step.

    A step on a processor frees and takes some gigabytes, and getting pages anew cost 18 % of its time.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)
