"""The loop around the step: schedule, dev retrieval, best checkpoint, early stopping, resuming."""

from __future__ import annotations

import hashlib
import logging
import time

from bgetune.config import JobConfig, TrainConfig
from bgetune.metrics import DECIDING
from bgetune.progress import progress as progress_bar
from bgetune.run import Run

from . import checkpoint
from .checkpoint import Progress
from .dataset import TrainingSet, batch_at, load_training_set, steps_per_epoch
from .dev import DevSet
from .health import Alarm
from .launch import keep_freed_memory, make_learner, open_accelerator
from .log import TrainLog
from .push import CheckpointPusher
from .ranks import from_main, rank, wait_for_all
from .schedule import learning_rate
from .step import Learner, StepResult, training_step

log = logging.getLogger("bgetune")


def train(config: JobConfig, run: Run) -> None:
    """Fine-tune and leave the checkpoint that is best on dev in `checkpoints/best`.

    Raises:
        UserError: data that cannot be trained on, or a loss that is not finite.
    """
    data = load_training_set(run.examples, config.train, config.model.query_instruction)
    accelerator = open_accelerator(config, run)
    if rank() == 0:
        checkpoint.clear_unless_ours(run)
    wait_for_all()
    pusher = CheckpointPusher(config, run)
    learner, progress, dev = make_learner(config, run, data, accelerator)
    train_log = TrainLog(run.train_log if rank() == 0 else None, progress.log_lines, accelerator)
    Trainer(config, run, data, dev, learner, progress, train_log, pusher).run_to_end()


class Trainer:
    """One training run; `run_to_end` reads as the run goes. Rank 0 alone searches dev, writes and logs."""

    def __init__(
        self,
        config: JobConfig,
        run: Run,
        data: TrainingSet,
        dev: DevSet,
        learner: Learner,
        progress: Progress,
        train_log: TrainLog,
        pusher: CheckpointPusher,
    ) -> None:
        self._settings: TrainConfig = config.train
        self._run, self._data, self._dev, self._learner = run, data, dev, learner
        self._total = total_steps(len(data.examples), config.train)
        self._progress, self._log, self._pusher = progress, train_log, pusher
        self._alarm = Alarm()

    def run_to_end(self) -> None:
        """Train from wherever the newest checkpoint is to the last step, or until dev stops improving."""
        state, settings = self._progress, self._settings
        if state.step:
            log.info("train: goes on after step %d of %d", state.step, self._total)
            self._pusher.best()
        else:
            self._evaluate()
        with progress_bar(self._total, "train", "step", initial=state.step) as bar:
            while state.step < self._total and not state.stopped_early:
                began = time.perf_counter()
                result, rate = self._step()
                seconds = time.perf_counter() - began
                self._log_step(result, rate, seconds)
                bar.set_postfix(loss=f"{result.figures['loss']:.3f}", tok_s=f"{result.tokens / seconds:,.0f}")
                bar.update(1)
                if state.step % settings.eval_every == 0 or state.step == self._total:
                    self._evaluate()
                if state.step % settings.save_every == 0:
                    self._save()
        self._pusher.wait()
        self._say_how_it_ended()
        self._log.close()

    def _step(self) -> tuple[StepResult, float]:
        state, learner = self._progress, self._learner
        rate = learning_rate(state.step, self._total, self._settings)
        for group in learner.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        learner.encoder.train()
        learner.encoder.use_attention(learner.attention)
        batch = batch_at(state.step, self._data, self._settings)
        # dropout depends on seed and step alone: a resumed run draws what an uninterrupted one draws
        seed = _step_seed(self._settings.seed, state.step)
        result = training_step(learner, batch, self._settings, state.step, seed)
        if not result.cached:
            keep_freed_memory()
        state.step += 1
        return result, rate

    def _log_step(self, result: StepResult, rate: float, seconds: float) -> None:
        self._alarm.look(self._progress.step, result.figures, self._learner.heads)
        values = {
            **result.figures,
            "learning_rate": rate,
            "tokens": result.tokens,
            "padding_share": round(result.padding_share, 4),
            "cached": int(result.cached),
        }
        self._log.write(self._progress.step, values, {"tokens_per_second": result.tokens / seconds})

    def _evaluate(self) -> None:
        """Measure dev; keep the model if it is the best so far; note when it is time to stop."""
        state, encoder = self._progress, self._learner.encoder
        encoder.use_attention(self._learner.attention_of_dev)
        scores = self._dev.evaluate(encoder, state.step) if rank() == 0 else {}
        self._log.write(state.step, {f"dev/{name}": value for name, value in scores.items()})
        score = from_main(scores.get(DECIDING, 0.0))
        better = state.best_score is None or score > state.best_score
        log.info("dev, step %d: %s nDCG@10 %.4f%s", state.step, self._dev.retriever, score, " (best)" if better else "")
        self._pusher.measured(state.step, score)
        if rank() == 0:
            self._dev.settle(better)
        if better:
            state.best_score, state.best_step, state.evaluations_since_best = score, state.step, 0
            if rank() == 0:
                checkpoint.save_best(self._run, self._learner, state, self._dev.retriever)
                self._pusher.best()
            return
        state.evaluations_since_best += 1
        patience = self._settings.early_stopping_patience
        state.stopped_early = patience is not None and state.evaluations_since_best >= patience

    def _save(self) -> None:
        self._progress.log_lines = self._log.lines
        if rank() == 0:
            checkpoint.save(self._run.checkpoints, self._learner, self._progress, self._settings.keep_checkpoints)
            self._pusher.saved(self._progress.step)

    def _say_how_it_ended(self) -> None:
        state = self._progress
        if state.stopped_early:
            log.info("train: stopped early at step %d: dev has not improved since step %d", state.step, state.best_step)
        if state.best_step == 0:
            log.warning("train: no checkpoint beat the base model on dev; `best` is the base model itself")
        log.info("train: best dev nDCG@10 %.4f at step %d of %d", state.best_score, state.best_step, self._total)
        wait_for_all()  # rank 0 may still be writing what the others' launcher would cut off


def total_steps(examples: int, config: TrainConfig) -> int:
    steps = max(1, round(config.epochs * steps_per_epoch(examples, config.batch_size)))
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"dropout {seed} {step}".encode()).digest()[:8], "big") >> 2
