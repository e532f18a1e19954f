"""What happens before the first step: processes, the model and its heads, memory, where to go on from."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import logging
import os
import sys
from dataclasses import replace
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState

from bgetune.config import Head, JobConfig, TrainConfig
from bgetune.data import read_retrieval_set
from bgetune.device import autocast_dtype
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.files import atomic_folder
from bgetune.head_files import write_heads
from bgetune.head_start import start_heads
from bgetune.run import Run
from bgetune.search import retrievers_of

from . import checkpoint
from .checkpoint import Progress
from .dataset import TrainingSet, batch_at
from .dev import DevSet
from .log import start_trackers
from .memory import probe_micro_batch_tokens
from .model import parameter_groups, set_up
from .objective import Temperatures, trained_heads
from .ranks import from_main, rank, wait_for_all, world_size
from .step import Learner

log = logging.getLogger("bgetune")

# Rank 0 searches dev, and starts heads, while the others wait.
_LONGEST_WAIT = timedelta(hours=6)
# Steps whose texts the memory probe looks at for the longest.
_PROBED_STEPS = 32


def open_accelerator(config: JobConfig, run: Run) -> Accelerator:
    """Join the launch's process group, if there is one; pick the precision; start the trackers."""
    device = PartialState(**InitProcessGroupKwargs(timeout=_LONGEST_WAIT).to_kwargs()).device
    dtype = autocast_dtype(config.train.precision, device)
    accelerator = Accelerator(
        mixed_precision="no" if dtype is None else "bf16",
        log_with=list(config.train.report_to) or None,
        project_dir=run.train_log.parent,
    )
    many = f", {world_size()} processes" if world_size() > 1 else ""
    log.info("train: on %s%s in %s", device.type, many, "fp32" if dtype is None else "bf16 autocast over fp32 weights")
    if rank() == 0:
        start_trackers(accelerator, config, run)
    return accelerator


def make_learner(
    config: JobConfig, run: Run, data: TrainingSet, accelerator: Accelerator
) -> tuple[Learner, Progress, DevSet]:
    """The model as it trains, brought to the newest checkpoint."""
    domain = read_retrieval_set(run.data(config.data.name))
    encoder = _with_all_heads(config, run)
    if config.model.overlong == "error":
        _refuse_overlong(data, encoder, run)
    heads = trained_heads(encoder, config.train)
    _refuse_what_the_model_lacks(encoder, heads, config.train)
    temperatures = Temperatures(heads, config.train).to(encoder.device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the filling is to expose reads of uninitialised memory; it cost a fifth of a step
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - unknown to torch's stubs
    attention_of_dev, attention = encoder.attention, _attention(config, encoder)
    set_up(encoder, config.train)
    optimizer = torch.optim.AdamW(parameter_groups(encoder, temperatures, config.train), lr=config.train.learning_rate)
    autocasting = accelerator.mixed_precision == "bf16"
    learner = Learner(
        encoder=encoder,
        heads=heads,
        temperatures=temperatures,
        optimizer=optimizer,
        precision=accelerator.autocast if autocasting else contextlib.nullcontext,
        micro_batch_tokens=0,
        search_dtype=torch.bfloat16 if autocasting and encoder.device.type == "cuda" else None,
        attention=attention,
        attention_of_dev=attention_of_dev,
    )
    progress = checkpoint.resume(run.checkpoints, learner)
    progress.micro_batch_tokens = _micro_batch_tokens(config, learner, data, progress)
    dev = DevSet(config, run, domain, heads)
    return replace(learner, micro_batch_tokens=progress.micro_batch_tokens), progress, dev


def _with_all_heads(config: JobConfig, run: Run) -> Encoder:
    """The base model; heads that are asked for and that it lacks are started from the corpus, once, by rank 0."""
    folder = checkpoint.started_heads(run)
    if rank() == 0 and not folder.is_dir():
        encoder = Encoder.load(config.model)
        if encoder.absent_heads:
            lines = start_heads(encoder, read_retrieval_set(run.data(config.data.name)).corpus, config)
            for line in lines:
                log.info("train: %s", line)
            with atomic_folder(folder) as partial:
                write_heads(partial, encoder.layers)
    wait_for_all()
    return Encoder.load(config.model, heads_from=folder if folder.is_dir() else None)


def _refuse_what_the_model_lacks(encoder: Encoder, heads: tuple[Head, ...], config: TrainConfig) -> None:
    if "inputs_embeds" not in inspect.signature(encoder.backbone.forward).parameters:
        raise UserError(
            f"model.name_or_path: {type(encoder.backbone).__name__} takes no inputs_embeds, which training needs; it "
            "can be searched with, not trained"
        )
    known = retrievers_of(encoder.heads)
    if config.dev_retriever not in ("auto", *known):
        raise UserError(f"train.dev_retriever: {config.dev_retriever}: this model has {', '.join(known)}")
    if config.matryoshka_dims and "dense" not in heads:
        raise UserError("train.matryoshka_dims: the dense head does not train; see train.heads")
    for dim in config.matryoshka_dims:
        if dim >= encoder.width:
            raise UserError(
                f"train.matryoshka_dims: {dim} is not shorter than the dense vector, which has {encoder.width}"
            )


def _attention(config: JobConfig, encoder: Encoder) -> str:
    """sdpa's backward pass on a processor is slow for short texts (docs/log.md); its forward pass is not."""
    if config.train.attention != "auto":
        return config.train.attention
    short = max(config.model.query_max_length, config.model.passage_max_length) <= 256
    return "eager" if short and encoder.device.type == "cpu" else encoder.attention


def _micro_batch_tokens(config: JobConfig, learner: Learner, data: TrainingSet, progress: Progress) -> int:
    wanted = config.train.micro_batch_tokens
    if wanted != "auto":
        return wanted
    if progress.micro_batch_tokens is not None:
        return progress.micro_batch_tokens
    encoder = learner.encoder
    longest = most = 0
    for step in range(_PROBED_STEPS):
        of_step = 0
        batch = batch_at(step, data, config.train)
        for texts, role in ((batch.queries, "query"), (batch.passages, "passage")):
            lengths = [len(ids) for ids in encoder.tokenize(texts, role)[0]]
            longest, of_step = max(longest, *lengths), of_step + sum(lengths)
        most = max(most, of_step)
    encoder.train()
    encoder.use_attention(learner.attention)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))
    # packing decides the dropout masks: a resumed run takes rank 0's figure for all
    return int(from_main(probe_micro_batch_tokens(encoder, learner.heads, learner.precision, longest, most, here)))


def _refuse_overlong(data: TrainingSet, encoder: Encoder, run: Run) -> None:
    for role, texts in (
        ("query", [example.query for example in data.examples]),
        ("passage", [text for example in data.examples for text in (*example.pos, *example.neg)]),
    ):
        _, cut = encoder.tokenize(texts, role)
        if cut:
            limit = f"model.{role}_max_length ({encoder.spec.max_length(role)} tokens)"
            start = texts[cut[0]][:40]
            raise UserError(
                f"{run.examples}: the text {start!r}... is longer than {limit}; raise it, or set model.overlong"
            )


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of giving it back to the system after every step.

    A step on a processor frees and takes some gigabytes, and getting pages anew cost 18 % of its time. Not for steps
    with gradient caching: what they free leaves holes that fit nothing else, up to half as much memory again, for
    little time (docs/log.md).
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)
