"""The metadata on top of a model card, as the Hub's specification has it (huggingface/hub-docs, modelcard.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bgetune.config import JobConfig
from bgetune.config_data import SourceConfig
from bgetune.encoder import Encoder
from bgetune.export.card_gains import kept_base, merged_share
from bgetune.export.card_licence import is_hub_id
from bgetune.export.card_measured import Measured
from bgetune.metrics import DECIDING

_HEAD_TAGS = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector"}
_FORM_TAGS = {"sparse_encoder": ("sparse-encoder",), "multi_vector_encoder": ("late-interaction", "colbert")}
# huggingface.co/docs/text-embeddings-inference/supported_models, docs.vllm.ai/en/latest/models/pooling_models
_SERVED = ("bert", "roberta", "xlm-roberta", "modernbert")
_TASKS = {"similarity": "sentence-similarity", "classification": "text-classification"}
_FILES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")


def title_of(config: JobConfig) -> str:
    """The model's name: its base's and the domain's."""
    return config.model.name_or_path.rstrip("/").rpartition("/")[2].replace("pypi:", "") + "-" + config.data.name


def front_matter(config: JobConfig, encoder: Encoder, measured: Measured) -> str:
    """The block between two lines of dashes."""
    languages = [language for language in config.export.language.replace(",", " ").split() if language]
    values: dict[str, Any] = {
        "language": languages,
        **measured.licence,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": _tags(encoder, measured),
    }
    if is_hub_id(config.model.name_or_path):
        values["base_model"] = config.model.name_or_path
        if not kept_base(measured.report):
            values["base_model_relation"] = "merge" if 0 < merged_share(measured.report) < 1 else "finetune"
    if (domain := hub_dataset(config.data.domain)) is not None:
        values["datasets"] = [domain]
    results = [*_of_sets(config, measured.report), *_of_probes(measured.report)]
    values["model-index"] = [{"name": title_of(config), "results": results}]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)}---"


def served_elsewhere(encoder: Encoder) -> bool:
    """Whether Text Embeddings Inference and vLLM know the architecture and the pooling."""
    return encoder.backbone.config.model_type in _SERVED and encoder.spec.pooling_elsewhere in ("cls", "mean")


def _tags(encoder: Encoder, measured: Measured) -> list[str]:
    tags = ["sentence-transformers", "feature-extraction", "sentence-similarity", "retrieval"]
    tags += [_HEAD_TAGS[head] for head in encoder.heads]
    tags += [tag for form in measured.forms for tag in _FORM_TAGS.get(form, ())]
    if served_elsewhere(encoder):
        tags.append("text-embeddings-inference")
    if not kept_base(measured.report):
        # as sentence-transformers' own trainer writes it
        tags.append(f"dataset_size:{measured.stats['queries']}")
    return [*tags, "bgetune"]


def hub_dataset(source: SourceConfig) -> str | None:
    """The Hub id that a source was read from, if it was.

    >>> hub_dataset(SourceConfig("dataset", "BeIR/scifact")), hub_dataset(SourceConfig("dataset", "data/rows.csv"))
    ('BeIR/scifact', None)
    """
    path = source.path
    here = path.startswith((".", "/", "~")) or path.endswith(_FILES) or Path(path).exists()
    return path if source.kind == "dataset" and path and not here else None


def _of_sets(config: JobConfig, report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every set's scores of this model: of the deciding retriever all metrics, of the others the one that decides."""
    ours = list(report["systems"])[-1]
    sources = {config.data.name: config.data.domain, **config.data.guards}
    for name, found in report["sets"].items():
        metrics = []
        for retriever, scores in found["retrievers"].items():
            for metric, value in scores.get(ours, {}).items():
                if metric == DECIDING or retriever == found["decided_by"]:
                    metrics.append(_metric(metric, value, f"{_name(metric)} ({retriever})"))
        metrics.sort(key=lambda metric: not metric["name"].endswith(f"({found['decided_by']})"))
        dataset = {"type": name, "name": name, "split": "test"}
        if (hub := hub_dataset(sources[name])) is not None:
            # test may have been cut from the split that was read
            dataset = {"type": hub, "name": name, "split": sources[name].split}
            if (subset := sources[name].subset) is not None:
                dataset["config"] = subset
        yield {"task": {"type": "retrieval", "name": "Retrieval"}, "dataset": dataset, "metrics": metrics}


def _of_probes(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    ours = list(report["systems"])[-1]
    for probe in report.get("probes", []):
        task, metric = _TASKS[probe["kind"]], probe["metric"]
        yield {
            "task": {"type": task, "name": task.replace("-", " ").capitalize()},
            "dataset": {"type": probe["name"], "name": probe["name"]},
            "metrics": [_metric(metric, probe["values"][ours], metric.capitalize())],
        }


def _metric(metric: str, value: float, name: str) -> dict[str, Any]:
    return {"type": metric.replace("@", "_at_"), "value": round(value, 4), "name": name}


def _name(metric: str) -> str:
    """
    >>> _name("ndcg@10"), _name("recall@100")
    ('nDCG@10', 'Recall@100')
    """
    kind, _, depth = metric.partition("@")
    return {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}.get(kind, kind.capitalize()) + f"@{depth}"
