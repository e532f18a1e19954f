"""The raw rows of a table, numbered: csv, tsv, jsonl, parquet. One that is wrong is told of, and the next one read."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bgetune.errors import UserError
from bgetune.files import json_object

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Row = tuple[int, dict[str, Any]]
"""Line, of parquet the row, from 1; column -> value."""
Refuse = Callable[[UserError], None]
"""What is done about a row that is wrong: raise, or note it; then the row is left out."""


def stop(error: UserError) -> None:
    """Refuse by raising: the first row that is wrong ends the reading."""
    raise error


def rows_of(path: Path, refuse: Refuse = stop) -> Iterator[Row]:
    """The rows of a .csv, .tsv, .jsonl or .parquet file, without all of it in memory.

    Raises:
        UserError: the file as a whole cannot be read: no parquet, a csv header without sense.
    """
    return _READERS[path.suffix.lower()](path, refuse)


def survey(path: Path) -> tuple[int, list[str]]:
    """The number of rows that are not wrong in themselves, and the columns that any of them has."""
    if path.suffix.lower() == ".parquet":
        with _parquet(path) as file:
            return file.metadata.num_rows, file.schema_arrow.names
    total, there = 0, dict[str, None]()
    for _, row in rows_of(path, lambda error: None):
        total += 1
        there.update(dict.fromkeys(row))
    return total, list(there)


class _Lines:
    """The lines of a file; those of the row that is read can be gone back over."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._again = file, deque[str]()
        self.row: list[str] = []
        """The row's lines so far."""
        self.start = 1
        """Number of its first line."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self.row.append(line)
        return line

    def next_row(self) -> None:
        """The next row begins behind the lines read so far."""
        self.start += len(self.row)
        self.row = []

    def back_to(self, line: int) -> None:
        """The row has `line` lines, and what was read behind them is still to come."""
        self._again.extendleft(reversed(self.row[line:]))
        self.row = self.row[:line]


def _csv_rows(path: Path, refuse: Refuse, separator: str = "") -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # 131,072 characters by default
    # bytes that are no UTF-8 are told of row by row, so they must come through
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = _Lines(file)
        first = next(lines, "")
        lines.back_to(0)
        chosen = separator or max(",;\t", key=first.count)
        reader = csv.reader(lines, delimiter=chosen, strict=True)
        header: list[str] = []
        while (found := _next_cells(reader, lines, path, header)) is not None:
            if isinstance(found, UserError):
                (refuse if header else stop)(found)
            elif not header:
                header = _header(found, path)
            elif any(cell.strip() for cell in found):
                yield lines.start, dict(zip(header, found, strict=True))
            lines.next_row()


def _next_cells(
    reader: Iterator[list[str]], lines: _Lines, path: Path, header: list[str]
) -> list[str] | UserError | None:
    """The cells of the next row, or what is wrong with it; None at the end."""
    where = f"{path}:{lines.start}"
    try:
        cells = next(reader, None)
    except csv.Error as error:
        # a quote that nobody closes takes in the rows below: they are looked at by themselves
        lines.back_to(1)
        wrong = UserError(f"{where}: not valid csv ({error}); check the quotes of the row that begins here")
        return _no_text(lines.row, path, lines.start) or wrong
    if cells is None:
        return None
    if no_text := _no_text(lines.row, path, lines.start):
        return no_text
    if header and len(cells) != len(header) and any(cell.strip() for cell in cells):
        return UserError(
            f"{where}: {len(cells)} cells where the header has {len(header)}; "
            "put a cell that holds a separator or a line break in quotes"
        )
    return cells


def _no_text(lines: Sequence[str], path: Path, start: int) -> UserError | None:
    """What is wrong with lines that are no text."""
    for number, line in enumerate(lines, start=start):
        if "\0" in line:
            return UserError(f"{path}:{number}: a NUL character; it is no text file")
        if not line.isascii():
            try:
                line.encode("utf-8", "surrogateescape").decode()
            except UnicodeDecodeError as error:
                return UserError(f"{path}:{number}: not UTF-8 text ({error.reason}); save the file as UTF-8")
    return None


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}:1: the column {twice[0]!r} is there twice; rename one")
    return names


def _json_rows(path: Path, refuse: Refuse) -> Iterator[Row]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                if no_text := _no_text([line], path, number):
                    raise no_text
                row = json_object(line, f"{path}:{number}")
            except UserError as error:
                refuse(error)
            else:
                yield number, row


def _parquet_rows(path: Path, refuse: Refuse) -> Iterator[Row]:
    number = 0
    with _parquet(path) as file:
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: cannot be read as parquet ({reason}); write it again or leave it out") from None


_READERS: dict[str, Callable[[Path, Refuse], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": lambda path, refuse: _csv_rows(path, refuse, "\t"),
    ".jsonl": _json_rows,
    ".parquet": _parquet_rows,
}
TABLES = tuple(_READERS)
