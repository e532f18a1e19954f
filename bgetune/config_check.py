"""Which values of a job have the right type and no sense."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bgetune.config import HEADS, JobConfig, ModelConfig, TrainConfig
from bgetune.config_check_data import at_least, check_data, check_mine, check_synthesize, require, sources_of
from bgetune.config_check_eval import check_eval, check_merge
from bgetune.config_check_export import check_export, check_hub


def _refuse_infinite(section: Any, prefix: str) -> None:
    for field_ in fields(section):
        value = getattr(section, field_.name)
        if is_dataclass(value):
            _refuse_infinite(value, f"{prefix}{field_.name}.")
        elif isinstance(value, float):
            require(math.isfinite(value), f"{prefix}{field_.name}", value, "use a finite number")


def check(config: JobConfig, is_job: bool = True) -> JobConfig:
    """Refuse values that have the right type and no sense. Raises UserError naming the option.

    Args:
        is_job: off for a command that takes only some of the options, and has no data of its own.
    """
    _refuse_infinite(config, "")
    require(bool(config.output.strip()), "output", config.output, "name the job's folder")
    at_least(1, "encode_batch_tokens", config.encode_batch_tokens)
    at_least(1, "encode_shard_texts", config.encode_shard_texts)
    at_least(1, "adapt.rounds", config.adapt.rounds)
    _check_model(config.model)
    if is_job:
        check_data(config.data)
        kept = config.eval.max_guard_loss is None or bool(config.data.guards)
        require(kept, "eval.max_guard_loss", config.eval.max_guard_loss, "there is no guard; name one in data.guards")
    for option, source in sources_of(config.data).items():
        inside = source.kind == "documents" and _is_within(config.output, source.path)
        require(not inside, "output", config.output, f"it lies in {option}.path, and would be read as a document")
    check_mine(config.mine)
    check_synthesize(config.synthesize)
    _check_train(config.train)
    _check_losses(config.train)
    _check_heads(config.model, config.train)
    require(
        config.train.teacher == "none" or config.mine.method == "given" or config.mine.teacher.kind != "none",
        "train.teacher", config.train.teacher,
        "mining writes the base model's own scores, which teach nothing; set mine.teacher.kind, or mine.method: given",
    )  # fmt: skip
    require(config.adapt.rounds == 1 or config.mine.method == "search", "adapt.rounds", config.adapt.rounds,
            "later rounds mine with the tuned model; set mine.method: search")  # fmt: skip
    in_batch_only = config.mine.method == "none" or config.train.negatives_per_query == 0
    require(
        not in_batch_only or (config.train.batch_size >= 2 and config.train.in_batch_negatives),
        "train.batch_size" if config.train.in_batch_negatives else "train.in_batch_negatives",
        config.train.batch_size if config.train.in_batch_negatives else False,
        "no negatives are possible with one query a step and no hard negatives; use at least 2"
        if config.train.in_batch_negatives
        else "there are no hard negatives either, and a step needs some; leave it on",
    )
    check_merge(config.merge)
    check_eval(config.eval)
    check_export(config.export, config.model.heads, config.train.lora.rank, bool(config.merge.shares))
    check_hub(config.hub)
    return config


def _is_within(folder: str, other: str) -> bool:
    return Path(folder).expanduser().resolve().is_relative_to(Path(other).expanduser().resolve())


def _check_model(model: ModelConfig) -> None:
    at_least(3, "model.query_max_length", model.query_max_length)
    at_least(3, "model.passage_max_length", model.passage_max_length)
    at_least(1, "model.multi_vector_dim", model.multi_vector_dim)
    _check_list("model.heads", model.heads)
    require(model.heads == "auto" or "dense" in model.heads, "model.heads", list(model.heads), "dense is always there")


def _check_list(option: str, heads: tuple[str, ...] | str) -> None:
    if heads != "auto":
        require(len(heads) > 0 and len(set(heads)) == len(heads), option, list(heads), "name each head once, or auto")


def _check_train(train: TrainConfig) -> None:
    for option in ("batch_size", "max_steps", "eval_every", "save_every", "keep_checkpoints", "eval_max_queries"):
        at_least(1, f"train.{option}", getattr(train, option))
    for option in ("seed", "negatives_per_query", "weight_decay", "self_distillation_start", "triplet_weight"):
        at_least(0, f"train.{option}", getattr(train, option))
    at_least(1, "train.early_stopping_patience", train.early_stopping_patience)
    for option in ("epochs", "learning_rate", "head_learning_rate", "temperature", "max_grad_norm"):
        value = getattr(train, option)
        require(value is None or value > 0, f"train.{option}", value, "use more than 0")
    require(0 <= train.warmup_share < 1, "train.warmup_share", train.warmup_share, "use a share from 0 to below 1")
    require(train.dropout is None or 0 <= train.dropout < 1, "train.dropout", train.dropout, "from 0 to below 1")
    require(0 < train.layer_decay <= 1, "train.layer_decay", train.layer_decay, "use a share above 0, at most 1")
    micro = train.micro_batch_tokens
    require(micro == "auto" or int(micro) >= 1, "train.micro_batch_tokens", micro, "use at least 1, or auto")
    at_least(0, "train.lora.rank", train.lora.rank)
    require(train.lora.alpha > 0, "train.lora.alpha", train.lora.alpha, "use more than 0")
    require(0 <= train.lora.dropout < 1, "train.lora.dropout", train.lora.dropout, "from 0 to below 1")
    if train.lora.rank:
        require(bool(train.lora.target_modules), "train.lora.target_modules", [], "name layers, or all-linear")
        require(train.freeze == "none", "train.freeze", train.freeze, "LoRA freezes the encoder already; use none")
        require(train.layer_decay == 1, "train.layer_decay", train.layer_decay, "LoRA's adapters learn alike; use 1")


def _check_losses(train: TrainConfig) -> None:
    for head in HEADS:
        settings = getattr(train, head)
        at_least(0, f"train.{head}.loss_weight", settings.loss_weight)
        at_least(0, f"train.{head}.ensemble_weight", settings.ensemble_weight)
        value = settings.temperature
        require(value is None or value > 0, f"train.{head}.temperature", value, "use more than 0, or null")
    at_least(0, "train.ensemble_loss_weight", train.ensemble_loss_weight)
    at_least(0, "train.false_negative_margin", train.false_negative_margin)
    at_least(0, "train.triplet_margin", train.triplet_margin)
    heads = HEADS if train.heads == "auto" else train.heads or HEADS
    for weight in ("loss_weight", "ensemble_weight"):
        some = any(getattr(getattr(train, head), weight) > 0 for head in heads)
        require(some, f"train.{heads[0]}.{weight}", 0.0, "some head that trains needs a weight above 0")
    require(train.in_batch_negatives or not train.query_negatives, "train.query_negatives", True,
             "other queries are in-batch negatives; leave train.in_batch_negatives on")  # fmt: skip
    dims = train.matryoshka_dims
    require(all(d >= 1 for d in dims) and len(set(dims)) == len(dims), "train.matryoshka_dims", list(dims),
             "use different lengths of at least 1")  # fmt: skip


def _check_heads(model: ModelConfig, train: TrainConfig) -> None:
    _check_list("train.heads", train.heads)
    for head in train.heads if train.heads != "auto" else ():
        had = model.heads == "auto" or head in model.heads
        require(had, "train.heads", head, f"the model's heads are {list(model.heads)}; add it to model.heads")
    trained = train.heads if train.heads != "auto" else model.heads
    if train.freeze == "encoder" and trained != "auto":
        require(
            trained != ("dense",), "train.freeze", train.freeze, "the dense head has no weights of its own to train"
        )
    name = train.dev_retriever
    if model.heads != "auto" and name not in ("auto", "hybrid"):
        require(name in model.heads, "train.dev_retriever", name, f"the model's heads are {list(model.heads)}")
