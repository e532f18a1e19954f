"""Every file of documents that cannot be read, and every row of a table that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bgetune.config_data import SourceConfig
from bgetune.errors import UserError

from .documents.read import files_of, read_parts
from .documents.table_rows import TABLES

_OPTION = "data.domain"
"""The option in messages: what a job would call the documents."""
_NAMED = 10


def bad_files(path: Path) -> Iterator[str]:
    """What is wrong with each file that is wrong, and with each row of a table; that all of them hold nothing."""
    source = _source(path)
    documents = problems = 0
    for file in files_of(source, _OPTION):
        wrong: list[UserError] = []
        try:
            for part in read_parts(file, source, _OPTION, wrong.append):
                documents += len(part.documents)
                problems += len(wrong)
                while wrong:
                    yield str(wrong.pop(0))
        except UserError as error:
            wrong.append(error)
        problems += len(wrong)
        yield from map(str, wrong)
    if not documents and not problems:
        lacking = "rows" if path.suffix.lower() in TABLES else "text"
        yield f"{path}: it holds no {lacking}; name a file or folder that holds some"


def counts_of_documents(path: Path) -> str:
    """How many files, documents and sections there are; which files give none."""
    source = _source(path)
    files = files_of(source, _OPTION)
    documents = sections = 0
    silent: list[str] = []
    for file in files:
        before = documents
        for part in read_parts(file, source, _OPTION):
            documents += len(part.documents)
            sections += sum(len(document.sections) for document in part.documents)
        silent += [file.name] if documents == before else []
    more = f" and {len(silent) - _NAMED:,} more" if len(silent) > _NAMED else ""
    none = f"; without text or rows: {', '.join(silent[:_NAMED])}{more}" if silent else ""
    return f"{path}: {len(files):,} files with {documents:,} documents of {sections:,} sections{none}"


def _source(path: Path) -> SourceConfig:
    return SourceConfig(kind="documents", path=str(path))
