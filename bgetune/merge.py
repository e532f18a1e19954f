"""The stage: between base and tuned weights, the mix that is best on dev and loses little on the guards.

Weights between a model and what was fine-tuned from it keep most of what either can do (WiSE-FT, arXiv 2109.01903;
for embedding models LM-Cocktail, arXiv 2311.13534); several tuned models are averaged first (model soups, 2203.05482).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bgetune.config import JobConfig
from bgetune.config_io import flatten, to_dict
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.files import atomic_folder, read_json, sha256_json, write_json
from bgetune.merge_choice import (
    ChoosingSet,
    Point,
    as_merging,
    choose,
    choosing_sets,
    more_tuned_folders,
    print_merging,
    shares_to_try,
)
from bgetune.metrics import DECIDING, means, per_query
from bgetune.progress import progress
from bgetune.run import Run
from bgetune.search import deciding_retriever, search
from bgetune.stages import ENCODING, SEARCH

log = logging.getLogger("bgetune")

State = Mapping[str, Tensor]
"""Weights by name: the backbone's, and those of the heads (`sparse_linear.weight` and so on)."""

_BLOCK = 1 << 22
"""Numbers that are summed in float64 at once: an embedding table in it would be as large as a model."""


def merge(config: JobConfig, run: Run) -> None:
    """Measure every share; write `checkpoints/merged`, a model folder with `merge.json`, and print the curve.

    Raises:
        UserError: there is nothing to merge, the models are not of one shape, or a set has too few queries.
    """
    if not config.merge.shares:
        raise UserError("merge.shares: [] names nothing to try; give shares such as [0.25, 0.5, 0.75]")
    folders = [run.best, *more_tuned_folders(config, run)]
    sets, shares = choosing_sets(config, run), shares_to_try(config.merge.shares)
    encoder = Encoder.load(config.model, heads_from=run.base_heads)
    base, base_weights = _state_of(encoder), encoder.weights_hash()
    tuned, tuned_weights = _mean_of(folders, encoder, config)
    scores = _Scores(config, run, sets, deciding_retriever(run, encoder.heads))
    with progress(len(shares), "merge", "share") as bar:
        # the ends' vectors serve the evaluation too
        points = [scores.of(encoder, 0.0, run.vectors)]
        bar.update(1)
        del encoder  # before the next is loaded
        encoder = Encoder.load_folder(run.best, config.model)
        for share in shares[1:]:
            _fill(_parameters(encoder), (base, tuned), (1 - share, share))
            is_best = share == 1 and not config.merge.models
            points.append(scores.of(encoder, share, run.best_vectors if is_best else None))
            bar.update(1)
    merging = as_merging(points, config.merge.max_guard_loss)
    chosen = choose(points, config.merge.max_guard_loss)
    _fill(_parameters(encoder), (base, tuned), (1 - chosen.share, chosen.share))
    told = {
        "merging": merging,
        "retriever": scores.retriever,
        "weights": encoder.weights_hash(),
        "made_from": {"base": base_weights, "tuned": tuned_weights[0], "models": tuned_weights[1:]},
        "spent": {test.name: test.split for test in sets[1:]},
    }
    with atomic_folder(run.merged) as folder:
        encoder.save(folder)
        write_json(folder / "merge.json", told)
    print_merging(merging)
    _say(chosen, merging, run)


def _say(chosen: Point, merging: Mapping[str, Any], run: Run) -> None:
    if chosen.share:
        log.info("merge: share %g of the tuned weights, dev nDCG@10 %.4f: %s", chosen.share, chosen.dev, run.merged)
        return
    others = [point for point in merging["points"] if point["within"] and point["share"]]
    why = (
        "that keeps the guards is better on dev" if others else f"keeps every guard within {merging['allowed_loss']:g}"
    )
    log.warning("merge: no share of the tuned weights %s; the base itself is chosen", why)


# -- weights


def interpolate(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum of several models' weights, in float64, as the dtype of the first.

    A model whose weight is 1 comes out bit for bit. Integers must be the same everywhere.

    Args:
        weights: one for each of `states`; their sum is 1.

    Raises:
        UserError: a weight is not there in each, or not of the same shape.

    >>> ends = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 4.0])}
    >>> interpolate(ends, (0.75, 0.25))["w"].tolist()
    [1.0, 2.5]
    """
    for number, other in enumerate(states[1:], start=2):
        refuse_other_shape(states[0], other, f"model {number}")
    return dict(_interpolated(states, weights))


def refuse_other_shape(first: State, other: State, where: str) -> None:
    """Raises UserError with the first weight by name that only one model has, or that is of two shapes."""
    advice = "merge models that were tuned from the same base, with the same heads"
    for name in sorted({*first, *other}):
        if name not in first or name not in other:
            lacks = "has" if name in other else "lacks"
            which = "which the base lacks" if name in other else "which the base has"
            raise UserError(f"merge.models: {where} {lacks} {name}, {which}; {advice}")
        ours, theirs = first[name], other[name]
        if ours.shape != theirs.shape:
            shapes = f"the shape {list(theirs.shape)}, in the base it is {list(ours.shape)}"
            raise UserError(f"merge.models: {name} of {where} has {shapes}; {advice}")
        if not ours.is_floating_point() and not torch.equal(ours.cpu(), theirs.cpu()):
            raise UserError(f"merge.models: {name} of {where} holds integers that are not the base's; {advice}")


def _interpolated(states: Sequence[State], weights: Sequence[float]) -> Iterator[tuple[str, Tensor]]:
    """Weight by weight, so that a whole model more need not be in memory."""
    assert len(states) == len(weights)
    assert abs(sum(weights) - 1) < 1e-9, weights
    # 0 times infinity is no number, and adding 0 turns -0 into 0
    parts = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight]
    for name, first in states[0].items():
        if len(parts) == 1 or not first.is_floating_point():
            yield name, parts[0][0][name].clone()
        else:
            yield name, _weighted_sum([(state[name], weight) for state, weight in parts])


def _weighted_sum(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = torch.empty_like(parts[0][0], memory_format=torch.contiguous_format)
    flat = total.view(-1)
    tensors = [(tensor.reshape(-1), weight) for tensor, weight in parts]
    for at in range(0, len(flat), _BLOCK):
        flat[at : at + _BLOCK] = sum(tensor[at : at + _BLOCK].double() * weight for tensor, weight in tensors)
    return total


def _parameters(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's own tensors, where they are."""
    return {**encoder.backbone.state_dict(), **encoder.layers.state_dict()}


def _state_of(encoder: Encoder) -> dict[str, Tensor]:
    """Its weights on the CPU; not copied where it is there itself."""
    return {name: tensor.detach().cpu() for name, tensor in _parameters(encoder).items()}


def _fill(target: dict[str, Tensor], states: Sequence[State], weights: Sequence[float]) -> None:
    with torch.no_grad():
        for name, tensor in _interpolated(states, weights):
            target[name].copy_(tensor)


def _mean_of(folders: Sequence[Path], base: Encoder, config: JobConfig) -> tuple[dict[str, Tensor], list[str]]:
    """The mean of the tuned models' weights, and each one's hash; two of them are in memory at a time."""
    mean, first_hash = _tuned_state(folders[0], base, config)
    hashes = [first_hash]
    for folder in folders[1:]:
        state, its_hash = _tuned_state(folder, base, config)
        hashes.append(its_hash)
        count = len(hashes)
        _fill(mean, (mean, state), ((count - 1) / count, 1 / count))
        del state  # before the next is loaded
    return mean, hashes


def _tuned_state(folder: Path, base: Encoder, config: JobConfig) -> tuple[dict[str, Tensor], str]:
    """The weights of a tuned model that fits the base, and their hash."""
    try:
        tuned = Encoder.load_folder(folder, config.model)
    except UserError as error:
        raise UserError(str(error).replace("model.name_or_path", "merge.models", 1)) from None
    _refuse_other_reading(base, tuned, folder)
    state = _state_of(tuned)
    refuse_other_shape(_parameters(base), state, str(folder))
    return state, tuned.weights_hash()


def _refuse_other_reading(base: Encoder, tuned: Encoder, folder: Path) -> None:
    """The mean of two models means nothing where a token id is another word in each."""
    if base.tokenizer.get_vocab() != tuned.tokenizer.get_vocab():
        raise UserError(f"merge.models: {folder} has another vocabulary than the base; merge models of the same base")
    ours, theirs = asdict(base.spec), asdict(tuned.spec)
    for name in ours:
        if ours[name] != theirs[name]:
            raise UserError(
                f"merge.models: {folder} was made with {name} {theirs[name]!r}, the base with {ours[name]!r}; "
                f"set model.{name}, which is then taken for both, or leave it out"
            )


# -- scores


class _Scores:
    """nDCG@10 of a model on every set; kept by the hash of its weights, so that a killed merge goes on."""

    def __init__(self, config: JobConfig, run: Run, sets: Sequence[ChoosingSet], retriever: str) -> None:
        self._config, self._sets, self.retriever = config, sets, retriever
        self._file, self._scratch = run.checkpoints / "merge_scores.json", run.vectors / "merge"
        self._kept: dict[str, dict[str, float]] = read_json(self._file) if self._file.is_file() else {}
        shutil.rmtree(self._scratch, ignore_errors=True)  # of a merge that was killed

    def of(self, encoder: Encoder, share: float, cache: Path | None = None) -> Point:
        """`cache`: where what is encoded may stay; None: it is removed, for it would pile up share by share."""
        weights = encoder.weights_hash()
        kept = self._kept.setdefault(weights, {})
        dev, *guards = (self._score(encoder, test, share, cache, kept) for test in self._sets)
        return Point(share, dev, {test.name: found for test, found in zip(self._sets[1:], guards, strict=True)})

    def _score(
        self, encoder: Encoder, test: ChoosingSet, share: float, cache: Path | None, kept: dict[str, float]
    ) -> float:
        key = self._key(encoder, test)
        if key not in kept:
            label = f"share {share:g}, {test.name}"
            folder = self._scratch if cache is None else cache
            try:
                found = search(
                    encoder, test.queries, test.corpus, self._config, [self.retriever], folder, label, index="Flat"
                )
            finally:
                shutil.rmtree(self._scratch, ignore_errors=True)
            kept[key] = means(per_query(test.qrels, found[self.retriever], [DECIDING]))[DECIDING]
            write_json(self._file, self._kept)
        return kept[key]

    def _key(self, encoder: Encoder, test: ChoosingSet) -> str:
        """Hash of all that decides a score besides the weights."""
        flat = flatten(to_dict(self._config))
        settings = {k: v for k, v in flat.items() if any(k == o or k.startswith(f"{o}.") for o in (*ENCODING, *SEARCH))}
        return sha256_json([test.data_hash, test.split, self.retriever, encoder.device.type, settings])
