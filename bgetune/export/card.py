"""The model card: what was measured, how it was made, how to use it. Nothing in it is typed by hand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from bgetune.config import Head, JobConfig
from bgetune.config_io import to_yaml
from bgetune.encoder import Encoder
from bgetune.export.card_gains import data_table, gain_tables, kept_base, lost_by_heads, merged_words
from bgetune.export.card_licence import is_hub_id
from bgetune.export.card_measured import Measured
from bgetune.export.card_metadata import front_matter, title_of
from bgetune.export.card_named import PLACE
from bgetune.export.card_usage import WORDS, heads_in_words, hybrid, usage
from bgetune.export.plot import PLOT_FILE, write_plot
from bgetune.export.push_secret import redacted
from bgetune.files import write_text


def write_card(folder: Path, config: JobConfig, encoder: Encoder, measured: Measured) -> None:
    """Into an export: README.md, its picture of the gains, and the base model's licence files."""
    write_text(folder / "README.md", model_card(config, encoder, measured))
    write_plot(folder / PLOT_FILE, measured.report)
    for path in measured.licence_files:
        shutil.copyfile(path, folder / path.name)


def model_card(config: JobConfig, encoder: Encoder, measured: Measured) -> str:
    """README.md of an export of `encoder`, with the Hub's metadata on top."""
    report = measured.report
    parts = [
        front_matter(config, encoder, measured),
        f"# {title_of(config)}",
        *_what_it_is(config, measured),
        f"![Gain in nDCG@10 over the base model on each set, with 95 % intervals]({PLOT_FILE})",
        "## Measured gain",
        *gain_tables(report),
        _how_measured(config, encoder, measured),
        "## Model",
        _model(encoder),
        "## Use",
        "Each reader that was installed gave bgetune's own vectors before this folder was let out; the largest "
        f"differences are in `bgetune.json`. {PLACE}",
        *usage(config, encoder, measured.forms),
        "## Data",
        data_table(report, measured.splits),
        "The hash is of a set's folder as it was prepared: passages, queries and judgements.",
        "## Training",
        *_training(config, encoder, measured),
        "<details><summary>The whole configuration</summary>\n\n```yaml\n" + _public(config) + "```\n\n</details>",
        "## Limits",
        *_limits(config, encoder),
    ]
    return "\n\n".join(parts) + "\n"


def _what_it_is(config: JobConfig, measured: Measured) -> list[str]:
    report = measured.report
    merged = merged_words(report)
    if merged and config.merge.models:
        merged += f" The tuned weights are the mean of {len(config.merge.models) + 1} models."
    if kept_base(report):
        heads = f", with the {heads_in_words(measured.started)} that training started from" if measured.started else ""
        why = merged or "No checkpoint was better on dev."
        return [f"**These are the weights of {_base_link(config)}**{heads}. {why}"]
    made = f"{_base_link(config)} fine-tuned for retrieval on *{config.data.name}* with bgetune."
    return [
        f"{made} {merged}".strip(),
        "\n".join(f"- {line}" for line in [*report["headline"], *lost_by_heads(report)]),
    ]


def _base_link(config: JobConfig) -> str:
    name = config.model.name_or_path
    if not is_hub_id(name):
        return f"`{name}`"
    revision = f" at revision `{config.model.revision}`" if config.model.revision else ""
    return f"[{name}](https://huggingface.co/{name}){revision}"


def _public(config: JobConfig) -> str:
    """The configuration without what lets somebody in at an address: users, passwords, keys in its query."""
    return re.sub(r"\S+://\S+", lambda address: redacted(address[0]), to_yaml(config))


def _model(encoder: Encoder) -> str:
    """What each head gives, and how texts are read, as a list."""
    spec, layers = encoder.spec, encoder.layers
    size = "scaled to length 1" if spec.normalize else "not scaled"
    given = {
        "dense": f"{encoder.width:,} numbers a text, pooled by {spec.pooling}, {size}; compared by {spec.similarity}",
        "sparse": f"a weight for each token of a text, of a vocabulary of {encoder.backbone.config.vocab_size:,}",
        "multi_vector": f"{getattr(layers.colbert_linear, 'out_features', 0):,} numbers a token, {size}",
    }
    lines = [f"{WORDS[head].capitalize()}: {given[head]}." for head in encoder.heads]
    for role in ("query", "passage"):
        if text := spec.instruction(role):
            lines.append(f"Before every {role}: `{text}`")
    return "\n".join(f"- {line}" for line in lines)


def _how_measured(config: JobConfig, encoder: Encoder, measured: Measured) -> str:
    several = len(measured.report["sets"]) > 1
    holm = ", corrected for the number of sets by Holm's method" if several else ""
    lines = [
        "Base and tuned were measured on the same test queries with indexes rebuilt from their own weights; the "
        f"interval is a 95 % bootstrap over queries, p is from a paired randomisation test{holm}."
    ]
    if several:
        lines.append("Training saw no guard.")
    if len(encoder.heads) > 1:
        everything = config.eval.multi_vector == "full"
        ranking = ["multi_vector"] if "multi_vector" in encoder.heads and not everything else []
        ranking = [f"`{name}`" for name in (*ranking, "hybrid", "hybrid_rrf")]
        found_by = " and ".join(f"`{head}`" for head in encoder.heads if head != "multi_vector")
        lines.append(
            f"{', '.join(ranking[:-1])} and {ranking[-1]} rank the {config.eval.candidates} best passages of "
            f"{found_by}: `hybrid` by {hybrid(config, encoder.heads)}, `hybrid_rrf` by the heads' reciprocal ranks."
        )
        if tuned := measured.report["hybrid_weights"].get(list(measured.report["systems"])[-1]):
            best = " + ".join(f"{weight:g} * {head}" for head, weight in tuned.items())
            lines.append(f"`hybrid_tuned` is {best}, the weights that were best on the domain's dev split.")
    for name, found in measured.report["sets"].items():
        if left_out := found.get("left_out"):
            lines.append(f"{left_out:,} test queries of {name} decided the merge and are left out.")
    if measured.started:
        heads = heads_in_words(measured.started)
        lines.append(f"The base model lacks the {heads}; base is measured with what training started from.")
    return " ".join(lines)


def _training(config: JobConfig, encoder: Encoder, measured: Measured) -> list[str]:
    stats, train, kept = measured.stats, config.train, kept_base(measured.report)
    lines = ["What was tried, none of which is in these weights:"] if kept else []
    lines.append(f"{stats['queries']:,} queries with {stats['negatives']:,} mined hard negatives.")
    trained = [head for head in encoder.heads if train.heads == "auto" or head in train.heads]
    lines += _heads_trained(config, encoder, trained)
    if still := [head for head in encoder.heads if head not in trained]:
        below = "" if train.freeze == "encoder" else "; the encoder below was"
        lines.append(f"Not trained: the {heads_in_words(still)}{below}.")
    if measured.started:
        lines.append(f"The {heads_in_words(measured.started)} started in closed form from the corpus, not at random.")
    if train.lora.rank:
        layers = ", ".join(train.lora.target_modules)
        lora = f"LoRA of rank {train.lora.rank} and alpha {train.lora.alpha:g} on {layers}"
        lines.append(f"The encoder was trained by {lora}{'' if kept else ', which is merged into these weights'}.")
    elif train.freeze != "none":
        lines.append(f"Frozen: the {'encoder' if train.freeze == 'encoder' else 'input embeddings'}.")
    return [" ".join(lines), f"SHA-256 of the weights measured above: `{measured.weights_hash}`."]


def _heads_trained(config: JobConfig, encoder: Encoder, trained: Sequence[Head]) -> list[str]:
    train = config.train
    if len(trained) == 1:
        return [] if encoder.heads == ("dense",) else [f"The {heads_in_words(trained)} was trained."]
    weights = ", ".join(f"{WORDS[head]} {getattr(train, head).loss_weight:g}" for head in trained)
    lines = [f"Heads trained, with the weights of their losses: {weights}; ensemble {train.ensemble_loss_weight:g}."]
    if train.self_distillation:
        first = f" from step {train.self_distillation_start} on" if train.self_distillation_start else ""
        lines.append(f"Self-distillation: the ensemble, {hybrid(config, trained)}, teaches each head{first}.")
    return lines


def _limits(config: JobConfig, encoder: Encoder) -> list[str]:
    spec = encoder.spec
    parts = [
        "Measured on the sets above and on nothing else; other domains and languages may have gained or lost. "
        f"Measured with passages cut at {spec.passage_max_length} tokens and queries at {spec.query_max_length}; "
        "sentence-transformers has one limit for both, the larger (`model.max_seq_length`)."
    ]
    if config.export.dtype != "fp32":
        kind = {"fp16": "float16", "bf16": "bfloat16"}[config.export.dtype]
        parts.append(f"Measured with the weights in float32; the files here hold them in {kind}.")
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
