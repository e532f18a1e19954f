"""Tiny jobs brought to where a stage starts, and how to look at what a stage left."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from accelerate.state import AcceleratorState, GradientState

from bgetune.cli import main
from bgetune.config import JobConfig
from bgetune.config_io import load_job
from bgetune.data import read_retrieval_set
from bgetune.files import read_json
from bgetune.run import LOCK_HELD, Run, open_run
from bgetune.stages import Stage
from data_prep.__main__ import main as data_prep
from eval.__main__ import main as evaluate
from tests import tiny
from train.__main__ import main as train

ROOT = Path(__file__).parents[1]
_PROGRAMS = {
    "prepare": lambda words: data_prep(["prepare", *words]),
    "mine": lambda words: data_prep(["mine", *words]),
    "train": train,
    "eval": evaluate,
    "export": lambda words: main(["export", *words]),
}


class Job(NamedTuple):
    """The YAML file, the configuration in it, and the run folder."""

    file: Path
    config: JobConfig
    run: Run

    @property
    def words(self) -> list[str]:
        return ["--config", str(self.file)]


def write(tmp_path: Path, **sections: Any) -> Job:
    """A job of which nothing is done yet."""
    file = tiny.write_config(tmp_path / "job.yaml", tiny.config(tmp_path, **sections))
    config = load_job(file)
    return Job(file, config, Run(Path(config.output)))


def prepared(tmp_path: Path, **sections: Any) -> Job:
    """A job whose data are read: the next stage is `mine`."""
    job = write(tmp_path, **sections)
    with open_run(job.config, update=False):
        pass
    shutil.copytree(tmp_path / "domain", job.run.data("clinic"))
    return job


def mined(tmp_path: Path, **sections: Any) -> Job:
    """A job with training examples, mined: the next stage is `train`."""
    job = prepared(tmp_path, **sections)
    assert data_prep(["mine", *job.words]) == 0
    return job


def trainable(tmp_path: Path, **sections: Any) -> Job:
    """The same without a model's work: the negatives are passages of the same topic with another number."""
    job = prepared(tmp_path, **sections)
    data = read_retrieval_set(job.run.data("clinic"))
    texts = data.corpus.full_texts()
    rows = [
        {
            "query": query,
            "query_id": f"q{i}",
            "pos": [texts[i]],
            "pos_ids": [f"d{i}"],
            "neg": [texts[(i + 10 * k) % 60] for k in (1, 2, 3)],
            "neg_ids": [f"d{(i + 10 * k) % 60}" for k in (1, 2, 3)],
        }
        for i, query in enumerate(data.queries_of("train").texts)
    ]
    write_jsonl(job.run.examples, rows)
    return job


def started_here(stage: Stage, run: Run, redo: bool) -> int:
    """For `bgetune.adapt._start`: a stage in this process, since each of its own spends seconds on imports."""
    fresh_accelerator()
    words = ["--config", str(run.config_file), *(["--round", str(run.round)] if stage.in_rounds else [])]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(LOCK_HELD, str(run.root.resolve()))
        return _PROGRAMS[stage.name](words + ["--force"] * redo)


def fresh_accelerator() -> None:
    """Accelerate keeps the precision and trackers of the first run of a process; a test wants its own."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder, locks left out (they hold process ids), and the hash of its content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def half_done(folder: Path) -> list[Path]:
    """What an atomic write that did not come to its end would have left."""
    return [path for path in folder.rglob("*") if ".partial" in path.name or ".old" in path.name]


def torchrun(ranks: int, *words: object) -> None:
    """Processes of one launch, here where the tests are."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    done = subprocess.run(
        [*launch, *map(str, words)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:6000]
    assert "Traceback" not in done.stderr


def only_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line on stderr; nothing that looks like a traceback."""
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert text.rstrip().endswith(lines[0]), "the error is the last thing said"
    return lines[0]


def fails(capsys: pytest.CaptureFixture[str], words: list[str], pattern: str, folder: Path) -> str:
    """Run it; it must fail with the one line, and leave every file below `folder` as it was."""
    before = hashes(folder)
    assert main(words) == 2
    error = only_error(capsys)
    assert re.search(pattern, error), error
    after = hashes(folder)
    # the job's own configuration may be there, so that the corrected job is compared with it
    made = {name for name in after if name not in before and not name.startswith("run/config.yaml")}
    kept = r"run/(\.lock|manifests/\w+\.started\.json|vectors/[\w-]+(/\w+\.npy|/?\w*\.json)|mining/.*|logs/index.json)"
    allowed = {name for name in made if re.fullmatch(kept, name)}
    assert made == allowed
    assert not [name for name in after if ".partial" in name or ".old" in name]
    assert all(after.get(name) == digest for name, digest in before.items())
    return error


def mined_rows(job: Job) -> dict[str, dict[str, Any]]:
    assert data_prep(["mine", *job.words]) == 0
    return {row["query_id"]: row for row in jsonl(job.run.examples)}


def stats_of(job: Job) -> dict[str, Any]:
    return read_json(job.run.examples.parent / "stats.json")
