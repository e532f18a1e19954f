"""Every bad line of what the stages read: sets, texts, training examples, qrels, documents, jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from bgetune.data import SPLITS, judgement_lines, judgement_problems, metadata_at, read_retrieval_set, read_texts
from bgetune.errors import UserError
from bgetune.examples import Example, parse_example, read_examples
from bgetune.files import json_object
from bgetune.progress import progress

from .validate_documents import bad_files, counts_of_documents
from .validate_job import job_problems

SHOWN = 20
_BAR_FROM = 50_000_000
"""Bytes of a file; smaller ones take a second or two."""
_SNIFFED = 1 << 20
"""Characters of a line that are looked at to tell the kind of a file."""


@dataclass(frozen=True)
class _Kind:
    """One kind of input: what is wrong with it, and what a good one holds."""

    problems: Callable[[Path], Iterator[str]]
    counts: Callable[[Path], str]


def validate(path: Path, kind: str | None = None) -> int:
    """Check a file or folder; print counts, or what is wrong (the first 20, then how many).

    Args:
        kind: one of KINDS: set (BEIR folder), texts (corpus.jsonl or queries.jsonl), examples (training JSONL, or a
            folder of them), qrels (a tsv, or a folder of them; only their form, ids need the set), documents, job
            (YAML). None: told by the name and by the first object or line.

    Returns:
        The exit code: 0 when all is good, 2 else.

    Raises:
        UserError: there is no such path or kind, or a file of the folder is missing.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a BEIR folder, a training JSONL, documents or a job")
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind: {kind!r} is none of {', '.join(KINDS)}")
    chosen = KINDS[kind or _kind_of(path)]
    bad = 0
    for bad, problem in enumerate(chosen.problems(path), start=1):
        if bad <= SHOWN:
            print(f"error: {problem}", file=sys.stderr)
    if bad > SHOWN:
        print(f"error: and {bad - SHOWN} more bad lines", file=sys.stderr)
    if bad:
        return 2
    # the readers have the last word: what validate calls good, the stages read
    print(chosen.counts(path))
    return 0


def _kind_of(path: Path) -> str:
    if path.is_dir():
        if any((path / name).exists() for name in ("corpus.jsonl", "queries.jsonl", "qrels")):
            return "set"
        if any(_is_qrels(file) for file in _qrels_files(path)):
            return "qrels"
        rows = _example_files(path)
        if rows and all(_kind_of_rows(file) == "examples" for file in rows):
            return "examples"
        return "documents" if any(path.rglob("*.*")) else "set"
    if path.suffix in (".yaml", ".yml"):
        return "job"
    if path.suffix == ".tsv" and _is_qrels(path):
        return "qrels"
    return _kind_of_rows(path) if path.suffix == ".jsonl" else "documents"


def _kind_of_rows(path: Path) -> str:
    """texts, examples or documents, by the name and the first line that is an object."""
    if path.name in ("corpus.jsonl", "queries.jsonl"):
        return "texts"
    keys: set[str] = set()
    with open(path, encoding="utf-8", errors="replace") as file:
        while line := file.readline(_SNIFFED):
            try:
                keys = set(json_object(line, str(path)))
                break
            except UserError:
                continue
    if "_id" in keys:
        return "texts"
    known = {field.name for field in fields(Example)}
    return "examples" if keys <= known or ("query" in keys and keys & {"pos", "neg"}) else "documents"


def _is_qrels(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline(_SNIFFED).split("\t")[0].strip() == "query-id"


def _qrels_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.tsv")) if path.is_dir() else [path]


def _example_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.jsonl")) if path.is_dir() else [path]


def _counts_of_set(folder: Path) -> str:
    data = read_retrieval_set(folder)
    lines = [f"{folder}: {len(data.corpus):,} passages, {len(data.queries):,} queries"]
    for split, qrels in data.qrels.items():
        relevant = sum(score > 0 for judged in qrels.values() for score in judged.values())
        lines.append(f"  {split}: {len(qrels):,} queries with {relevant:,} relevant passages")
    lines += [f"  {split}: absent" for split in SPLITS if split not in data.qrels]
    return "\n".join(lines)


def _counts_of_examples(path: Path) -> str:
    lines = []
    for file in _example_files(path):
        examples = read_examples(file)
        pos, neg = sum(len(e.pos) for e in examples), sum(len(e.neg) for e in examples)
        lines.append(f"{file}: {len(examples):,} examples with {pos:,} positives and {neg:,} negatives")
    if not lines:
        raise UserError(f"{path}: no *.jsonl file in this folder")
    return "\n".join(lines)


def _bad_lines_of_examples(path: Path) -> Iterator[str]:
    def check(row: dict[str, Any], where: str) -> None:
        parse_example(row, where)

    for file in _example_files(path):
        yield from _bad_rows(file, check)


def _titled(path: Path) -> bool:
    return path.name != "queries.jsonl"


def _counts_of_texts(path: Path) -> str:
    return f"{path}: {len(read_texts(path, with_titles=_titled(path))):,} texts"


def _bad_lines_of_texts(path: Path) -> Iterator[str]:
    yield from _bad_rows(path, partial(_check_text, first={}, titled=_titled(path)))


class _Every:
    """Every id: the ids of a qrels file alone cannot be looked up."""

    def __contains__(self, _: object) -> bool:
        return True


def _bad_lines_of_qrels(path: Path) -> Iterator[str]:
    for file in _qrels_files(path):
        yield from _bad_judgements(file, _Every(), _Every())


def _counts_of_qrels(path: Path) -> str:
    lines = []
    for file in _qrels_files(path):
        rows = [cells for _, cells in judgement_lines(file)]
        lines.append(
            f"{file}: {len(rows):,} judgements of {len({cells[0] for cells in rows}):,} queries; "
            "whether their ids are there shows when the folder above is validated"
        )
    if not lines:
        raise UserError(f"{path}: no *.tsv file in this folder")
    return "\n".join(lines)


def _told_of_job(path: Path) -> str:
    return f"{path}: a good configuration of a job, and the paths that it names are there"


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
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            if line.strip():
                check(json_object(line.decode(), where), where)
        except UnicodeDecodeError as error:
            yield f"{where}: not UTF-8 text ({error.reason}); save the file as UTF-8"
        except UserError as error:
            yield str(error)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, with a bar if it is large."""
    with open(path, "rb") as file:
        if (size := path.stat().st_size) < _BAR_FROM:
            yield from file
            return
        with progress(size, path.name, "B") as bar:
            for line in file:
                yield line
                bar.update(len(line))


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
    metadata_at(row, where)


def _bad_judgements(path: Path, query_ids: Container[str], passage_ids: Container[str]) -> Iterator[str]:
    try:
        for where, cells in judgement_lines(path):
            yield from judgement_problems(cells, where, query_ids, passage_ids)
    except UserError as error:
        yield str(error)


KINDS = {
    "set": _Kind(_bad_lines_of_set, _counts_of_set),
    "texts": _Kind(_bad_lines_of_texts, _counts_of_texts),
    "examples": _Kind(_bad_lines_of_examples, _counts_of_examples),
    "qrels": _Kind(_bad_lines_of_qrels, _counts_of_qrels),
    "documents": _Kind(bad_files, counts_of_documents),
    "job": _Kind(job_problems, _told_of_job),
}
"""By the names that --kind takes."""
