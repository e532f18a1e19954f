"""Training examples, and which of them make up step n: a function of seed and step alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bgetune.config import TrainConfig
from bgetune.data import json_lines, normalised
from bgetune.errors import UserError
from bgetune.examples import Example, parse_example


@dataclass(frozen=True)
class TrainingSet:
    """Examples, and for each of them every text and id known to answer its query."""

    examples: list[Example]
    known_positives: list[frozenset[str]]


@dataclass(frozen=True)
class Batch:
    """One global batch. Q queries; P passages, each query's positive and then its negatives.

    target[i] is the passage that is query i's positive; owner[j] is the query that brought passage j;
    false_negatives lists the (query, passage) pairs that must not count as negatives; teacher[j] is a teacher's score
    of passage j for the query that brought it.
    """

    queries: list[str]
    passages: list[str]
    target: list[int]
    owner: list[int]
    false_negatives: list[tuple[int, int]]
    teacher: list[float] | None = None


def load_training_set(path: Path, config: TrainConfig, query_instruction: str = "") -> TrainingSet:
    """Read and check the examples.

    Raises:
        UserError: a broken line; fewer examples than a batch; a step in which no negative is possible.
    """
    examples, where_of = [], []
    for where, row in json_lines(path):
        examples.append(parse_example(row, where))
        where_of.append(where)
        if examples[-1].prompt not in (None, "", query_instruction):
            raise UserError(f"{where}: the prompt differs from model.query_instruction; set it there, for all queries")
        if config.teacher != "none":
            _refuse_without_scores(examples[-1], where, config.teacher)
    if len(examples) < config.batch_size:
        raise UserError(f"train.batch_size: {config.batch_size} is more than the {len(examples)} examples of {path}")
    if config.batch_size == 1 or not config.in_batch_negatives:
        for where, example in zip(where_of, examples, strict=True):
            if not example.neg:
                why = "train.batch_size 1 has no in-batch ones; use at least 2"
                if config.batch_size > 1:
                    why = "train.in_batch_negatives is off; give the line a negative, or leave it on"
                raise UserError(f"{where}: no negative, and {why}")
    return TrainingSet(examples, _known_positives(examples))


def _refuse_without_scores(example: Example, where: str, teacher: str) -> None:
    if example.pos_scores is None or (example.neg and example.neg_scores is None):
        raise UserError(f"{where}: no pos_scores and neg_scores, which train.teacher: {teacher} learns from; add them")


def _known_positives(examples: Sequence[Example]) -> list[frozenset[str]]:
    """Keys of each example's positives, joined over all examples with the same query text."""
    by_query: dict[str, set[str]] = {}
    for example in examples:
        keys = by_query.setdefault(normalised(example.query), set())
        keys.update(f"text:{normalised(text)}" for text in example.pos)
        keys.update(f"id:{passage_id}" for passage_id in example.pos_ids or [])
    return [frozenset(by_query[normalised(example.query)]) for example in examples]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Full batches only: a last short batch would have fewer in-batch negatives than the others."""
    return count // batch_size


def batch_at(step: int, data: TrainingSet, config: TrainConfig) -> Batch:
    """The batch of step `step` (from 0). Needs no state, so a resumed run sees what an uninterrupted one sees."""
    per_epoch = steps_per_epoch(len(data.examples), config.batch_size)
    epoch, place = divmod(step, per_epoch)
    order = _order(len(data.examples), config.seed, epoch)
    chosen = order[place * config.batch_size : (place + 1) * config.batch_size]
    return _assemble(
        [data.examples[i] for i in chosen], [data.known_positives[i] for i in chosen], chosen, epoch, config
    )


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order


def _assemble(
    examples: Sequence[Example], known: Sequence[frozenset[str]], rows: Sequence[int], epoch: int, config: TrainConfig
) -> Batch:
    passages: list[str] = []
    keys: list[tuple[str, str]] = []
    target: list[int] = []
    owner: list[int] = []
    teacher: list[float] = []
    for place, (example, row) in enumerate(zip(examples, rows, strict=True)):
        draw = random.Random(f"draw {config.seed} {epoch} {row}")
        positive = draw.randrange(len(example.pos))
        negatives = sorted(draw.sample(range(len(example.neg)), min(config.negatives_per_query, len(example.neg))))
        target.append(len(passages))
        passages.append(example.pos[positive])
        keys.append(_keys(example.pos, example.pos_ids, positive))
        passages += [example.neg[i] for i in negatives]
        keys += [_keys(example.neg, example.neg_ids, i) for i in negatives]
        owner += [place] * (1 + len(negatives))
        if config.teacher != "none":
            assert example.pos_scores is not None
            teacher += [example.pos_scores[positive], *((example.neg_scores or [])[i] for i in negatives)]
    queries = [example.query for example in examples]
    return Batch(queries, passages, target, owner, _false_negatives(keys, known, target), teacher or None)


def _keys(texts: Sequence[str], ids: Sequence[str] | None, i: int) -> tuple[str, str]:
    return f"text:{normalised(texts[i])}", f"id:{ids[i]}" if ids else ""


def _false_negatives(
    keys: Sequence[tuple[str, str]], known: Sequence[frozenset[str]], target: Sequence[int]
) -> list[tuple[int, int]]:
    """Pairs of a query and a passage, not its target, that is one of its known positives by text or by id.

    That covers duplicates in the batch: the same passage drawn for another query, or the same query twice.
    """
    return [
        (query, passage)
        for query, positives in enumerate(known)
        for passage, (text, passage_id) in enumerate(keys)
        if passage != target[query] and (text in positives or passage_id in positives)
    ]
