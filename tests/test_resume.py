"""SIGKILL at any moment, the same command again: the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests import jobs

ROOT = Path(__file__).resolve().parent.parent
KILLED = -9

# 7 steps, dev after 0, 3, 6 and 7, checkpoints after 2, 4 and 6, of which one is kept; log lines: 1 + 7 + 3
# with this seed dev becomes better at least twice
TRAIN = {"max_steps": 7, "eval_every": 3, "save_every": 2, "keep_checkpoints": 1, "learning_rate": 3e-3, "seed": 1}

MOMENTS: dict[str, list[str]] = {
    "uninterrupted": [],
    "before the first checkpoint": ["after step 1"],
    "gradients just computed": ["before step 4"],
    "weights moved, nothing logged": ["after step 5"],
    "dev at the start logged": ["after log line 1"],
    "dev logged, best not saved": ["after log line 9"],
    "half a line of the log": ["in log line 6"],
    "half the first best": ["in weights 1"],
    "half a checkpoint": ["in weights 3"],
    "half the checkpoint of step 4": ["before optimizer state 2"],
    "a better best is just saved": ["after best 2"],
    "best moved aside, the new one not in place": ["in rename of best 2"],
    "a checkpoint is just complete": ["after checkpoint 2"],
    "an old checkpoint half removed": ["in removal of old checkpoint 2"],
    "all done but the manifest": ["before seal 1"],
    "three times over": ["after step 3", "in weights 2", "after best 1"],
    "from outside": ["outside, at line 2", "outside, at line 5", "outside, at line 8"],
}
ANOTHER_RATE = ["--train.learning_rate", "0.001", "--update"]


class Outcome(NamedTuple):
    """A run folder at the end, and how its starts ended."""

    folder: Path
    statuses: list[int]

    @property
    def files(self) -> dict[str, str]:
        """All files but the job's own configuration, which names the folder."""
        return {name: digest for name, digest in jobs.hashes(self.folder).items() if name != "config.yaml"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, Outcome]:
    """Every job below, run by one program."""
    top = tmp_path_factory.mktemp("resume")
    job = jobs.trainable(top, train=TRAIN)

    def start(name: str, moments: list[str], last: Sequence[str] = ()) -> dict[str, Any]:
        folder = top / name.replace(" ", "_").replace(",", "")
        for part in ("data", "mined"):
            shutil.copytree(job.run.root / part, folder / part)
        (folder / "config.yaml").write_text(
            yaml.safe_dump({**yaml.safe_load(job.file.read_text()), "output": str(folder)})
        )
        return {"name": name, "argv": [*job.words, "--output", str(folder)], "moments": moments, "last": last}

    todo = [start(name, moments) for name, moments in MOMENTS.items()]
    todo.append(start("another rate", [], ANOTHER_RATE))
    todo.append(start("another rate after a kill", ["after step 5"], ANOTHER_RATE))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    program = subprocess.run(
        [sys.executable, "-m", "tests.killer"], input=json.dumps(todo), capture_output=True, text=True, cwd=ROOT,
        env=environment, timeout=240, check=False,
    )  # fmt: skip
    assert program.returncode == 0, program.stderr[-3000:]
    statuses = json.loads(program.stdout.splitlines()[-1])
    return {work["name"]: Outcome(Path(work["argv"][3]), statuses[work["name"]]) for work in todo}


def test_the_uninterrupted_run_is_what_the_others_are_held_against(outcomes):
    plain = outcomes["uninterrupted"]
    assert plain.statuses == [0]
    lines = jobs.jsonl(plain.folder / "logs" / "train.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 7]
    assert {path.name for path in (plain.folder / "checkpoints").iterdir()} == {"best", "step-6", "made_from.json"}
    # the base was beaten, else "a better best" would never come to be
    assert json.loads((plain.folder / "checkpoints" / "best" / "best.json").read_text())["step"] > 0
    assert "manifests/train.json" in plain.files


@pytest.mark.parametrize("name", [name for name in MOMENTS if MOMENTS[name]])
def test_killed_and_started_again_it_gives_the_same_bytes(outcomes, name):
    plain, killed = outcomes["uninterrupted"], outcomes[name]
    if name == "from outside":  # where the machine is busy, a start may end before it is killed
        assert KILLED in killed.statuses
        assert killed.statuses[-1] == 0
    else:
        assert killed.statuses == [*[KILLED] * len(MOMENTS[name]), 0]
    log = Path("logs", "train.jsonl")
    assert (killed.folder / log).read_text() == (plain.folder / log).read_text()
    assert killed.files == plain.files  # best, checkpoints, log, manifest; and nothing besides


def test_another_configuration_never_goes_on_from_a_checkpoint(outcomes):
    """Killed after step 5, then started with another learning rate: the run of that rate from its beginning."""
    fresh, killed = outcomes["another rate"], outcomes["another rate after a kill"]
    assert (fresh.statuses, killed.statuses) == ([0], [KILLED, 0])
    assert killed.files == fresh.files
    assert fresh.files["logs/train.jsonl"] != outcomes["uninterrupted"].files["logs/train.jsonl"]
