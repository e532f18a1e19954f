"""The per-step log: JSON lines in a file, and the same values to the trackers asked for.

The file holds no times, so that two runs of one job give the same bytes; rates go to the trackers.
"""

from __future__ import annotations

import importlib.util
import json
import secrets
from pathlib import Path
from typing import IO, Any

from accelerate import Accelerator

from bgetune.config import JobConfig
from bgetune.config_io import flatten, to_dict
from bgetune.errors import UserError
from bgetune.files import write_text
from bgetune.run import Run


class TrainLog:
    """Appends lines; a resumed run first cuts the file back to where its checkpoint was. Without a path, it is mute."""

    def __init__(self, path: Path | None, lines: int, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.lines = 0
        self._file: IO[str] | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines] if path.exists() else []
        write_text(path, "".join(kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run
        self.lines = len(kept)

    def write(self, step: int, values: dict[str, Any], rates: dict[str, float] | None = None) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self.lines += 1
        self._accelerator.log({**values, **(rates or {})}, step=step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        # on every rank: it takes the process group down
        self._accelerator.end_training()


def _wandb_id(run: Run) -> str:
    """The same for a resumed run, which goes on in the same W&B run; another for one that is done again."""
    file = run.wandb_id
    if not file.exists():
        write_text(file, secrets.token_hex(8) + "\n")
    return file.read_text(encoding="utf-8").strip()


def start_trackers(accelerator: Accelerator, config: JobConfig, run: Run) -> None:
    """Start Weights & Biases and TensorBoard where the configuration names them; their files go to `logs/`.

    Raises:
        UserError: W&B wants a login that is not there.
    """
    if not config.train.report_to:
        return
    for tracker in config.train.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(f"train.report_to: {tracker} is not installed; pip install {tracker}")
    flat = flatten(to_dict(config))
    # TensorBoard takes scalars and strings only
    plain = {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in flat.items()}
    options: dict[str, Any] = {}
    if "wandb" in config.train.report_to:
        name = run.root.name if run.round == 1 else f"{run.root.name}-{run.round}"
        logs = str(run.train_log.parent)
        options["wandb"] = {"name": name, "id": _wandb_id(run), "resume": "allow", "dir": logs}
    try:
        accelerator.init_trackers("bgetune", config=plain, init_kwargs=options)
    except Exception as error:
        if type(error).__module__.startswith("wandb"):
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"train.report_to: wandb: {reason}; run `wandb login`, or set WANDB_MODE=offline") from None
        raise
