"""The stage: search every test split with base and tuned, each over an index built from its own weights."""

from __future__ import annotations

from pathlib import Path

import torch

from bgetune.config import JobConfig
from bgetune.device import autocast_dtype
from bgetune.encoder import Encoder
from bgetune.files import atomic_folder, read_json, write_text
from bgetune.run import Run
from bgetune.search import HYBRID, retrievers_of, search, search_bm25, write_trec_run

from .markdown import to_markdown
from .report import build_report, to_json
from .rounds import rounds_of
from .sets import VERSIONS, EvalSet, read_eval_set
from .terminal import print_report


def evaluate(config: JobConfig, run: Run) -> None:
    """Measure base and tuned on the domain and every guard; write `report/`, print the table and the report's path.

    Raises:
        UserError: a set has no test split, or a model cannot be loaded.
    """
    roles = {config.data.name: "domain", **dict.fromkeys(config.data.guards, "guard")}
    sets = [read_eval_set(name, role, run) for name, role in roles.items()]
    for test in sets:
        test.found["bm25"] = {"base": search_bm25(test.queries, test.corpus, config.eval.depth)}
    made_by: dict[str, str | None] = {"name": config.model.name_or_path, "revision": config.model.revision}
    for version in VERSIONS:  # one model in memory at a time
        made_by.update(_search_all(version, sets, config, run))
    deciding = _deciding(run, sets)
    report = build_report(config, sets, made_by, deciding)
    report["rounds"] = rounds_of(config, run, sets[0], deciding)
    with atomic_folder(run.report) as folder:
        _write_runs(folder / "runs", sets)
        write_text(folder / "report.json", to_json(report))
        write_text(folder / "report.md", to_markdown(report, run.config_file))
    print_report(report)
    print(f"report: {run.report / 'report.md'}", flush=True)


def _search_all(version: str, sets: list[EvalSet], config: JobConfig, run: Run) -> dict[str, str]:
    """Search every set with one version of the encoder; returns its hash, and what it ran on."""
    encoder = _load(version, config, run)
    settings = config.eval
    cache = run.vectors if version == "base" else run.best_vectors
    for test in sets:
        found = search(
            encoder, test.queries, test.corpus, config, retrievers_of(encoder.heads), cache,
            f"{version} {test.name}", settings.index, settings.depth,
        )  # fmt: skip
        for name, results in found.items():
            test.found.setdefault(name, {})[version] = results
    dtype = autocast_dtype(config.encode_precision, encoder.device) or torch.float32
    return {
        f"{version}_weights": encoder.weights_hash(),
        "device": encoder.device.type,
        "precision": str(dtype).removeprefix("torch."),
    }


def _load(version: str, config: JobConfig, run: Run) -> Encoder:
    """Base has the heads that training started from, where the checkpoint has none of its own."""
    if version == "base":
        return Encoder.load(config.model, heads_from=run.base_heads)
    return Encoder.load_folder(run.best, config.model)


def _deciding(run: Run, sets: list[EvalSet]) -> str:
    """The verdict is about what the checkpoint was chosen by: a head that did not train says nothing about training."""
    note = run.best / "best.json"
    if note.is_file():
        return read_json(note)["retriever"]
    return HYBRID if HYBRID in sets[0].found else "dense"


def _write_runs(folder: Path, sets: list[EvalSet]) -> None:
    for test in sets:
        for retriever, versions in test.found.items():
            for version, results in versions.items():
                path = folder / f"{test.name}.{retriever}.{version}.trec"
                write_trec_run(path, results, f"{retriever}.{version}")
