"""A retrieval set out of documents: passages with where they came from, and the queries that they give themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bgetune.config_data import SourceConfig
from bgetune.data import Qrels, RetrievalSet, Texts, normalised, source_path
from bgetune.errors import UserError
from bgetune.progress import progress

from ..rows import text_id
from .chunk import Chunk, CountTokens, chunk
from .parts import Document, Part
from .passages import Passages, passages_of
from .queries import Finder, Found
from .read import File, files_of, raise_problems, read_parts
from .repeats import contexts
from .tables import check_all_used

log = logging.getLogger(__name__)
_NAMED = 10


def documents_set(source: SourceConfig, tokenizer: CountTokens, option: str) -> RetrievalSet:
    """Read files, cut them into passages, and pair passages with the queries that builders find.

    Passages are in reading order: files sorted by name, their text from top to bottom. Ids read `guide.md#0003`, or
    are those of a table's id column. Metadata of a passage: document, section (`A > B`), start (line, page of a PDF, or
    row of parquet), group; of a query: builder, document, group. Equal queries are one, with all their passages.

    Args:
        source: `path`, `columns`, `documents` and `seed` count here.
        tokenizer: texts -> the number of tokens of each, not cut off at any length.
        option: the source's option, e.g. `data.domain`, for messages.

    Returns:
        Corpus, queries and the split train, which is empty where no builder finds a query.

    Raises:
        UserError: a path, file, column or id that will not do; no text, or no passage of `min_tokens`, in all files.
    """
    gathered = _Gathered(source, tokenizer)
    problems: list[tuple[File, UserError]] = []
    columns: dict[str, None] = {}
    files = files_of(source, option)
    sizes = [file.path.stat().st_size for file in files]
    with progress(sum(sizes), "reading documents", "B") as bar:
        for file, size in zip(files, sizes, strict=True):
            gathered.begin(file)
            shown = 0
            try:
                for part in read_parts(file, source, option):
                    columns.update(dict.fromkeys(part.columns))
                    if not problems:
                        gathered.add(part)
                    bar.update(int(part.read * size) - shown)
                    shown = int(part.read * size)
            except UserError as error:  # the other files may be broken too
                problems.append((file, error))
    raise_problems(problems)
    check_all_used(source.columns, list(columns), source_path(source), f"{option}.columns")
    gathered.report(option)
    return _assemble(gathered.every, source, option)


class _Gathered:
    """The passages of all files so far, final strings only, and what gave none."""

    def __init__(self, source: SourceConfig, tokenizer: CountTokens) -> None:
        self.every: list[Passages] = []
        self._source = source
        self._tokenizer = tokenizer
        self._short = 0
        self._silent: list[File] = []
        """Files without text."""
        self._same: dict[bytes, int] = {}
        """Of the rows of the table that is read: where their passages are in `every`."""
        self._number = 0
        """Passages of the file so far."""

    def begin(self, file: File) -> None:
        """What is added next is of this file."""
        self._silent.append(file)
        self._same, self._number = {}, 0

    def add(self, part: Part) -> None:
        """Cut the documents of a part; a table's row whose passage was there before gives only its queries."""
        if not part.documents:
            return
        if self._silent and self._silent[-1].name == part.documents[0].file:
            self._silent.pop()
        new: dict[bytes, Document] = {}
        again: list[Document] = []
        for document in part.documents:
            if document.same in self._same or document.same in new:
                again.append(document)
            else:
                new[document.same] = document
        self._cut(list(new.values()))
        for document in again:
            at = self._same[document.same]
            self.every[at] = self.every[at].asked_too(document.sections[0].asked)

    def _cut(self, documents: Sequence[Document]) -> None:
        options = self._source.documents
        sections = [section for document in documents for section in document.sections]
        # a table's rows are whole by themselves, however short
        least = 0 if any(document.same for document in documents) else options.min_tokens
        chunks = chunk(sections, options, least, self._tokenizer) if sections else []
        by_section: list[list[Chunk]] = [[] for _ in sections]
        for piece in chunks:
            by_section[piece.section].append(piece)
        self._short += sum(not pieces for pieces in by_section)
        seed = self._source.seed if "excerpts" in options.builders else None
        passed = 0
        for document in documents:
            own = [replace(piece, section=i) for i in range(len(document.sections)) for piece in by_section[passed + i]]
            passed += len(document.sections)
            if own:
                self._same[document.same] = len(self.every)
                self.every.append(passages_of(document, own, _ids(document, len(own), self._number), seed))
            self._number += len(own)

    def report(self, option: str) -> None:
        """Say which files have no text and how much was too short. Raises UserError where nothing is left."""
        path, least = source_path(self._source), self._source.documents.min_tokens
        code = [file for file in self._silent if file.path.suffix.lower() == ".py"]
        silent = [file for file in self._silent if file.path.suffix.lower() != ".py"]
        if not self.every and not self._short:
            raise UserError(f"{option}.path: no text in {path}; name a file, or a folder with files, that holds some")
        if not self.every:
            raise UserError(f"{option}.documents.min_tokens: no text of {least} tokens under one heading in {path}")
        if code:
            log.info("%s: %s Python files without a documented function give no passage", path, f"{len(code):,}")
        if silent:
            names = ", ".join(file.name for file in silent[:_NAMED])
            more = f" and {len(silent) - _NAMED:,} more" if len(silent) > _NAMED else ""
            log.info("%s: %s files without text left out: %s%s", path, f"{len(silent):,}", names, more)
        if self._short:
            words = "%s: %s texts under a heading left out, of fewer than documents.min_tokens = %s tokens"
            log.info(words, path, f"{self._short:,}", least)


def _ids(document: Document, count: int, before: int) -> list[str]:
    """Ids of a document's passages; `before`: passages of the same file before it."""
    if document.passage_id:
        given = document.passage_id
        return [given] if count == 1 else [f"{given}#{i + 1:04}" for i in range(count)]
    return [f"{_without_space(document.file)}#{before + i + 1:04}" for i in range(count)]


def _without_space(name: str) -> str:
    """A file's name as TREC run files can hold it; two names never become one.

    >>> _without_space("user guide.md"), _without_space("100%.md")
    ('user%20guide.md', '100%25.md')
    """
    return "".join(f"%{ord(c):02X}" if c.isspace() or c == "%" else c for c in name)


def _assemble(every: Sequence[Passages], source: SourceConfig, option: str) -> RetrievalSet:
    finder = Finder(every, source.documents.builders)
    corpus = Texts([], [], [], source_path(source))
    queries = Texts([], [], [], source_path(source))
    train: Qrels = {}
    owner: dict[str, str] = {}
    for passages in every:
        document = passages.document
        found = finder.queries(passages)
        asked = [query for one in found for query in one.queries]
        titles = contexts(document.title, [row.path for row in passages.rows], asked)
        for row, one, title in zip(passages.rows, found, titles, strict=True):
            if row.id in owner:
                raise UserError(
                    f'{option}.columns: the id "{row.id}" of {document.name} is that of {owner[row.id]} too; '
                    "name a column whose ids are each for one text"
                )
            owner[row.id] = document.name
            corpus.ids.append(row.id)
            corpus.texts.append(one.text)
            corpus.titles.append(title)
            corpus.metadata.append(_known(document, section=" > ".join(row.path), start=row.start))
            _add(queries, train, one, row.id, document)
    if finder.useless:
        words = "%s: %s titles and headings make no query, being numbers or a single word: %s"
        names = ", ".join(repr(name) for _, name in list(finder.useless)[:_NAMED])
        log.info(words, corpus.source, f"{len(finder.useless):,}", names)
    return RetrievalSet(corpus, queries, {"train": train})


def _known(document: Document, **more: Any) -> dict[str, Any]:
    return {"document": document.name, **more, **({"group": document.group} if document.group else {})}


def _add(queries: Texts, train: Qrels, found: Found, passage_id: str, document: Document) -> None:
    for query in found.queries:
        query_id = text_id(normalised(query), "q")
        if query_id not in train:
            queries.ids.append(query_id)
            queries.texts.append(query)
            queries.metadata.append(_known(document, builder=found.builder))
        train.setdefault(query_id, {})[passage_id] = 1
