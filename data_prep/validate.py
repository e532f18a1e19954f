"""Every bad line of what the stages read: a BEIR folder or one of its files, a training JSONL, documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bgetune.config_data import SourceConfig
from bgetune.data import SPLITS, judgement_lines, judgement_problems, read_retrieval_set, read_texts
from bgetune.errors import UserError
from bgetune.examples import parse_example, read_examples
from bgetune.files import json_object

from .documents.read import files_of, read_file

SHOWN = 20


@dataclass(frozen=True)
class _Kind:
    """One kind of input: what is wrong with it, and what a good one holds."""

    problems: Callable[[Path], Iterator[str]]
    counts: Callable[[Path], str]


def validate(path: Path) -> int:
    """Check a BEIR folder, its corpus.jsonl or queries.jsonl, a training JSONL, or documents; print counts, or what is
    wrong (the first 20, then how many).

    Returns:
        The exit code: 0 when all is good, 2 else.

    Raises:
        UserError: there is no such path, or a file of the folder is missing.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a BEIR folder, a training JSONL or documents")
    kind = _kind_of(path)
    problems = list(kind.problems(path))
    for problem in problems[:SHOWN]:
        print(f"error: {problem}", file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"error: and {len(problems) - SHOWN} more bad lines", file=sys.stderr)
    if problems:
        return 2
    # the readers have the last word: what validate calls good, the stages read
    print(kind.counts(path))
    return 0


def _kind_of(path: Path) -> _Kind:
    if path.is_dir():
        a_set = any((path / name).exists() for name in ("corpus.jsonl", "queries.jsonl", "qrels"))
        return _SET if a_set or not any(path.rglob("*.*")) else _DOCUMENTS
    if path.suffix != ".jsonl":
        return _DOCUMENTS
    if path.name in ("corpus.jsonl", "queries.jsonl"):
        return _TEXTS
    return _EXAMPLES


def _counts_of_set(folder: Path) -> str:
    data = read_retrieval_set(folder)
    lines = [f"{folder}: {len(data.corpus):,} passages, {len(data.queries):,} queries"]
    for split, qrels in data.qrels.items():
        relevant = sum(score > 0 for judged in qrels.values() for score in judged.values())
        lines.append(f"  {split}: {len(qrels):,} queries with {relevant:,} relevant passages")
    lines += [f"  {split}: absent" for split in SPLITS if split not in data.qrels]
    return "\n".join(lines)


def _counts_of_examples(path: Path) -> str:
    examples = read_examples(path)
    pos, neg = sum(len(e.pos) for e in examples), sum(len(e.neg) for e in examples)
    return f"{path}: {len(examples):,} examples with {pos:,} positives and {neg:,} negatives"


def _counts_of_texts(path: Path) -> str:
    return f"{path}: {len(read_texts(path, with_titles=path.name == 'corpus.jsonl')):,} texts"


def _bad_lines_of_texts(path: Path) -> Iterator[str]:
    yield from _bad_rows(path, partial(_check_text, first={}, titled=path.name == "corpus.jsonl"))


def _documents_source(path: Path) -> SourceConfig:
    return SourceConfig(kind="documents", path=str(path))


def _counts_of_documents(path: Path) -> str:
    source = _documents_source(path)
    files = files_of(source, "PATH")
    documents = [document for file in files for document in read_file(file, source, "PATH")]
    sections = sum(len(document.sections) for document in documents)
    return f"{path}: {len(files):,} files with {len(documents):,} documents of {sections:,} sections"


def _bad_files(path: Path) -> Iterator[str]:
    source = _documents_source(path)
    for file in files_of(source, "PATH"):
        try:
            read_file(file, source, "PATH")
        except UserError as error:
            yield str(error)


def _bad_lines_of_examples(path: Path) -> Iterator[str]:
    def check(row: dict[str, Any], where: str) -> None:
        parse_example(row, where)

    yield from _bad_rows(path, check)


def _bad_lines_of_set(folder: Path) -> Iterator[str]:
    for name in ("corpus.jsonl", "queries.jsonl", "qrels"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: missing; BEIR layout is corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv")
    ids: dict[str, set[str]] = {}
    for name, titled in (("corpus.jsonl", True), ("queries.jsonl", False)):
        first: dict[str, str] = {}
        yield from _bad_rows(folder / name, partial(_check_text, first=first, titled=titled))
        ids[name] = set(first)
    for split in SPLITS:
        if (folder / "qrels" / f"{split}.tsv").exists():
            yield from _bad_judgements(folder / "qrels" / f"{split}.tsv", ids["queries.jsonl"], ids["corpus.jsonl"])


def _bad_rows(path: Path, check: Callable[[dict[str, Any], str], None]) -> Iterator[str]:
    """What is wrong with each line of a JSONL file that is wrong."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            if not line.strip():
                continue
            check(json_object(line.decode(), where), where)
        except UnicodeDecodeError as error:
            yield f"{where}: not UTF-8 text ({error.reason}); save the file as UTF-8"
        except UserError as error:
            yield str(error)


def _check_text(row: dict[str, Any], where: str, first: dict[str, str], titled: bool) -> None:
    """One row of corpus.jsonl (titled) or queries.jsonl; `first` collects id -> file:line."""
    for key in ("_id", "text"):
        if not isinstance(row.get(key), str):
            there = ", ".join(sorted(row)) or "no keys"
            raise UserError(f'{where}: "{key}" must be there and be a string; the line has {there}')
    text_id, title = row["_id"], row.get("title") if titled else None
    title = "" if title is None else title
    if text_id in first:
        raise UserError(f'{where}: the id "{text_id}" was used before, at {first[text_id]}; give each text its own')
    first[text_id] = where
    if not text_id or any(c.isspace() for c in text_id):
        raise UserError(f"{where}: the id {text_id!r} is empty or has white space, which TREC run files cannot hold")
    if not isinstance(title, str):
        raise UserError(f'{where}: "title" must be a string, got {json.dumps(title)[:40]}')
    if not (title + row["text"]).strip():
        raise UserError(f'{where}: the text of "{text_id}" is empty; remove the line or give it a text')


def _bad_judgements(path: Path, query_ids: set[str], passage_ids: set[str]) -> Iterator[str]:
    try:
        for where, cells in judgement_lines(path):
            yield from judgement_problems(cells, where, query_ids, passage_ids)
    except UserError as error:
        yield str(error)


_SET = _Kind(_bad_lines_of_set, _counts_of_set)
_TEXTS = _Kind(_bad_lines_of_texts, _counts_of_texts)
_EXAMPLES = _Kind(_bad_lines_of_examples, _counts_of_examples)
_DOCUMENTS = _Kind(_bad_files, _counts_of_documents)
