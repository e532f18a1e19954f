"""The model card: what was measured, how it was made, how to use it. Nothing in it is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from bgetune.config import HEADS, Head, JobConfig
from bgetune.config_io import to_yaml
from bgetune.encoder import Encoder
from bgetune.export.card_gains import gain_tables, merged_words
from bgetune.export.readers import flag_model_reads, m3_heads, m3_settings
from bgetune.head_files import HEADS_FILE
from bgetune.layout import EncoderSpec, flag_model_settings

_WORDS: dict[str, str] = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector"}
_LAYERS = {"sparse": "sparse_linear", "multi_vector": "colbert_linear"}


@dataclass(frozen=True)
class Measured:
    """What the stages before have found."""

    report: dict[str, Any]
    """report.json of the eval stage."""
    stats: dict[str, Any]
    """stats.json of the mine stage."""
    weights_hash: str
    """SHA-256 of the weights that the report measured."""
    started: tuple[Head, ...] = ()
    """Heads that the base model lacks, which were started in closed form from the corpus."""


def model_card(config: JobConfig, encoder: Encoder, measured: Measured) -> str:
    """README.md of an export of `encoder`, with the Hub's metadata on top."""
    parts = [
        _metadata(config, encoder),
        f"# {_title(config)}",
        _what_it_is(config, measured),
        "## Measured gain",
        *gain_tables(measured.report),
        _how_measured(config, encoder, measured),
        "## Use",
        *_usage(config, encoder),
        "## Training",
        *_training(config, encoder, measured),
        "<details><summary>The whole configuration</summary>\n\n```yaml\n" + to_yaml(config) + "```\n\n</details>",
        "## Limits",
        *_limits(encoder),
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(config: JobConfig, measured: Measured) -> str:
    report = measured.report
    base, *_, ours = report["systems"].values()
    merged = f" {merged_words(report['merging'])}" if "merging" in report else ""
    if base["weights"] == ours["weights"] and not merged:
        heads = f", with the {_and(measured.started)} that training started from" if measured.started else ""
        return f"**These are the weights of {_base_link(config)}**{heads}: no checkpoint was better on dev."
    made = f"{_base_link(config)} fine-tuned for retrieval on *{config.data.name}* with bgetune."
    return " ".join([made + merged, *(str(line) for line in report["headline"])])


def _title(config: JobConfig) -> str:
    return config.model.name_or_path.rstrip("/").rpartition("/")[2].replace("pypi:", "") + "-" + config.data.name


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~", "pypi:"))


def _base_link(config: JobConfig) -> str:
    name = config.model.name_or_path
    return f"[{name}](https://huggingface.co/{name})" if _is_hub_id(name) else f"`{name}`"


def _and(heads: Sequence[Head]) -> str:
    """
    >>> _and(["sparse"]), _and(["sparse", "multi_vector"])
    ('sparse head', 'sparse and multi-vector heads')
    """
    return " and ".join(_WORDS[head] for head in heads) + (" head" if len(heads) == 1 else " heads")


def _metadata(config: JobConfig, encoder: Encoder) -> str:
    heads = [_WORDS[head] for head in encoder.heads if head != "dense"]
    tags = ["sentence-transformers", "feature-extraction", "sentence-similarity", "retrieval", *heads, "bgetune"]
    values: dict[str, Any] = {
        "license": config.export.license,
        "language": config.export.language,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": tags,
    }
    if _is_hub_id(config.model.name_or_path):
        values["base_model"] = config.model.name_or_path
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _how_measured(config: JobConfig, encoder: Encoder, measured: Measured) -> str:
    lines = [
        "Base and tuned were measured on the same test queries with indexes rebuilt from their own weights; the "
        "interval is a 95 % bootstrap over queries, p is from a paired randomisation test, corrected for the number of "
        "sets by Holm's method. Training saw no guard."
    ]
    if len(encoder.heads) > 1:
        everything = config.eval.multi_vector == "full"
        ranking = ["multi_vector"] if "multi_vector" in encoder.heads and not everything else []
        ranking = [f"`{name}`" for name in (*ranking, "hybrid", "hybrid_rrf")]
        found_by = " and ".join(f"`{head}`" for head in encoder.heads if head != "multi_vector")
        lines.append(
            f"{', '.join(ranking[:-1])} and {ranking[-1]} rank the {config.eval.candidates} best passages of "
            f"{found_by}: `hybrid` by {_hybrid(config, encoder.heads)}, `hybrid_rrf` by the heads' reciprocal ranks."
        )
        if tuned := measured.report["hybrid_weights"].get(list(measured.report["systems"])[-1]):
            best = " + ".join(f"{weight:g} * {head}" for head, weight in tuned.items())
            lines.append(f"`hybrid_tuned` is {best}, the weights that were best on the domain's dev split.")
    if measured.started:
        heads = _and(measured.started)
        lines.append(f"The base model lacks the {heads}; base is measured with what training started from.")
    return " ".join(lines)


def _hybrid(config: JobConfig, heads: Sequence[Head]) -> str:
    return " + ".join(f"{getattr(config.train, head).ensemble_weight:g} * {head}" for head in heads)


def _training(config: JobConfig, encoder: Encoder, measured: Measured) -> list[str]:
    stats, train = measured.stats, config.train
    lines = [f"{stats['queries']:,} queries with {stats['negatives']:,} mined hard negatives."]
    trained = [head for head in encoder.heads if train.heads == "auto" or head in train.heads]
    if len(trained) > 1:
        weights = ", ".join(f"{_WORDS[head]} {getattr(train, head).loss_weight:g}" for head in trained)
        lines.append(
            f"Heads trained, with the weights of their losses: {weights}; ensemble {train.ensemble_loss_weight:g}."
        )
        if train.self_distillation:
            first = f" from step {train.self_distillation_start} on" if train.self_distillation_start else ""
            lines.append(f"Self-distillation: the ensemble, {_hybrid(config, trained)}, teaches each head{first}.")
    elif encoder.heads != ("dense",):
        lines.append(f"The {_and(trained)} was trained.")
    if still := [head for head in encoder.heads if head not in trained]:
        lines.append(f"Not trained: the {_and(still)}{'' if train.freeze == 'encoder' else '; the encoder below was'}.")
    if measured.started:
        lines.append(f"The {_and(measured.started)} started in closed form from the corpus, not at random.")
    if train.lora.rank:
        layers = ", ".join(train.lora.target_modules)
        lora = f"LoRA of rank {train.lora.rank} and alpha {train.lora.alpha:g} on {layers}"
        lines.append(f"The encoder was trained by {lora}, which is merged into these weights.")
    elif train.freeze != "none":
        lines.append(f"Frozen: the {'encoder' if train.freeze == 'encoder' else 'input embeddings'}.")
    return [" ".join(lines), f"SHA-256 of the weights measured above: `{measured.weights_hash}`."]


def _limits(encoder: Encoder) -> list[str]:
    spec = encoder.spec
    parts = [
        "Measured on the sets above and on nothing else; other domains and languages may have gained or lost. "
        f"Measured with passages cut at {spec.passage_max_length} tokens and queries at {spec.query_max_length}; "
        "sentence-transformers has one limit for both, the larger (`model.max_seq_length`)."
    ]
    if spec.pooling == "mcls":
        parts.append(
            "Measured with a CLS token before every 256 tokens, averaged (`model.pooling: mcls`). Other readers do not "
            "insert CLS tokens: they give the same for texts of up to 256 tokens, and something else for longer ones."
        )
    if hasattr(encoder.backbone, "pooler"):
        parts.append(
            "transformers may report `pooler.dense` as newly initialized: this model has no pooler, and nothing here "
            "reads one."
        )
    return parts


def _usage(config: JobConfig, encoder: Encoder) -> list[str]:
    spec = encoder.spec
    query_prompt = ', prompt_name="query"' if spec.query_instruction else ""
    passage_prompt = ', prompt_name="document"' if spec.passage_instruction else ""
    parts = [
        f"""```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH_OR_ID")
queries = model.encode(["a question"]{query_prompt})
passages = model.encode(["a passage"]{passage_prompt})
print(model.similarity(queries, passages))
```"""
    ]
    if flag_model_reads(encoder):
        parts.append(
            f"""```python
{_numpy(spec)}from FlagEmbedding import FlagModel

model = FlagModel(
    "PATH_OR_ID",
{_arguments(flag_model_settings(spec))})
query = model.encode_queries(["a question"])[0]
passage = model.encode_corpus(["a passage"])[0]
print({_similarity(spec, "query", "passage")})
```"""
        )
    return parts + _usage_of_heads(config, encoder)


def _usage_of_heads(config: JobConfig, encoder: Encoder) -> list[str]:
    """The sparse and multi-vector heads: FlagEmbedding's M3 reader where it can, and else why it cannot."""
    held: list[Head] = [head for head in HEADS if head != "dense" and encoder.layers.has(head)]
    asked = [head for head in held if head in encoder.heads]
    readable = m3_heads(encoder)
    parts = []
    if asked and readable:
        parts.append(_m3_snippet(config, encoder, [head for head in encoder.heads if head in readable]))
        if "dense" not in readable:
            parts.append("FlagEmbedding has no pooling by max, and so not this model's dense vectors.")
    elif asked:
        names = " and ".join(f"`{_LAYERS[head]}`" for head in asked)
        why = "it needs a CLS token" if len(held) == 2 else "without both heads' files it takes random weights for both"
        parts.append(
            f"The {_and(asked)} {'is' if len(asked) == 1 else 'are'} in `{HEADS_FILE}`, as weight and bias of {names}: "
            "a linear layer on the last hidden states. FlagEmbedding's `BGEM3FlagModel` cannot read this folder: "
            f"{why}."
        )
    if carried := [head for head in held if head not in encoder.heads]:
        parts.append(f"The base model's {_and(carried)} came along, neither trained nor measured.")
    return parts


def _m3_snippet(config: JobConfig, encoder: Encoder, heads: Sequence[Head]) -> str:
    scores = {
        "dense": _similarity(encoder.spec, 'query["dense_vecs"][0]', 'passage["dense_vecs"][0]'),
        "sparse": 'model.compute_lexical_matching_score(query["lexical_weights"][0], passage["lexical_weights"][0])',
        "multi_vector": 'float(model.colbert_score(query["colbert_vecs"][0], passage["colbert_vecs"][0]))',
    }
    lines = "".join(f"{head} = {scores[head]}\n" for head in heads)
    whole = set(heads) == set(encoder.heads)
    hybrid = f"print({_hybrid(config, heads)})  # hybrid\n" if whole else ""
    return f"""```python
{_numpy(encoder.spec)}from FlagEmbedding import BGEM3FlagModel

model = BGEM3FlagModel(
    "PATH_OR_ID",
{_arguments(m3_settings(encoder, heads))})
query = model.encode_queries(["a question"])
passage = model.encode_corpus(["a passage"])
{lines}print({", ".join(heads)})
{hybrid}```"""


def _arguments(settings: dict[str, Any]) -> str:
    return "".join(f"    {key}={value!r},\n" for key, value in settings.items())


def _numpy(spec: EncoderSpec) -> str:
    return "import numpy as np\n" if "np." in _similarity(spec, "", "") else ""


def _similarity(spec: EncoderSpec, query: str, passage: str) -> str:
    """Python that scores two vectors as the model's similarity has it.

    >>> _similarity(EncoderSpec("cls", True, "cosine", "", "", 64, 256), "q", "p")  # of length 1
    'q @ p'
    >>> _similarity(EncoderSpec("cls", False, "cosine", "", "", 64, 256), "q", "p")
    'q @ p / (np.linalg.norm(q) * np.linalg.norm(p))'
    """
    if spec.similarity == "euclidean":
        return f"-np.linalg.norm({query} - {passage})"
    product = f"{query} @ {passage}"
    if spec.similarity == "dot" or spec.normalize:
        return product
    return f"{product} / (np.linalg.norm({query}) * np.linalg.norm({passage}))"
