"""A retrieval set out of documents: passages with where they came from, and the queries that they give themselves."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bgetune.config_data import SourceConfig
from bgetune.data import Qrels, RetrievalSet, Texts, normalised, source_path
from bgetune.errors import UserError
from bgetune.progress import progress

from ..rows import text_id
from .chunk import Chunk, CountTokens, chunk
from .parts import Document
from .queries import Finder, Found, Passages, context
from .read import File, files_of, raise_problems, read_file

log = logging.getLogger(__name__)


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
        UserError: a path, file, column or id that will not do; no passage of `min_tokens` in all files.
    """
    every: list[Passages] = []
    problems: list[tuple[File, UserError]] = []
    without: Counter[str] = Counter()
    files = files_of(source, option)
    with progress(len(files), "reading documents", "file") as bar:
        for file in files:
            try:
                documents = read_file(file, source, option)
            except UserError as error:  # the other files may be broken too
                problems.append((file, error))
            else:
                if not problems:
                    every.extend(_cut(documents, source, tokenizer))
                without[file.path.suffix] += not documents
            bar.update()
    raise_problems(problems)
    if silent := without.total():
        log.info("%s: %s Python files without a documented function give no passage", source.path, f"{silent:,}")
    every = [passages for passages in every if passages.chunks]
    if not every:
        least = source.documents.min_tokens
        raise UserError(
            f"{option}.documents.min_tokens: no text of {least} tokens under one heading in {source_path(source)}"
        )
    return _assemble(every, source, option)


def _cut(documents: Sequence[Document], source: SourceConfig, tokenizer: CountTokens) -> list[Passages]:
    """The documents of one file with their passages; a table's rows are whole by themselves, however short."""
    options = source.documents
    rows = any(document.name != document.file for document in documents)
    sections = [section for document in documents for section in document.sections]
    chunks = chunk(sections, options, 0 if rows else options.min_tokens, tokenizer) if sections else []
    by_section: list[list[Chunk]] = [[] for _ in sections]
    for piece in chunks:
        by_section[piece.section].append(piece)
    found: list[Passages] = []
    number = passed = 0
    for document in documents:
        own: list[Chunk] = []
        for i in range(len(document.sections)):
            own += [Chunk(i, piece.units, piece.repeated) for piece in by_section[passed + i]]
        passed += len(document.sections)
        found.append(Passages(document, tuple(own), tuple(_ids(document, len(own), number))))
        number += len(own)
    return found


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
    finder = Finder(every, source.documents.builders, source.seed)
    corpus = Texts([], [], [], source_path(source))
    queries = Texts([], [], [], source_path(source))
    train: Qrels = {}
    owner: dict[str, str] = {}
    for passages in every:
        document = passages.document
        found = finder.queries(passages)
        asked = dict.fromkeys(normalised(query) for one in found for query in one.queries)
        paths = dict.fromkeys(document.sections[piece.section].path for piece in passages.chunks)
        titles = {path: context(document.title, path, asked) for path in paths}
        for piece, passage_id, one in zip(passages.chunks, passages.ids, found, strict=True):
            if passage_id in owner:
                raise UserError(
                    f'{option}.columns: the id "{passage_id}" of {document.name} is that of {owner[passage_id]} too; '
                    "name a column whose ids are each for one text"
                )
            owner[passage_id] = document.name
            path = document.sections[piece.section].path
            corpus.ids.append(passage_id)
            corpus.texts.append(one.text)
            corpus.titles.append(titles[path])
            corpus.metadata.append(_known(document, section=" > ".join(path), start=piece.start))
            _add(queries, train, one, passage_id, document)
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
