"""The second file format: training examples, a superset of FlagEmbedding's JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgetune.data import json_lines, string_at
from bgetune.errors import UserError
from bgetune.files import write_jsonl

_ALIGNED: dict[str, tuple[type, ...]] = {
    "ids": (str,),
    "scores": (int, float),
    "ranks": (int,),
    "sources": (str,),
    "found_scores": (int, float),
}
"""Keys after `pos_` or `neg_` that hold one entry a text."""


@dataclass(frozen=True)
class Example:
    """One training example: a query, its positives, its hard negatives, with ids and scores where known."""

    query: str
    pos: list[str]
    neg: list[str]
    query_id: str | None = None
    pos_ids: list[str] | None = None
    neg_ids: list[str] | None = None
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None
    neg_ranks: list[int] | None = None
    neg_sources: list[str] | None = None
    """The signal that found each negative."""
    neg_found_scores: list[float] | None = None
    """Under that signal, where `neg_scores` are a teacher's."""
    prompt: str | None = None
    source: str | None = None

    def to_row(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if value is not None}


def _list_of(row: dict[str, Any], key: str, kinds: tuple[type, ...], where: str) -> list[Any] | None:
    value = row.get(key)
    if value is None:
        return None
    good = isinstance(value, list) and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
    if not good:
        kind = "strings" if kinds == (str,) else "numbers"
        raise UserError(f'{where}: "{key}" must be a list of {kind}, got {json.dumps(value)[:40]}')
    return value


def parse_example(row: dict[str, Any], where: str) -> Example:
    """Check one line of a training file. Raises UserError with its file:line."""
    query = string_at(row, "query", where)
    if not query.strip():
        raise UserError(f'{where}: "query" is empty; remove the line or give it a text')
    fields: dict[str, Any] = {}
    for side in ("pos", "neg"):
        texts = _list_of(row, side, (str,), where) or []
        if any(not text.strip() for text in texts):
            raise UserError(f'{where}: "{side}" holds an empty text; remove it')
        fields[side] = texts
        for suffix, kinds in _ALIGNED.items():
            if side == "pos" and suffix not in ("ids", "scores"):
                continue
            values = _list_of(row, f"{side}_{suffix}", kinds, where)
            if values is not None and len(values) != len(texts):
                count = f"{len(values)} for {len(texts)} texts"
                raise UserError(f'{where}: "{side}_{suffix}" must have one entry a text of "{side}", got {count}')
            fields[f"{side}_{suffix}"] = values
    if not fields["pos"]:
        raise UserError(f'{where}: "pos" is missing or empty; every example needs a positive')
    for key in ("query_id", "prompt", "source"):
        fields[key] = string_at(row, key, where) if row.get(key) is not None else None
    return Example(query=query, **fields)


def read_examples(path: Path) -> list[Example]:
    """Read training examples: ours, or FlagEmbedding's JSONL as it is. Keys of other tools are passed over."""
    examples = [parse_example(row, where) for where, row in json_lines(path)]
    if not examples:
        raise UserError(f"{path}: no line in it")
    return examples


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    return write_jsonl(path, (example.to_row() for example in examples))
