"""Checkpoints go to the Hub while training makes them (`hub.checkpoints`): in the background, and never in its way."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.errors import UserError
from bgetune.export.push_failures import PushFailed
from bgetune.export.push_hub import Hub
from bgetune.export.push_secret import hub_token
from bgetune.files import link_or_copy, read_json, tree_digests
from bgetune.run import Run

from .ranks import rank

log = logging.getLogger("bgetune")

BRANCH = "checkpoints"
_SNAPSHOTS = ".pushing"
# what a checkpoint has besides the model; the adapter, merged in it, names the base model's folder on this machine
_NOT_PUSHED = ("optimizer.safetensors", "training.safetensors", "progress.json", "adapter")


class CheckpointPusher:
    """Rank 0 sends models to the branch `checkpoints`, one at a time; of those that wait the newest goes.

    A model is hard-linked before it is sent, so that training may replace it meanwhile. What fails is a warning.

    Raises:
        UserError: there is no token; told before the first step.
    """

    def __init__(self, config: JobConfig, run: Run) -> None:
        wanted = rank() == 0 and config.hub.repo is not None
        self._which = config.hub.checkpoints if wanted else "none"
        self._run, self._private, self._measured = run, config.hub.private, (-1, 0.0)
        self._wake = threading.Condition()
        self._next: tuple[int, Path, str] | None = None
        self._busy = False
        self._count = 0
        self._hub: Hub | None = None
        if self._which == "none" or config.hub.repo is None:
            return
        shutil.rmtree(self._folder, ignore_errors=True)  # of a run that was killed
        self._hub = Hub(config.hub.repo, hub_token("hub.checkpoints"), background=True)
        threading.Thread(target=self._work, args=(self._hub.make, self._hub), daemon=True).start()

    @property
    def _folder(self) -> Path:
        return self._run.checkpoints / _SNAPSHOTS

    def measured(self, step: int, score: float) -> None:
        """Note dev's score, for the message of a checkpoint of the same step."""
        self._measured = (step, score)

    def best(self) -> None:
        """`checkpoints/best` is new, or may not have been sent by a run that this one goes on from."""
        if self._which == "best" and (self._run.best / "best.json").is_file():
            told = read_json(self._run.best / "best.json")
            self._offer(self._run.best, _message(told["step"], told["dev_ndcg@10"]))

    def saved(self, step: int) -> None:
        """`checkpoints/step-N` is new."""
        if self._which == "every":
            at, score = self._measured
            self._offer(self._run.checkpoints / f"step-{step}", _message(step, score if at == step else None))

    def _offer(self, folder: Path, message: str) -> None:
        with self._wake:
            self._count += 1
            snapshot = self._folder / str(self._count)
            if self._next is not None:
                shutil.rmtree(self._next[1], ignore_errors=True)
            try:
                # a folder that is replaced leaves its files under their other names as they are
                ignored = shutil.ignore_patterns(*_NOT_PUSHED)
                shutil.copytree(folder, snapshot, copy_function=link_or_copy, ignore=ignored)
            except OSError as error:
                log.warning("train: %s could not be copied for the Hub: %s", folder, error)
                self._next = None
                return
            self._next = (self._count, snapshot, message)
            self._wake.notify_all()

    def wait(self) -> None:
        """Come back when nothing is left to send."""
        with self._wake:
            if self._hub is not None and (self._busy or self._next):
                log.info("train: waiting for the last checkpoint to be pushed")
            while self._busy or self._next:
                self._wake.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self, make: Callable[[bool], None], hub: Hub) -> None:
        made = False
        while True:
            with self._wake:
                while self._next is None:
                    self._wake.wait()
                (_, folder, message), self._next, self._busy = self._next, None, True
            try:
                if not made:
                    make(self._private)
                    made = True
                commit = hub.commit(BRANCH, folder, tree_digests(folder), message)
                log.info("train: pushed %s: %s", message, commit.url)
            except (UserError, PushFailed, OSError, RuntimeError) as error:
                log.warning("train: %s is not on the Hub: %s; training goes on", message, error)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()


def _message(step: int, score: float | None) -> str:
    """
    >>> _message(50, 0.61234), _message(75, None)
    ('step 50, dev nDCG@10 0.6123', 'step 75')
    """
    return f"step {step}" + ("" if score is None else f", dev nDCG@10 {score:.4f}")
