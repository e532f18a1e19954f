"""A job's folder, its stages, and the manifests by which a stage knows that its work still holds.

Layout of `runs/<name>/`, in the order in which it comes to be:

    config.yaml                  the effective configuration
    data/<set>/                  BEIR layout: the domain and each guard
    mined/train.jsonl            training examples
    checkpoints/step-N/, best/   to resume from; the best model on dev
    logs/train.jsonl             one line a step
    report/                      report.json, report.md, TREC run files
    export/                      the folder other tools read
    vectors/                     encoded texts, named by the hash of weights, texts and settings
    manifests/<stage>.json       what a finished stage was made from, and hashes of what it made
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jsonargparse

from bgetune.config import JobConfig
from bgetune.config_io import flatten, load_job, parse_job, to_dict, to_yaml
from bgetune.errors import UserError, exit_code
from bgetune.files import read_json, sha256_file, sha256_tree, write_json, write_text
from bgetune.models import model_folder

log = logging.getLogger("bgetune")

_RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "FlagEmbedding", "sentence-transformers", "faiss-cpu")


@dataclass(frozen=True)
class Run:
    """Where everything of a job is."""

    root: Path

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    def data(self, name: str) -> Path:
        return self.root / "data" / name

    @property
    def examples(self) -> Path:
        return self.root / "mined" / "train.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best"

    @property
    def train_log(self) -> Path:
        return self.root / "logs" / "train.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def vectors(self) -> Path:
        return self.root / "vectors"

    def manifest(self, stage: str) -> Path:
        return self.root / "manifests" / f"{stage}.json"


@dataclass(frozen=True)
class Stage:
    """One stage of a job: how to start it, which keys and files it depends on, what it leaves."""

    name: str
    command: tuple[str, ...]
    what: str
    keys: tuple[str, ...]
    inputs: Callable[[JobConfig, Run], list[Path]]
    outputs: Callable[[JobConfig, Run], list[Path]]
    uses_model: bool = True


_ENCODING = ("model", "encode_precision", "encode_batch_tokens")


def _sets(config: JobConfig) -> list[str]:
    return [config.data.name, *config.data.guards]


STAGES: tuple[Stage, ...] = (
    Stage(
        name="prepare",
        command=("bgetune.data_prep", "prepare"),
        what="read the domain and the guards into BEIR layout",
        keys=("data",),
        inputs=lambda config, run: [
            Path(source.path)
            for source in (config.data.domain, *config.data.guards.values())
            if source.path and Path(source.path).exists()
        ],
        outputs=lambda config, run: [run.data(name) for name in _sets(config)],
        uses_model=False,
    ),
    Stage(
        name="mine",
        command=("bgetune.data_prep", "mine"),
        what="find hard negatives with the base model",
        keys=(*_ENCODING, "data.name", "mine"),
        inputs=lambda config, run: [run.data(config.data.name)],
        outputs=lambda config, run: [run.examples.parent],
    ),
    Stage(
        name="train",
        command=("bgetune.train",),
        what="fine-tune, keep the checkpoint that is best on dev",
        keys=(*_ENCODING, "data.name", "train"),
        inputs=lambda config, run: [run.examples, run.data(config.data.name)],
        outputs=lambda config, run: [run.best],
    ),
    Stage(
        name="eval",
        command=("bgetune.eval",),
        what="measure base and tuned on every test split",
        keys=(*_ENCODING, "data.name", "data.guards", "eval"),
        inputs=lambda config, run: [run.best, *(run.data(name) for name in _sets(config))],
        outputs=lambda config, run: [run.report],
    ),
    Stage(
        name="export",
        command=("bgetune.cli", "export"),
        what="write the folder other tools read, with its model card",
        keys=("model", "export"),
        inputs=lambda config, run: [run.best, run.report / "report.json"],
        outputs=lambda config, run: [run.export],
    ),
)


def stage_named(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def fingerprint(stage: Stage, config: JobConfig, run: Run) -> dict[str, Any]:
    """What the stage's work depends on: configuration values, hashes of its inputs, of the base weights."""
    flat = flatten(to_dict(config))
    chosen = {k: v for k, v in flat.items() if any(k == key or k.startswith(key + ".") for key in stage.keys)}
    made_from: dict[str, Any] = {
        "config": chosen,
        "inputs": {_name_in(run, path): sha256_tree(path) for path in stage.inputs(config, run)},
    }
    if stage.name == "prepare":
        made_from["python"] = sys.version.split()[0]
    if stage.uses_model:
        made_from["base_weights"] = weights_files_hash(model_folder(config.model))
    return made_from


def weights_files_hash(folder: Path) -> str:
    """Hash of a model folder's weight files, without loading them."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt"))
    return "+".join(sha256_file(path) for path in files)


def _name_in(run: Run, path: Path) -> str:
    return str(path.relative_to(run.root)) if path.is_relative_to(run.root) else str(path)


def holds(stage: Stage, config: JobConfig, run: Run) -> bool:
    """Whether the stage finished with the very same configuration and inputs, and its outputs are untouched."""
    path = run.manifest(stage.name)
    if not path.is_file():
        return False
    manifest = read_json(path)
    if manifest["made_from"] != fingerprint(stage, config, run):
        return False
    return manifest["outputs"] == {_name_in(run, p): sha256_tree(p) for p in stage.outputs(config, run)}


def _begin(stage: Stage, config: JobConfig, run: Run) -> None:
    """Clear what an earlier start with other inputs left; keep what an earlier start of the same work left."""
    started = run.root / "manifests" / f"{stage.name}.started.json"
    made_from = fingerprint(stage, config, run)
    if run.manifest(stage.name).exists() or not started.exists() or read_json(started) != made_from:
        run.manifest(stage.name).unlink(missing_ok=True)
        leftovers = [*stage.outputs(config, run)]
        if stage.name == "train":
            leftovers += [run.checkpoints, run.train_log]
        for path in leftovers:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_json(started, made_from)


def _seal(stage: Stage, config: JobConfig, run: Run) -> None:
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    outputs = {_name_in(run, path): sha256_tree(path) for path in stage.outputs(config, run)}
    missing = [name for name, digest in outputs.items() if digest == "absent"]
    assert not missing, f"stage {stage.name} ended without {missing}"
    made = {"made_from": fingerprint(stage, config, run), "outputs": outputs, "packages": versions}
    write_json(run.manifest(stage.name), made)
    (run.root / "manifests" / f"{stage.name}.started.json").unlink(missing_ok=True)


def open_run(config: JobConfig, update: bool) -> Run:
    """Make or open the job's folder.

    Raises:
        UserError: the folder belongs to another configuration and `update` is off, or cannot be written.
    """
    run = Run(Path(config.output))
    if run.root.exists() and not run.root.is_dir():
        raise UserError(f"output: {run.root} is a file; name a folder")
    if run.config_file.exists():
        before, now = flatten(to_dict(load_job(run.config_file))), flatten(to_dict(config))
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed and not update:
            shown = ", ".join(f"{k} ({before.get(k)!r} there, {now.get(k)!r} now)" for k in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"output: {run.root} belongs to another configuration: {shown}{more}; "
                "choose another `output`, or pass --update to redo the stages this changes"
            )
    elif run.root.exists() and any(not p.name.startswith(".") for p in run.root.iterdir()):
        raise UserError(f"output: {run.root} holds files that are not a job's; choose a new or empty folder")
    run.root.mkdir(parents=True, exist_ok=True)
    if not os.access(run.root, os.W_OK):
        raise UserError(f"output: {run.root} cannot be written to; choose another folder")
    text = to_yaml(config)
    if not run.config_file.exists() or run.config_file.read_text(encoding="utf-8") != text:
        write_text(run.config_file, text)
    return run


@contextmanager
def only_one(run: Run, what: str) -> Iterator[None]:
    """Hold the job's lock for `what`; a second process gets one clear line instead of a broken folder."""
    path = run.root / "manifests" / f".{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"output: {what} is running in {run.root} already (process {file.read().strip()})"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def add_run_options(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="Accept a changed configuration for an existing output.")
    parser.add_argument("--force", action="store_true", help="Do the work again even if what is there still holds.")


def run_stage(
    name: str, body: Callable[[JobConfig, Run], None], argv: Sequence[str] | None = None, prog: str | None = None
) -> int:
    """The main program of a stage: parse, lock, skip if the work holds, do it, write the manifest."""
    stage = stage_named(name)

    def program() -> None:
        words = list(sys.argv[1:] if argv is None else argv)
        description = f"{stage.name}: {stage.what}."
        config, own = parse_job(words, prog or f"python -m {' '.join(stage.command)}", description, add_run_options)
        run = open_run(config, own["update"])
        if not is_main_process():
            # decides as rank 0 does: rank 0 removes a manifest only when it does not hold
            if own["force"] or not holds(stage, config, run):
                body(config, run)
            return
        with only_one(run, name):
            for path in stage.inputs(config, run):
                if path.is_relative_to(run.root) and not path.exists():
                    maker = _maker_of(path, config, run)
                    raise UserError(
                        f"{path}: missing; run the stage `{maker}` first, or `bgetune adapt` for all of them"
                    )
            if own["force"]:
                run.manifest(name).unlink(missing_ok=True)
            if holds(stage, config, run):
                log.info("%s: still holds, skipped (--force does it again)", name)
                return
            _begin(stage, config, run)
            body(config, run)
            _seal(stage, config, run)

    return exit_code(program)


def _maker_of(path: Path, config: JobConfig, run: Run) -> str:
    for stage in STAGES:
        if any(path == out or out in path.parents for out in stage.outputs(config, run)):
            return stage.name
    raise AssertionError(f"no stage makes {path}")
