"""The stage: search every test split with base and tuned, each over an index built from its own weights."""

from __future__ import annotations

from pathlib import Path

from bgetune.config import JobConfig
from bgetune.files import read_json
from bgetune.limits import broken_limits
from bgetune.run import TUNED, Run, final_system
from bgetune.search import deciding_retriever

from .measure import measure
from .probes import read_probe
from .report import build_report, values_of
from .rounds import rounds_of
from .sets import read_eval_sets
from .systems import systems_of
from .tracker import log_to_wandb
from .training import training_curves
from .write import explain_examples, write_report


def evaluate(config: JobConfig, run: Run) -> None:
    """Measure base and tuned on the domain and every guard; write `report/`, print the table and the report's path.

    Raises:
        UserError: a set has no test split, a probe is broken, or a model cannot be loaded.
    """
    merging = read_json(run.merge_note) if config.merge.shares else None
    sets, dev = read_eval_sets(config, run, merging)
    probes = [read_probe(name, Path(path)) for name, path in config.eval.probes.items()]
    systems = systems_of(config, run)
    measured = measure(systems, sets, dev, probes)
    deciding = deciding_retriever(run, measured.systems[TUNED]["heads"])
    title = f"{config.model.name_or_path}: {' against '.join(system.name for system in systems)}"
    values = [values_of(test, config.eval) for test in sets]
    report = build_report(config, title, sets, values, measured, deciding, probes)
    if merging is not None:
        report["merging"] = merging["merging"]
    if (curves := training_curves(run.train_log)) is not None:
        report["training"] = curves
    report["rounds"] = rounds_of(config, run, sets[0], deciding)
    report["failed"] = broken_limits(report, config.eval.max_guard_loss, [final_system(config)])
    explain_examples(report, systems, sets)
    write_report(run.report, report, sets, values, run.config_file)
    log_to_wandb(config, run, report)
