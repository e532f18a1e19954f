"""The first file format: a retrieval set in BEIR layout. See examples.py for the second.

Every reader checks what it reads and names the file and line of the first mistake.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bgetune.config_data import SourceConfig
from bgetune.errors import UserError
from bgetune.files import atomic_file, json_object, write_jsonl

SPLITS = ("train", "dev", "test")
Qrels = dict[str, dict[str, int]]
"""query id -> passage id -> relevance (above 0: relevant)."""


@dataclass(frozen=True)
class Texts:
    """Ids and texts, aligned; `source` names the file for messages, `lines` the line of each in it."""

    ids: list[str]
    texts: list[str]
    titles: list[str] = field(default_factory=list)
    source: Path = Path()
    lines: list[int] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    """Where each text came from, such as document, section, start; empty where nothing is known of any."""

    def __len__(self) -> int:
        return len(self.ids)

    def full_texts(self) -> list[str]:
        """Title and text joined by a space, as BEIR's own scripts do."""
        if not self.titles:
            return self.texts
        return [f"{title} {text}".strip() for title, text in zip(self.titles, self.texts, strict=True)]

    def where(self, i: int) -> str:
        """The file and line of text i, or its id where it came from no file."""
        return f"{self.source}:{self.lines[i]}" if self.lines else f'the text "{self.ids[i]}"'

    def take(self, rows: Sequence[int]) -> Texts:
        """The texts at `rows`, in that order."""
        ids, texts = [self.ids[i] for i in rows], [self.texts[i] for i in rows]
        titles = [self.titles[i] for i in rows] if self.titles else []
        lines = [self.lines[i] for i in rows] if self.lines else []
        metadata = [self.metadata[i] for i in rows] if self.metadata else []
        return Texts(ids, texts, titles, self.source, lines, metadata)


@dataclass(frozen=True)
class RetrievalSet:
    """A corpus, queries, and which passage answers which query, by split."""

    corpus: Texts
    queries: Texts
    qrels: dict[str, Qrels]

    def queries_of(self, split: str) -> Texts:
        """The queries that have judgements in a split, in the order of queries.jsonl."""
        judged = self.qrels[split]
        return self.queries.take([i for i, query_id in enumerate(self.queries.ids) if query_id in judged])


def source_path(source: SourceConfig) -> Path:
    """Where a source is on this machine; a leading `~` is the home folder."""
    return Path(source.path).expanduser()


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file:line, object) for each line that is not blank. Raises UserError on anything but objects."""
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115 - closed by the block below
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder where a JSONL file is needed") from None
    with file:
        line = 0
        try:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    where = f"{path}:{line}"
                    yield where, json_object(text, where)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{line + 1}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None


def string_at(row: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if value is None and default is None:
        raise UserError(f'{where}: the key "{key}" is missing; the line has {", ".join(sorted(row)) or "no keys"}')
    if not isinstance(value, str):
        raise UserError(f'{where}: "{key}" must be a string, got {json.dumps(value)[:40]}')
    return value


def read_texts(path: Path, with_titles: bool) -> Texts:
    """Read corpus.jsonl (`_id`, `title`, `text`) or queries.jsonl (`_id`, `text`)."""
    ids: list[str] = []
    texts: list[str] = []
    titles: list[str] = []
    lines: list[int] = []
    metadata: list[dict[str, Any]] = []
    first_line: dict[str, str] = {}
    for where, row in json_lines(path):
        text_id = string_at(row, "_id", where)
        title = (
            (string_at(row, "title", where, default="") if row.get("title") is not None else "") if with_titles else ""
        )
        text = string_at(row, "text", where)
        if not (title + text).strip():
            raise UserError(f'{where}: the text of "{text_id}" is empty; remove the line or give it a text')
        if not text_id or any(c.isspace() for c in text_id):
            raise UserError(
                f"{where}: the id {text_id!r} is empty or has white space, which TREC run files cannot hold"
            )
        if text_id in first_line:
            raise UserError(f'{where}: the id "{text_id}" was used before, at {first_line[text_id]}')
        first_line[text_id] = where
        ids.append(text_id)
        texts.append(text)
        titles.append(title)
        lines.append(int(where.rpartition(":")[2]))
        metadata.append(metadata_at(row, where))
    if not ids:
        raise UserError(f"{path}: no line in it")
    return Texts(ids, texts, titles if with_titles else [], path, lines, metadata if any(metadata) else [])


def metadata_at(row: dict[str, Any], where: str) -> dict[str, Any]:
    """BEIR's `metadata` of a text: an object, empty where it is absent."""
    value = row.get("metadata")
    if value is not None and not isinstance(value, dict):
        raise UserError(f'{where}: "metadata" must be an object, got {json.dumps(value)[:40]}')
    return value or {}


def judgement_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (file:line, cells) for each line of a qrels file but blank ones and the header."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if line.strip() and not (number == 1 and cells[0] == "query-id"):
            yield f"{path}:{number}", cells


def judgement_problems(
    cells: list[str], where: str, query_ids: Container[str], passage_ids: Container[str]
) -> Iterator[str]:
    """Everything that is wrong with one line of a qrels file; nothing when it is good."""
    if len(cells) != 3:
        line = "\t".join(cells)
        yield f"{where}: expected query-id, corpus-id and score with tabs between, got {line[:60]!r}"
        return
    query_id, passage_id, score = cells
    if query_id not in query_ids:
        yield f'{where}: the query "{query_id}" is not in queries.jsonl; add it or remove the line'
    if passage_id not in passage_ids:
        yield f'{where}: the passage "{passage_id}" is not in corpus.jsonl; add it or remove the line'
    try:
        whole = int(float(score)) == float(score)
    except (ValueError, OverflowError):  # OverflowError: inf
        yield f"{where}: the score {score!r} is not a number; use 0, 1, 2, ..."
        return
    if not whole:
        yield f"{where}: the score {score} is not whole; trec_eval's grades are 0, 1, 2, ..."


def read_qrels(path: Path, query_ids: Container[str], passage_ids: Container[str]) -> Qrels:
    """Read a tab-separated file of query-id, corpus-id, score with a header line."""
    qrels: Qrels = {}
    for where, cells in judgement_lines(path):
        for problem in judgement_problems(cells, where, query_ids, passage_ids):
            raise UserError(problem)
        query_id, passage_id, score = cells
        qrels.setdefault(query_id, {})[passage_id] = int(float(score))
    without = [query_id for query_id, judged in qrels.items() if max(judged.values()) <= 0]
    for query_id in without:
        del qrels[query_id]
    if not qrels:
        raise UserError(f"{path}: no relevant passage for any query in it")
    return qrels


def read_retrieval_set(folder: Path) -> RetrievalSet:
    """Read a folder in BEIR layout; splits without a qrels file are absent from `qrels`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a retrieval set is a folder in BEIR layout")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: missing; BEIR layout is corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv")
    corpus = read_texts(folder / "corpus.jsonl", with_titles=True)
    queries = read_texts(folder / "queries.jsonl", with_titles=False)
    query_ids, passage_ids = set(queries.ids), set(corpus.ids)
    files = {split: folder / "qrels" / f"{split}.tsv" for split in SPLITS}
    qrels = {split: read_qrels(path, query_ids, passage_ids) for split, path in files.items() if path.exists()}
    if not qrels:
        raise UserError(f"{folder / 'qrels'}: none of train.tsv, dev.tsv, test.tsv is there")
    return RetrievalSet(corpus, queries, qrels)


def _metadata_rows(texts: Texts) -> Iterator[dict[str, Any]]:
    yield from ({"metadata": known} if known else {} for known in texts.metadata or [{}] * len(texts))


def write_retrieval_set(folder: Path, data: RetrievalSet) -> None:
    """Write a folder in BEIR layout; rows keep their order, qrels follow the order of the queries."""
    corpus, queries = data.corpus, data.queries
    titles = corpus.titles or [""] * len(corpus)
    passages = zip(corpus.ids, titles, corpus.texts, _metadata_rows(corpus), strict=True)
    write_jsonl(
        folder / "corpus.jsonl",
        ({"_id": i, "title": title, "text": text, **known} for i, title, text, known in passages),
    )
    pairs = zip(queries.ids, queries.texts, _metadata_rows(queries), strict=True)
    write_jsonl(folder / "queries.jsonl", ({"_id": i, "text": text, **known} for i, text, known in pairs))
    for split, qrels in data.qrels.items():
        with atomic_file(folder / "qrels" / f"{split}.tsv") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id in queries.ids:
                for passage_id, score in qrels.get(query_id, {}).items():
                    file.write(f"{query_id}\t{passage_id}\t{score}\n")


def normalised(text: str) -> str:
    """Case and white space folded: two texts with the same result are the same text.

    >>> normalised(" A  b\\n")
    'a b'
    """
    return " ".join(text.lower().split())
