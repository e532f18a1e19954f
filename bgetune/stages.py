"""The stages of a job, and the manifests by which a stage knows that its work still holds."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import jsonargparse

from bgetune.config import HEADS, JobConfig
from bgetune.config_io import flatten, parse_job, to_dict
from bgetune.data import source_path
from bgetune.errors import UserError, exit_code
from bgetune.files import read_json, sha256_file, sha256_json, sha256_tree, write_json
from bgetune.models import model_folder
from bgetune.run import Run, is_main_process, open_run

log = logging.getLogger("bgetune")

_RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "FlagEmbedding", "sentence-transformers", "faiss-cpu")


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
    on_every_rank: bool = False
    """Of a launch with several processes, all do the work; else rank 0 alone, and the others end at once."""


_ENCODING = ("model", "encode_precision", "encode_batch_tokens")
# what decides a ranking besides the encoder: dev and the evaluation search alike
_SEARCH = ("eval.candidates", "eval.multi_vector", *(f"train.{head}.ensemble_weight" for head in HEADS))


def _sets(config: JobConfig) -> list[str]:
    return [config.data.name, *config.data.guards]


STAGES: tuple[Stage, ...] = (
    Stage(
        name="prepare",
        command=("bgetune.data_prep", "prepare"),
        what="read the domain and the guards into BEIR layout",
        keys=("data",),
        inputs=lambda config, run: [
            source_path(source)
            for source in (config.data.domain, *config.data.guards.values())
            if source.path and source_path(source).exists()
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
        keys=(*_ENCODING, *_SEARCH, "data.name", "train"),
        inputs=lambda config, run: [run.examples, run.data(config.data.name)],
        outputs=lambda config, run: [run.best],
        on_every_rank=True,
    ),
    Stage(
        name="eval",
        command=("bgetune.eval",),
        what="measure base and tuned on every test split",
        keys=(*_ENCODING, *_SEARCH, "data.name", "data.guards", "eval"),
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
        made_from["harvested"] = _harvested_versions(config)
    if stage.uses_model:
        made_from["base_model"] = _model_files_hash(model_folder(config.model))
    return made_from


def _harvested_versions(config: JobConfig) -> dict[str, str]:
    """Versions of what is harvested: an upgraded package is another corpus."""
    sources = (config.data.domain, *config.data.guards.values())
    names = {name for source in sources if source.kind == "harvest" for name in source.packages}
    owners = packages_distributions() if names - {"stdlib"} else {}
    found = {
        name: ",".join(f"{owner} {version(owner)}" for owner in sorted(set(owners.get(name, [])))) for name in names
    }
    return {**found, "stdlib": sys.version.split()[0]} if names else {}


def _model_files_hash(folder: Path) -> str:
    """Hash of everything in a model's folder that decides a vector: weights, configuration, tokenizer, modules."""
    kinds = (".json", ".txt", ".model", ".py", ".safetensors", ".bin", ".pt")
    files = sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())
    return sha256_json([[str(path.relative_to(folder)), sha256_file(path)] for path in files])


def weights_files_hash(folder: Path) -> str:
    """Hash of a model folder's weight files, without loading them."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt"))
    return "+".join(sha256_file(path) for path in files)


def _name_in(run: Run, path: Path) -> str:
    return str(path.relative_to(run.root)) if path.is_relative_to(run.root) else str(path)


def holds(stage: Stage, config: JobConfig, run: Run, made_from: dict[str, Any] | None = None) -> bool:
    """Whether the stage finished with the very same configuration and inputs, and its outputs are untouched.

    `made_from`: the stage's fingerprint, where the caller has computed it; it hashes weights and data.
    """
    path = run.manifest(stage.name)
    if not path.is_file():
        return False
    manifest = read_json(path)
    if manifest["made_from"] != (made_from or fingerprint(stage, config, run)):
        return False
    return manifest["outputs"] == {_name_in(run, p): sha256_tree(p) for p in stage.outputs(config, run)}


def _begin(stage: Stage, run: Run, made_from: dict[str, Any], afresh: bool) -> None:
    """Note what the work is made from; a stage that goes on from where it was compares this with its own note.

    Nothing is removed here: what an earlier run made stays until the new work takes its place.
    """
    started = run.started(stage.name)
    if afresh or not started.exists() or read_json(started) != made_from:
        # only training goes on from where it was
        if stage.name == "train":
            run.resumable.unlink(missing_ok=True)
        write_json(started, made_from)


def _seal(stage: Stage, config: JobConfig, run: Run, made_from: dict[str, Any]) -> None:
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    outputs = {_name_in(run, path): sha256_tree(path) for path in stage.outputs(config, run)}
    missing = [name for name, digest in outputs.items() if digest == "absent"]
    assert not missing, f"stage {stage.name} ended without {missing}"
    made = {"made_from": made_from, "outputs": outputs, "packages": versions}
    write_json(run.manifest(stage.name), made)
    run.started(stage.name).unlink(missing_ok=True)


def add_run_options(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="Accept a changed configuration for an existing output.")
    parser.add_argument("--force", action="store_true", help="Do the work again even if what is there still holds.")


def run_stage(
    name: str, body: Callable[[JobConfig, Run], None], argv: Sequence[str] | None = None, prog: str | None = None
) -> int:
    """The main program of a stage: parse, lock, skip if the work holds, do it, write the manifest."""
    stage = stage_named(name)

    def program() -> None:
        _end_with_parent()
        words = list(sys.argv[1:] if argv is None else argv)
        description = f"{stage.name}: {stage.what}."
        config, own = parse_job(words, prog or f"python -m {' '.join(stage.command)}", description, add_run_options)
        if not is_main_process():
            # decides as rank 0 does: a manifest that holds stays as it is; and leaves the telling to it
            log.setLevel(logging.ERROR)
            run = Run(Path(config.output))
            if stage.on_every_rank and (own["force"] or not holds(stage, config, run)):
                body(config, run)
            return
        with open_run(config, own["update"]) as run:
            _refuse_missing_inputs(stage, config, run)
            made_from = fingerprint(stage, config, run)
            if not own["force"] and holds(stage, config, run, made_from):
                log.info("%s: still holds, skipped (--force does it again)", name)
                return
            _begin(stage, run, made_from, own["force"])
            body(config, run)
            _seal(stage, config, run, made_from)

    return exit_code(program)


def _refuse_missing_inputs(stage: Stage, config: JobConfig, run: Run) -> None:
    for path in stage.inputs(config, run):
        if path.is_relative_to(run.root) and not path.exists():
            maker = _maker_of(path, config, run)
            raise UserError(f"{path}: missing; run the stage `{maker}` first, or `bgetune adapt` for all of them")


PARENT_PIPE = "BGETUNE_PARENT_PIPE"
"""Environment: number of a pipe that closes when the process that started this one ends."""


def _end_with_parent() -> None:
    """A stage that outlives a killed `adapt` would go on writing into a folder that nobody holds any more."""
    pipe = os.environ.pop(PARENT_PIPE, None)
    if pipe is None:
        return

    def wait_for_the_end() -> None:
        os.read(int(pipe), 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def _maker_of(path: Path, config: JobConfig, run: Run) -> str:
    for stage in STAGES:
        if any(path == out or out in path.parents for out in stage.outputs(config, run)):
            return stage.name
    raise AssertionError(f"no stage makes {path}")
