"""Tables to documents, a row each: csv, tsv, jsonl, parquet; the columns by their configured or their usual names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Number
from pathlib import Path
from typing import Any

from bgetune.config_data import Builder
from bgetune.errors import UserError, did_you_mean

from .parts import Document, Part, Section, sections_of
from .table_rows import Refuse, Row, rows_of, stop, survey
from .text import text_lines

OURS = ("query", "positive", "negative", "title", "id", "text", "group")
_PAIRS: tuple[tuple[Builder, str, str], ...] = (
    ("question_answer", "query", "positive"),
    ("question_answer", "query", "pos"),
    ("question_answer", "query", "answer"),
    ("question_answer", "query", "passage"),
    ("question_answer", "question", "answer"),
    ("question_answer", "question", "response"),
    ("paraphrase", "text", "paraphrase"),
    ("paraphrase", "sentence1", "sentence2"),
    ("paraphrase", "sentence_1", "sentence_2"),
    ("paraphrase", "anchor", "positive"),
)
_ROWS_AT_ONCE = 2000
_TEXTS = ("text", "body", "content", "passage")


@dataclass(frozen=True)
class _Layout:
    """Which column is what; `builders`: what may use the pairs of query and positive."""

    columns: Mapping[str, str]
    builders: tuple[Builder, ...] = ()


def read_table(
    path: Path, name: str, columns: Mapping[str, str], option: str, faq: bool, refuse: Refuse = stop
) -> Iterator[Part]:
    """The rows of a table, a document each, some rows at once; without a row, one part without documents.

    With query and positive (a text or a list of texts) the positives are the passages, with a text column the texts.
    Negatives become passages without a query. Numbers are texts too, as they are in csv.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file.
        name: what the documents call it.
        columns: our name -> the table's; one that this table lacks is passed over where a usual name takes its place.
        option: the option that gave `columns`, for messages.
        faq: questions inside the texts stand apart, see `sections_of`.
        refuse: is told of each row that is broken or without a passage, with the file and line.

    Raises:
        UserError: a broken file, no column that tells what it holds; what `refuse` raises.
    """
    total, there = survey(path)
    layout = _layout(there, columns, path, option) if total else _Layout({})
    rows = rows_of(path, refuse)
    for done in range(0, total, _ROWS_AT_ONCE):
        some = islice(rows, _ROWS_AT_ONCE)
        documents = tuple(_of_rows(some, layout, path, name, faq, refuse))
        yield Part(documents, min(done + _ROWS_AT_ONCE, total) / total, tuple(there))
    for _ in rows:  # those behind the last good one are told of
        pass
    if not total:
        yield Part((), columns=tuple(there))


def _of_rows(
    rows: Iterable[Row], layout: _Layout, path: Path, name: str, faq: bool, refuse: Refuse
) -> Iterator[Document]:
    for number, row in rows:
        try:
            documents = list(_documents(row, layout, f"{path}:{number}", faq))
        except UserError as error:
            refuse(error)
            continue
        for document in documents:
            if document.sections:  # else a question without an answer
                text = "\n".join(block.text for section in document.sections for block in section.blocks)
                key = "\0".join((document.title, document.passage_id, document.group, text))
                same = hashlib.blake2b(key.encode(), digest_size=16).digest()
                yield replace(document, file=name, name=f"{name}:{number}", same=same)


def check_columns(columns: Mapping[str, str], option: str) -> None:
    """Raises UserError for a name that is none of ours, or half a pair."""
    for name in sorted(set(columns) - set(OURS)):
        hint = did_you_mean(name, OURS) or f"; use {', '.join(OURS)}"
        raise UserError(f"{option}: {name!r} is none of our names{hint}")
    if ("query" in columns) != ("positive" in columns):
        there, lacking = ("query", "positive") if "query" in columns else ("positive", "query")
        raise UserError(f"{option}: {there} is named and {lacking} is not; a pair needs both")


def _layout(there: list[str], columns: Mapping[str, str], path: Path, option: str) -> _Layout:
    own = {ours: column for ours, column in columns.items() if column in there}
    if not {"query", "positive"} <= set(own):  # half a pair is none
        own = {ours: column for ours, column in own.items() if ours not in ("query", "positive")}
    by_name = {name.strip().lower(): name for name in reversed(there)}
    usual: dict[str, str] = {ours: by_name[ours] for ours in ("title", "group", "negative") if ours in by_name}
    if "query" in own:
        return _Layout({**usual, **own}, ("question_answer", "paraphrase"))
    if "text" in own:
        return _Layout({**usual, **own})
    for builder, query, positive in _PAIRS:
        if query in by_name and positive in by_name:
            pair = {"query": by_name[query], "positive": by_name[positive]}
            return _Layout({**usual, **own, **pair}, (builder,))
    for text in _TEXTS:
        if text in by_name:
            return _Layout({**usual, **own, "text": by_name[text]})
    for column in columns.values():
        if column not in there:
            raise UserError(f"{option}: {path} has no column {column!r}{_nearest(column, there)}")
    raise UserError(
        f"{path}: none of its columns ({', '.join(there)}) has a name that tells what it holds; name them in {option}, "
        f"such as {{text: {there[0] if there else 'COLUMN'}}} or {{query: ..., positive: ...}}"
    )


def check_all_used(columns: Mapping[str, str], there: Sequence[str], path: Path, option: str) -> None:
    """Raises UserError for a configured column that is not among those of any table: `there`."""
    for column in columns.values():
        if column not in there:
            raise UserError(f"{option}: no table of {path} has a column {column!r}{_nearest(column, there)}")


def _nearest(column: str, there: Sequence[str]) -> str:
    return did_you_mean(column, there) or (f"; there are {', '.join(there)}" if there else "")


def _documents(row: dict[str, Any], layout: _Layout, where: str, faq: bool) -> Iterator[Document]:
    columns, number = layout.columns, int(where.rpartition(":")[2])

    def texts(ours: str, needed: bool = False) -> list[str]:
        value = row.get(columns[ours]) if ours in columns else None
        missing = value is None or value != value  # a missing number is NaN
        given = value if isinstance(value, list) else [] if missing else [value]
        for text in given:
            if isinstance(text, bool) or not isinstance(text, (str, Number)):
                raise UserError(f'{where}: "{columns[ours]}" must be a text or a number, got {str(text)[:40]!r}')
        kept = [str(text) for text in given if str(text).strip()]
        if needed and not kept:
            raise UserError(f'{where}: "{columns[ours]}" is missing or empty; remove the row or give it a text')
        return kept

    def one(ours: str) -> str:
        return " ".join("\n".join(texts(ours)[:1]).split())

    def document(text: str, asked: tuple[tuple[Builder, str], ...], passage_id: str) -> Document:
        lines = text_lines(text, number, every=0)
        sections = [Section((), s.blocks, asked or s.asked) for s in sections_of((), lines, faq and not asked)]
        return Document("", "", one("title"), tuple(sections), passage_id, one("group"))

    if "positive" not in columns:
        yield document("\n\n".join(texts("text", needed=True)), (), _id_of(texts("id"), where))
        return
    asked = tuple((b, " ".join(query.split())) for query in texts("query") for b in layout.builders)
    positives = texts("positive", needed=True)
    given = _id_of(texts("id"), where)
    for i, text in enumerate(positives):
        yield document(text, asked, f"{given}.{i + 1}" if given and len(positives) > 1 else given)
    for text in texts("negative"):
        yield document(text, (), "")


def _id_of(values: list[str], where: str) -> str:
    """The id that a row gives; empty where it gives none. Raises UserError on white space."""
    given = values[0] if values else ""
    if any(c.isspace() for c in given):
        raise UserError(f"{where}: the id {given!r} has white space, which TREC run files cannot hold")
    return given
