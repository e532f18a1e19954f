"""Teacher scores: what a cross-encoder says of a query and a passage, and which candidates that rules out."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors import SafetensorError

from bgetune.config import ModelConfig
from bgetune.config_data import MineConfig, TeacherConfig
from bgetune.errors import UserError
from bgetune.files import sha256_json
from bgetune.models import model_files_hash, model_folder

from .select import LIMIT, score_limits

if TYPE_CHECKING:
    import torch

Pairs = Sequence[tuple[str, str]]
"""Texts of query and passage."""

_BROKEN_WEIGHTS = (SafetensorError, pickle.UnpicklingError)
# FlagEmbedding gives a query up to three quarters of a pair, and three or four tokens are special.
_SHORTEST_PAIR = 20


class Scorer(Protocol):
    """Raw relevance of pairs: float32 [len(pairs)], higher is more relevant. The same pairs give the same bytes."""

    def __call__(self, pairs: Pairs) -> np.ndarray: ...


@dataclass(frozen=True)
class CrossEncoderScorer:
    """A reranker's logits. The weights are loaded at the first call: scores that are all there need none."""

    folder: Path
    settings: TeacherConfig
    device: torch.device

    @cached_property
    def key(self) -> str:
        """Hash of all that decides a score besides the texts; the filters are no part of it."""
        settings = self.settings
        return sha256_json(
            {
                "files": model_files_hash(self.folder),
                "versions": {name: version(name) for name in (settings.library, "torch", "transformers")},
                "max_length": settings.max_length,
                "batch_size": settings.batch_size,
                "device": self.device.type,
            }
        )

    @cached_property
    def _score(self) -> Callable[[list[tuple[str, str]]], Any]:
        load = _flag_embedding if self.settings.library == "FlagEmbedding" else _sentence_transformers
        try:
            return load(self.folder, self.settings, self.device)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, *_BROKEN_WEIGHTS) as error:
            raise _cannot_be_loaded(self.folder, error) from None

    def __call__(self, pairs: Pairs) -> np.ndarray:
        return np.asarray(self._score(list(pairs)), dtype=np.float32)


def cross_encoder(settings: TeacherConfig) -> CrossEncoderScorer:
    """The reranker that `mine.teacher` names, in float32 on a CPU and in half precision on a GPU.

    Both libraries sort the pairs of a call by length, and give the same logits where a pair fits in `max_length`
    or its query is short. Of a long query, sentence-transformers cuts whichever text is longer, token by token;
    FlagEmbedding first cuts the query to three quarters of the pair, then the passage.

    Raises:
        UserError: the model is not there, is no cross-encoder with one score, needs code of its own, or is shorter
            than `max_length`.
    """
    from bgetune.device import this_device

    folder = model_folder(ModelConfig(name_or_path=settings.name_or_path), "mine.teacher.name_or_path")
    _refuse_what_cannot_score(folder, settings)
    return CrossEncoderScorer(folder, settings, this_device())


def _refuse_what_cannot_score(folder: Path, settings: TeacherConfig) -> None:
    """From the configuration alone: both libraries would give an encoder a head of random numbers, without a word."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kinds = list(config.architectures or ["nothing"])
        if not kinds[0].endswith("ForSequenceClassification") or config.num_labels != 1:
            raise UserError(
                f"mine.teacher.name_or_path: {folder} is {kinds[0]} with {config.num_labels} labels, and a teacher "
                "must be a cross-encoder (...ForSequenceClassification) with one; choose a reranker such as "
                "BAAI/bge-reranker-v2-m3"
            )
        with torch.device("meta"):  # its shape without its weights
            empty = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise _cannot_be_loaded(folder, error) from None
    limit = getattr(config, "max_position_embeddings", None)
    padding = getattr(getattr(empty.base_model, "embeddings", None), "padding_idx", None)
    if limit is not None and padding is not None:
        limit -= padding + 1  # RoBERTa's and XLM-R's positions start behind the padding id
    if settings.max_length < _SHORTEST_PAIR or (limit is not None and settings.max_length > limit):
        raise UserError(
            f"mine.teacher.max_length: {settings.max_length} will not do; "
            f"{folder} takes pairs of {_SHORTEST_PAIR} to {limit or 'any number of'} tokens"
        )


def _cannot_be_loaded(folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        reason = "it brings Python code of its own, which is not run; choose a model that transformers knows"
    elif isinstance(error, pickle.UnpicklingError):
        reason = "its pickled weights hold more than tensors, which could run any code; convert to safetensors"
    return UserError(f"mine.teacher.name_or_path: {folder} cannot be loaded: {reason[:300]}")


def _sentence_transformers(folder: Path, settings: TeacherConfig, device: torch.device) -> Callable:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        str(folder),
        device=str(device),
        max_length=settings.max_length,
        activation_fn=torch.nn.Identity(),  # a sigmoid would flatten what a student is to learn
        local_files_only=True,
        # named, for transformers 5 would take the type of the file
        model_kwargs={"dtype": torch.float16 if device.type == "cuda" else torch.float32},
    )
    return lambda pairs: model.predict(
        pairs, batch_size=settings.batch_size, show_progress_bar=False, device=str(device)
    )


def _flag_embedding(folder: Path, settings: TeacherConfig, device: torch.device) -> Callable:
    from FlagEmbedding import FlagReranker  # takes ten seconds

    on_gpu = device.type == "cuda"
    reranker = FlagReranker(
        str(folder),
        use_fp16=on_gpu,
        devices=str(device),
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        normalize=False,
    )
    if not on_gpu:
        reranker.model.float()

    def score(pairs: list[tuple[str, str]]) -> list[float]:
        with contextlib.redirect_stderr(io.StringIO()):  # two bars a call, which no option turns off
            return reranker.compute_score(pairs)

    return score


def filters(settings: TeacherConfig) -> bool:
    """Whether the teacher takes part in the choice, and not only scores what was chosen."""
    return settings.max_share_of_positive is not None or settings.margin is not None


def teacher_limits(positive_scores: Sequence[float], settings: TeacherConfig) -> dict[str, float]:
    """The teacher's scores above which a candidate is taken for an unlabelled positive; the best positive sets them.

    Args:
        positive_scores: the teacher's, of the query's positives; at least one.

    >>> teacher_limits([4.0, 10.0], TeacherConfig(max_share_of_positive=0.95))
    {'teacher score above the limit of mine.teacher.max_share_of_positive (0.95)': 9.5}
    >>> list(teacher_limits([4.0, 10.0], TeacherConfig(max_share_of_positive=0.95, margin=1.0)).values())
    [9.5, 9.0]
    >>> list(teacher_limits([-2.0], TeacherConfig(max_share_of_positive=0.5)).values())
    [-3.0]
    >>> teacher_limits([4.0, 10.0], TeacherConfig())
    {}
    """
    rule = MineConfig(max_share_of_positive=settings.max_share_of_positive, margin=settings.margin, max_score=None)
    return score_limits(max(positive_scores), rule, f"teacher {LIMIT}teacher.")
