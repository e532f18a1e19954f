"""Sections to passages: borders are headings, then sentences, and words only where a sentence is too long by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

from bgetune.config_data import DocumentsConfig

from .parts import Section
from .sentences import sentence_spans

CountTokens = Callable[[Sequence[str]], list[int]]
"""Texts -> the number of tokens of each."""


@dataclass(frozen=True)
class Unit:
    """What a passage is never cut inside: a sentence, a piece of code, or part of one that is too long."""

    text: str
    glue: str
    """What stands between the unit before and this one."""
    starts: tuple[int, ...]
    """The line or page of each of its lines."""
    code: bool


@dataclass(frozen=True)
class Chunk:
    """A passage of section number `section`; its first `repeated` units are the last ones of the chunk before."""

    section: int
    units: tuple[Unit, ...]
    repeated: int = 0

    @property
    def text(self) -> str:
        return joined(self.units)

    @property
    def start(self) -> int:
        """Line or page of the first unit that no earlier chunk has."""
        return self.units[self.repeated].starts[0]


def joined(units: Sequence[Unit]) -> str:
    """The text of neighbouring units.

    >>> joined([Unit("A.", "\\n", (1,), False), Unit("B.", "  ", (1,), False)])
    'A.  B.'
    """
    return units[0].text + "".join(unit.glue + unit.text for unit in units[1:]) if units else ""


def chunk(sections: Sequence[Section], config: DocumentsConfig, least: int, count: CountTokens) -> list[Chunk]:
    """The passages of some sections, in reading order; no passage holds text of two sections.

    No passage has more than `chunk_tokens` tokens, counted on its own text as a whole, unless it is one character. A
    passage of fewer than `least` tokens is joined to a neighbour, or takes sentences from one; where neither keeps the
    limit it stays as it is, and where it is all of its section it is left out, unless a question asks for it.

    Args:
        sections: of any number of documents; their sentences are counted together, in few calls.
        config: `chunk_tokens` and `chunk_overlap_tokens` count here.
        least: fewest tokens of a passage.
        count: see CountTokens; what it adds to every text, such as [CLS], is measured on the empty text.
    """
    base = count([""])[0]
    units, tokens = _units(sections, config.chunk_tokens, count)
    sizes = [[tokens[unit.text] - base for unit in row] for row in units]
    rooms = [config.chunk_tokens - base] * len(sections)
    cut: list[list[Chunk]] = [[] for _ in sections]
    unsure = [i for i, row in enumerate(units) if row]
    while unsure:
        for i in unsure:
            borders = pack(sizes[i], rooms[i], config.chunk_overlap_tokens, least - base)
            cut[i] = [Chunk(i, tuple(units[i][first:end]), start - first) for first, start, end in borders]
        _learn(tokens, (piece.text for i in unsure for piece in cut[i]), count)
        # a text may have more tokens than its parts: such sections are packed again with less room
        excess = {i: max((tokens[c.text] for c in cut[i] if len(c.units) > 1), default=0) for i in unsure}
        unsure = [i for i in unsure if excess[i] > config.chunk_tokens]
        for i in unsure:
            rooms[i] -= excess[i] - config.chunk_tokens
    return [c for row in cut for c in row if len(row) > 1 or tokens[c.text] >= least or _answers(sections[c.section])]


def _answers(section: Section) -> bool:
    """Whether the file asks a question of this text; the summary of a function is none."""
    return any(builder != "docstring_code" for builder, _ in section.asked)


def pack(sizes: Sequence[int], room: int, overlap: int, least: int) -> list[tuple[int, int, int]]:
    """Neighbouring units to chunks of at most `room` tokens; a unit that is larger stands alone.

    Args:
        sizes: tokens of each unit.
        room: most tokens of a chunk.
        overlap: most tokens that a chunk repeats from the one before it, in whole units, never all of it.
        least: chunks of fewer tokens are joined to a neighbour or take units from one, where that keeps the limit.

    Returns:
        (first, start, end) of each chunk: units first to end, of which those before start are repeated.

    >>> pack([4, 4, 4, 4, 1], room=8, overlap=0, least=3)
    [(0, 0, 2), (2, 2, 3), (3, 3, 5)]
    >>> pack([4, 2, 4, 2, 4], room=8, overlap=2, least=0)
    [(0, 0, 2), (1, 2, 4), (3, 4, 5)]
    """
    borders, used = [0], 0
    for i, size in enumerate(sizes):
        if i > borders[-1] and used + size > room:
            first = _tail(sizes, borders[-1] + 1, i, min(overlap, room - size))
            used = sum(sizes[first:i])
            borders.append(i)
        used += size
    borders = _settle([*borders, len(sizes)], [0, *accumulate(sizes)], room, least)
    found: list[tuple[int, int, int]] = []
    for k, (start, end) in enumerate(pairwise(borders)):
        spare = min(overlap, room - sum(sizes[start:end]))
        found.append((_tail(sizes, borders[k - 1] + 1, start, spare) if k else start, start, end))
    return found


def _tail(sizes: Sequence[int], start: int, end: int, room: int) -> int:
    """The first of the last units before `end`, none of them before `start`, that fit into `room` together."""
    while end > start and sizes[end - 1] <= room:
        end -= 1
        room -= sizes[end]
    return end


def _settle(borders: list[int], upto: list[int], room: int, least: int) -> list[int]:
    """Borders after small chunks were joined to neighbours or took units from them; `upto`: tokens before a unit."""

    def tokens(start: int, end: int) -> int:
        return upto[end] - upto[start]

    def good(start: int, end: int) -> bool:
        return least <= tokens(start, end) <= room

    k = 0
    while k < len(borders) - 1 and len(borders) > 2:
        start, end = borders[k], borders[k + 1]
        if tokens(start, end) >= least:
            k += 1
            continue
        if k > 0 and tokens(borders[k - 1], end) <= room:
            del borders[k]
        elif k + 2 < len(borders) and tokens(start, borders[k + 2]) <= room:
            del borders[k + 1]
        else:
            before = range(start - 1, borders[k - 1], -1) if k > 0 else range(0)
            after = range(end + 1, borders[k + 2]) if k + 2 < len(borders) else range(0)
            if moved := next((b for b in before if good(b, end) and tokens(borders[k - 1], b) >= least), 0):
                borders[k] = moved
            elif moved := next((b for b in after if good(start, b) and tokens(b, borders[k + 2]) >= least), 0):
                borders[k + 1] = moved
            else:
                k += 1
                continue
        k = max(0, k - 2)  # a small chunk may now fit to a neighbour that changed; each change leaves fewer small ones
    return borders


def _units(sections: Sequence[Section], limit: int, count: CountTokens) -> tuple[list[list[Unit]], dict[str, int]]:
    """The units of each section, none above the limit but single characters; the tokens of each text seen."""
    rows = [list(chain.from_iterable(_sentences(section))) for section in sections]
    tokens: dict[str, int] = {}
    unsure = list(range(len(rows)))
    while unsure:
        _learn(tokens, (unit.text for i in unsure for unit in rows[i]), count)
        unsure = [i for i in unsure if any(tokens[u.text] > limit and len(u.text) > 1 for u in rows[i])]
        for i in unsure:
            rows[i] = [part for u in rows[i] for part in (_finer(u) if tokens[u.text] > limit else [u])]
    return rows, tokens


def _learn(tokens: dict[str, int], texts: Iterable[str], count: CountTokens) -> None:
    new = list(dict.fromkeys(text for text in texts if text not in tokens))
    if new:
        tokens.update(zip(new, count(new), strict=True))


def _sentences(section: Section) -> Iterable[list[Unit]]:
    for block in section.blocks:
        whole = Unit(block.text, "\n", block.starts, block.code)
        yield [whole] if block.code else _cut(whole, sentence_spans(block.text))


def _finer(unit: Unit) -> list[Unit]:
    """A unit that is too long, cut once more: code at lines, all else at words, a word in halves."""
    if unit.code and "\n" in unit.text.strip("\n"):
        return _cut(unit, [match.span() for match in re.finditer(r"[^\n]*\S[^\n]*", unit.text)])
    words = [match.span() for match in re.finditer(r"\S+", unit.text)]
    if len(words) > 1:
        return _cut(unit, words)
    start, end = words[0]
    middle = (start + end) // 2
    return _cut(unit, [(start, middle), (middle, end)] if middle > start else words)


def _cut(unit: Unit, spans: Sequence[tuple[int, int]]) -> list[Unit]:
    parts: list[Unit] = []
    line, before = 0, 0
    for start, end in spans:
        glue = ("" if parts else unit.glue) + unit.text[before:start]
        line += unit.text.count("\n", before, start)
        last = line + unit.text.count("\n", start, end)
        parts.append(Unit(unit.text[start:end], glue, unit.starts[line : last + 1], unit.code))
        line, before = last, end
    return parts
