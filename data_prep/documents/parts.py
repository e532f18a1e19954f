"""What a reader makes of a file: documents of sections of blocks; questions stand apart from their answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bgetune.config_data import Builder

_NUMBER = re.compile(r"^\s*(?:[-*•]\s+)?(?:(?:\d+(?:\.\d+)+[.:)]?|\d+[.:)])\s+)?")
_ASKS = re.compile(r"^(?:Q|Question)\s*\d*\s*[:.)]\s*", re.IGNORECASE)
_ANSWERS = re.compile(r"^(?:A|Answer)\s*\d*\s*[:.)]\s*", re.IGNORECASE)
_QUESTION_MARKS = ("?", "？", "؟")


@dataclass(frozen=True)
class Line:
    """A line of a file under one heading; `start` is its line or page there, from 1."""

    text: str
    start: int
    code: bool = False
    bold: bool = False
    """All of it is set bold, or it is a <summary> or <dt>: it may be a question with the answer below."""
    continues: bool = False
    """It goes on with the paragraph, list item or code of the line before."""
    closes: bool = False
    """No text: here a list of questions and answers ends."""


@dataclass(frozen=True)
class Block:
    """A paragraph, list item, table row or piece of code; `starts`: the line or page of each line of its text."""

    text: str
    starts: tuple[int, ...]
    code: bool = False


@dataclass(frozen=True)
class Section:
    """Text under one heading; `path`: the headings from the outermost, without the document's title."""

    path: tuple[str, ...]
    blocks: tuple[Block, ...]
    asked: tuple[tuple[Builder, str], ...] = ()
    """Queries that the file itself pairs with this text."""


@dataclass(frozen=True)
class Document:
    """A file, or a row of a table."""

    file: str
    """Path relative to the source's, with slashes."""
    name: str
    """The file, and of a table the row: `faq.csv:12`."""
    title: str
    """As the document states it; empty where it states none."""
    sections: tuple[Section, ...]
    passage_id: str = ""
    """From a table's id column."""
    group: str = ""
    """From a table's group column."""
    same: bytes = b""
    """Equal for two rows of a table that are the same passage; empty for a file that is no table."""


@dataclass(frozen=True)
class Part:
    """What is read of a file at once: all of it, or some rows of a table."""

    documents: tuple[Document, ...]
    """None, where there is no text."""
    read: float = 1.0
    """Share of the file that is read with this part."""
    columns: tuple[str, ...] = ()
    """All columns of the table."""


def bare(heading: str) -> str:
    """A heading without its bullet or number.

    >>> bare("2.1. Setting up"), bare("3) Why?"), bare("3 ways out")
    ('Setting up', 'Why?', '3 ways out')
    """
    return _NUMBER.sub("", heading, count=1).strip()


def question_of(text: str, stands_out: bool) -> str:
    """The question that a line asks, without its number and `Q:`; empty where it asks none that one can search for.

    Args:
        text: the line.
        stands_out: it is a heading or bold; else only `Q:` makes it a question.

    >>> question_of("Q1: How long does it take?", False), question_of("How long does it take?", False)
    ('How long does it take?', '')
    >>> question_of("2. How long does it take?", True), question_of("Why?", True)
    ('How long does it take?', '')
    """
    line = bare(text)
    question = _ASKS.sub("", line, count=1)
    if not question.endswith(_QUESTION_MARKS) or (question == line and not stands_out):
        return ""
    # scripts without spaces: four characters ask as much as three words
    return question if len(question.split()) >= 3 or (not question.isascii() and len(question) >= 4) else ""


def sections_of(path: tuple[str, ...], lines: Sequence[Line], faq: bool) -> list[Section]:
    """The text under one heading, and with `faq` a section more for each question in it and its answer.

    A question is a line on its own that is bold or begins with `Q:`, and ends with a question mark. It is not in the
    text of its answer. The heading itself asks for what no other question does.
    """
    heading = question_of(path[-1], True) if path and faq else ""
    found: list[Section] = []
    question = heading
    answer: list[Line] = []

    def close() -> None:
        if blocks := _blocks(answer):
            found.append(Section(path, blocks, (("faq", question),) if question else ()))

    marked = False
    for line in lines:
        asks = question_of(line.text, line.bold) if faq and not line.code else ""
        if line.closes and question == heading:
            continue
        if asks or line.closes:
            close()
            question, answer, marked = asks or heading, [], bool(_ASKS.match(bare(line.text)))
        elif marked and not answer and line.text.strip():
            answer.append(replace(line, text=_ANSWERS.sub("", line.text, count=1)))
            marked = False
        else:
            answer.append(line)
    close()
    return found


def _blocks(lines: Sequence[Line]) -> tuple[Block, ...]:
    """Lines that continue one another as one block each; blocks without text are left out."""
    runs: list[list[Line]] = []
    for line in lines:
        if line.continues and runs and runs[-1][-1].code == line.code:
            runs[-1].append(line)
        else:
            runs.append([line])
    blocks = (Block("\n".join(x.text for x in run), tuple(x.start for x in run), run[0].code) for run in runs)
    return tuple(block for block in blocks if block.text.strip())
