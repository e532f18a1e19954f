"""The model card: what was measured, how it was made, how to use it. Nothing in it is typed by hand."""

from __future__ import annotations

from typing import Any

import yaml

from bgetune.config import JobConfig
from bgetune.config_io import to_yaml
from bgetune.layout import EncoderSpec, flag_model_settings


def model_card(
    config: JobConfig, spec: EncoderSpec, report: dict[str, Any], stats: dict[str, Any], weights_hash: str
) -> str:
    """README.md of an export, with the Hub's metadata on top.

    Args:
        report: report.json of the eval stage.
        stats: stats.json of the mine stage.
        weights_hash: SHA-256 of the weights the report measured.
    """
    parts = [
        _metadata(config),
        f"# {_title(config)}",
        _what_it_is(config, report),
        "## Measured gain",
        _gain_table(report),
        "Base and tuned were measured on the same test queries with indexes rebuilt from their own weights; the "
        "interval is a 95 % bootstrap over queries, p is from a paired randomisation test. Training saw no guard.",
        "## Use",
        _usage(config, spec),
        "## Training",
        f"{stats['queries']:,} queries with {stats['negatives']:,} mined hard negatives. SHA-256 of the weights "
        f"measured above: `{weights_hash}`.",
        "<details><summary>The whole configuration</summary>\n\n```yaml\n" + to_yaml(config) + "```\n\n</details>",
        "## Limits",
        "Measured on the sets above and on nothing else; other domains and languages may have gained or lost. "
        f"Measured with passages cut at {spec.passage_max_length} tokens and queries at {spec.query_max_length}; "
        "sentence-transformers has one limit for both, the larger (`model.max_seq_length`).",
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(config: JobConfig, report: dict[str, Any]) -> str:
    if report["model"]["base_weights"] == report["model"]["tuned_weights"]:
        return f"**These are the weights of {_base_link(config)}**: no checkpoint of the training was better on dev."
    made = f"{_base_link(config)} fine-tuned for retrieval on *{config.data.name}* with bgetune."
    return " ".join([made, *(str(line) for line in report["headline"])])


def _title(config: JobConfig) -> str:
    return config.model.name_or_path.rstrip("/").rpartition("/")[2].replace("pypi:", "") + "-" + config.data.name


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~", "pypi:"))


def _base_link(config: JobConfig) -> str:
    name = config.model.name_or_path
    return f"[{name}](https://huggingface.co/{name})" if _is_hub_id(name) else f"`{name}`"


def _metadata(config: JobConfig) -> str:
    values: dict[str, Any] = {
        "license": config.export.license,
        "language": config.export.language,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", "retrieval", "bgetune"],
    }
    if _is_hub_id(config.model.name_or_path):
        values["base_model"] = config.model.name_or_path
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _gain_table(report: dict[str, Any]) -> str:
    lines = [
        "| set | role | queries | retriever | nDCG@10 base | tuned | gain | 95 % interval | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in report["sets"].items():
        for retriever, scores in found["retrievers"].items():
            base = scores["base"]["ndcg@10"]
            cells = [name, found["role"], f"{found['n_queries']:,}", retriever, f"{base:.4f}"]
            if "gain" in scores:
                gain = scores["gain"]["ndcg@10"]
                low, high = gain["ci95"]
                tuned = f"{scores['tuned']['ndcg@10']:.4f}"
                cells += [tuned, f"{gain['abs']:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{gain['p']:.4f}"]
            else:
                cells += [""] * 4
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _usage(config: JobConfig, spec: EncoderSpec) -> str:
    query_prompt = ', prompt_name="query"' if spec.query_instruction else ""
    passage_prompt = ', prompt_name="document"' if spec.passage_instruction else ""
    snippets = f"""```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH_OR_ID")
queries = model.encode(["a question"]{query_prompt})
passages = model.encode(["a passage"]{passage_prompt})
print(model.similarity(queries, passages))
```"""
    if spec.pooling == "max":
        return snippets
    settings = "".join(f"    {key}={value!r},\n" for key, value in flag_model_settings(spec).items())
    return f"""{snippets}

```python
from FlagEmbedding import FlagModel

model = FlagModel(
    "PATH_OR_ID",
{settings})
print(model.encode_queries(["a question"]) @ model.encode_corpus(["a passage"]).T)
```"""
