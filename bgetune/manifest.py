"""Manifests: by them a stage knows that its work still holds."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from bgetune.config import JobConfig, ModelConfig
from bgetune.config_io import flatten, to_dict
from bgetune.files import read_json, sha256_file, sha256_tree, write_json
from bgetune.models import model_files_hash, model_folder
from bgetune.run import Run
from bgetune.stages import ENCODING, Stage

_RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "FlagEmbedding", "sentence-transformers", "faiss-cpu")


def fingerprint(stage: Stage, config: JobConfig, run: Run) -> dict[str, Any]:
    """What the stage's work depends on: configuration values, hashes of its inputs, of the base weights."""
    flat = flatten(to_dict(config))
    keys = (*stage.keys, *ENCODING) if stage.uses_model(config) else stage.keys
    chosen = {k: v for k, v in flat.items() if any(k == key or k.startswith(key + ".") for key in keys)}
    made_from: dict[str, Any] = {
        "config": chosen,
        "inputs": {_name_in(run, path): sha256_tree(path) for path in stage.inputs(config, run)},
    }
    if stage.name == "prepare":
        made_from["harvested"] = _harvested_versions(config)
    if stage.name == "mine" and config.mine.teacher.kind == "cross_encoder":
        teacher = ModelConfig(name_or_path=config.mine.teacher.name_or_path)
        made_from["teacher"] = model_files_hash(model_folder(teacher, "mine.teacher.name_or_path"))
    if stage.uses_model(config):
        made_from["base_model"] = model_files_hash(model_folder(config.model))
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
    path = _manifest(stage, run)
    if not path.is_file():
        return False
    manifest = read_json(path)
    if manifest["made_from"] != (made_from or fingerprint(stage, config, run)):
        return False
    return manifest["outputs"] == {_name_in(run, p): sha256_tree(p) for p in stage.outputs(config, run)}


def finished(stage: Stage, run: Run) -> bool:
    """Whether the stage came to its end once, whatever has changed since."""
    return _manifest(stage, run).is_file()


def begin(stage: Stage, run: Run, made_from: dict[str, Any], afresh: bool) -> None:
    """Note what the work is made from; a stage that goes on from where it was compares this with its own note.

    Nothing is removed here: what an earlier run made stays until the new work takes its place.
    """
    started = _started(stage, run)
    if afresh or not started.exists() or read_json(started) != made_from:
        # only training goes on from where it was
        if stage.name == "train":
            run.resumable.unlink(missing_ok=True)
        write_json(started, made_from)


def seal(stage: Stage, config: JobConfig, run: Run, made_from: dict[str, Any]) -> None:
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
    write_json(_manifest(stage, run), made)
    _started(stage, run).unlink(missing_ok=True)


def _manifest(stage: Stage, run: Run) -> Path:
    return run.manifest(_in_round(stage, run))


def _started(stage: Stage, run: Run) -> Path:
    return run.started(_in_round(stage, run))


def _in_round(stage: Stage, run: Run) -> str:
    """A stage's name in a round: `mine`, `mine-2`."""
    return f"{stage.name}-{run.round}" if stage.in_rounds and run.round > 1 else stage.name
