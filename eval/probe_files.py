"""Probes from files: sentence pairs with a similarity, or texts with a label. Every mistake names file and line."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bgetune.data import Texts, json_lines
from bgetune.errors import UserError

PAIR_COLUMNS, LABEL_COLUMNS = ("sentence1", "sentence2", "score"), ("text", "label")
SUFFIXES = (".csv", ".tsv", ".jsonl")
FEWEST = 10
"""Pairs or test texts; of fewer no interval can be told."""
PER_LABEL = 200
"""Training texts of a label; of more a seeded sample. A few hundred say enough, and a large file stays cheap."""
_LEFT_OUT = ("dev", "validation")  # splits that neither train nor test the classifier


@dataclass(frozen=True)
class SimilarityProbe:
    """N sentence pairs and how alike people found them."""

    name: str
    first: Texts
    second: Texts
    gold: np.ndarray
    """float64 [N]; only its order matters."""
    kind = "similarity"
    metric = "spearman"

    def __len__(self) -> int:
        return len(self.gold)


@dataclass(frozen=True)
class ClassificationProbe:
    """Texts to learn labels from, and N others to test what was learned."""

    name: str
    train: Texts
    train_labels: list[str]
    test: Texts
    test_labels: list[str]
    kind = "classification"
    metric = "accuracy"

    def __len__(self) -> int:
        return len(self.test)


Probe = SimilarityProbe | ClassificationProbe
_Row = tuple[str, dict[str, Any]]
"""file:line and the columns."""


def read_probe(name: str, path: Path) -> Probe:
    """Read a probe; which kind it is, its columns tell.

    Sentence pairs have `sentence1`, `sentence2` and `score`. Texts have `text` and `label`, and are divided by a column
    `split` (train, test), by files (`train.*` and `test.*` of a folder), or else in seeded halves, label by label.

    Args:
        path: a .csv (quoted as usual), .tsv (no quoting, as STS-B and GLUE have it) or .jsonl file; or a folder with
            `test.*`, or with one such file.

    Raises:
        UserError: no such file, a column that is missing, a value of the wrong kind, too few rows, one label only.
    """
    path = Path(path).expanduser()
    test_file, train_file = _files(name, path)
    rows = list(_rows(name, test_file))
    _refuse_few(name, test_file, len(rows), "rows")
    columns = rows[0][1].keys()
    if all(column in columns for column in PAIR_COLUMNS):
        return _similarity(name, test_file, rows)
    if all(column in columns for column in LABEL_COLUMNS):
        return _classification(name, test_file, rows, train_file)
    raise UserError(
        f"{rows[0][0]}: eval.probes.{name} needs the columns {', '.join(PAIR_COLUMNS)} or {', '.join(LABEL_COLUMNS)}; "
        f"the file has {', '.join(columns)}"
    )


def _files(name: str, path: Path) -> tuple[Path, Path | None]:
    """The file to test with and, of a folder that has one, the file to train with."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"eval.probes.{name}: {path} is none of {', '.join(SUFFIXES)}")
        return path, None
    if not path.is_dir():
        raise UserError(f"eval.probes.{name}: {path}: no such file or folder")
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    tests, trains = ([file for file in found if file.stem == split] for split in ("test", "train"))
    if len(tests) > 1 or len(trains) > 1:
        twice = tests if len(tests) > 1 else trains
        raise UserError(f"eval.probes.{name}: {path} has {' and '.join(file.name for file in twice)}; keep one of them")
    if not tests and len(found) != 1:
        there = ", ".join(file.name for file in found) or "no such file"
        raise UserError(f"eval.probes.{name}: {path} needs a test.csv, test.tsv or test.jsonl; it has {there}")
    return (tests or found)[0], trains[0] if tests and trains else None


def _rows(name: str, path: Path) -> Iterator[_Row]:
    return json_lines(path) if path.suffix == ".jsonl" else _table(name, path)


def _table(name: str, path: Path) -> Iterator[_Row]:
    """Rows of a .csv or .tsv file with a header; a quoted field may go over several lines, the first is named."""
    tabs = path.suffix == ".tsv"
    line = 0
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else 0, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
                raise UserError(f"{path}:{line}: eval.probes.{name} cannot be read from here on: {reason}") from None
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                raise UserError(f"{path}:{line}: {len(cells)} cells where the header has {len(header)} columns")
            else:
                yield f"{path}:{line}", dict(zip(header, cells, strict=True))


def _similarity(name: str, path: Path, rows: Sequence[_Row]) -> SimilarityProbe:
    first, second = (_texts(path, rows, column) for column in PAIR_COLUMNS[:2])
    gold = np.array([_number(row, where) for where, row in rows])
    if (gold == gold[0]).all():
        raise UserError(f"{path}: eval.probes.{name}: every score is {gold[0]:g}; nothing can be ordered by it")
    return SimilarityProbe(name, first, second, gold)


def _classification(name: str, path: Path, rows: Sequence[_Row], train_file: Path | None) -> ClassificationProbe:
    texts, labels = _texts(path, rows, "text"), _labels(rows)
    if train_file is not None:
        rows = list(_rows(name, train_file))
        train, train_labels = _texts(train_file, rows, "text"), _labels(rows)
        learn, ask = list(range(len(train))), list(range(len(texts)))
    else:
        train, train_labels, train_file = texts, labels, path
        learn, ask = _by_column(rows) if "split" in rows[0][1] else _halves(labels)
    learn = _sampled(learn, train_labels, dict.fromkeys(train_labels, PER_LABEL))
    _refuse_few(name, path, len(ask), "texts to test with")
    known = sorted({train_labels[i] for i in learn})
    if len(known) < 2:
        has = f"every training text has the label {known[0]!r}" if known else "there is no training text"
        raise UserError(f"{train_file}: eval.probes.{name}: {has}; two labels are needed")
    for i in ask:
        if labels[i] not in known:
            raise UserError(f"{texts.where(i)}: the label {labels[i]!r} is in no training text of eval.probes.{name}")
    return ClassificationProbe(
        name, train.take(learn), [train_labels[i] for i in learn], texts.take(ask), [labels[i] for i in ask]
    )


def _texts(path: Path, rows: Sequence[_Row], column: str) -> Texts:
    found = [_text(row, column, where) for where, row in rows]
    lines = [int(where.rpartition(":")[2]) for where, _ in rows]
    return Texts([str(line) for line in lines], found, source=path, lines=lines)


def _cell(row: dict[str, Any], column: str, where: str) -> Any:
    if row.get(column) is None:
        raise UserError(f'{where}: the column "{column}" is missing; the row has {", ".join(row) or "nothing"}')
    return row[column]


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = _cell(row, column, where)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: "{column}" must be a text that is not empty, got {value!r:.40}')
    return value


def _number(row: dict[str, Any], where: str) -> float:
    value = _cell(row, "score", where)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f'{where}: "score" must be a number, got {value!r:.40}')
    return number


def _labels(rows: Sequence[_Row]) -> list[str]:
    found = []
    for where, row in rows:
        value = _cell(row, "label", where)
        if not isinstance(value, str | int) or not str(value).strip():
            raise UserError(f'{where}: "label" must be a word or a whole number, got {value!r:.40}')
        found.append(str(value).strip())
    return found


def _by_column(rows: Sequence[_Row]) -> tuple[list[int], list[int]]:
    splits = []
    for where, row in rows:
        split = _cell(row, "split", where)
        if split not in ("train", "test", *_LEFT_OUT):
            raise UserError(
                f'{where}: "split" must be train or test (or {", ".join(_LEFT_OUT)}: left out), got {split!r}'
            )
        splits.append(split)
    learn, ask = ([i for i, split in enumerate(splits) if split == wanted] for wanted in ("train", "test"))
    return learn, ask


def _halves(labels: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows to learn from and to ask about, ascending: half of each label's, drawn by a fixed seed.

    >>> learn, ask = _halves(["a", "b", "a", "b", "b"])
    >>> len(learn), len(ask), sorted([*learn, *ask])  # of an odd number the one more is learned from
    (3, 2, [0, 1, 2, 3, 4])
    """
    sizes = {label: -(-count // 2) for label, count in Counter(labels).items()}
    learn = _sampled(range(len(labels)), labels, sizes)
    return learn, sorted(set(range(len(labels))) - set(learn))


def _sampled(rows: Sequence[int], labels: Sequence[str], sizes: Mapping[str, int]) -> list[int]:
    """Of `rows`, up to `sizes` of each label; the evaluation's seed has no say, so that a probe stays what it is."""
    draw = np.random.default_rng(0)
    of_label: dict[str, list[int]] = {label: [] for label in sorted(sizes)}
    for row in rows:
        of_label[labels[row]].append(row)
    for label, own in of_label.items():
        if len(own) > sizes[label]:
            of_label[label] = draw.choice(own, sizes[label], replace=False).tolist()
    return sorted(row for own in of_label.values() for row in own)


def _refuse_few(name: str, path: Path, count: int, what: str) -> None:
    if count < FEWEST:
        raise UserError(f"{path}: eval.probes.{name} has {count} {what}; at least {FEWEST} are needed")
