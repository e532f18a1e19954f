"""Rows out of a `datasets` dataset: a Hub id, or parquet, csv and json files here."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bgetune.config_data import SourceConfig
from bgetune.data import source_path
from bgetune.errors import UserError, did_you_mean
from bgetune.examples import Example

from .rows import Row

_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "state.json")  # what `datasets` writes beside its data
_OURS = ("query", "positive", "negative", "title")


def dataset_rows(source: SourceConfig, option: str) -> Iterator[Row]:
    """The rows of a dataset under our names for its columns.

    `positive` and `negative` hold a string or a list of strings; a missing negative (null) is none.

    Args:
        source: `path`, `columns`, `subset` and `split` count here.
        option: the source's option, for messages.

    Raises:
        UserError: no such file, dataset, split or column; the Hub cannot be reached; an empty text, with its row.
    """
    unknown = sorted(set(source.columns) - set(_OURS))
    if unknown:
        hint = did_you_mean(unknown[0], _OURS) or f"; use {', '.join(_OURS)}"
        raise UserError(f"{option}.columns: {unknown[0]!r} is none of our names{hint}")
    path = source_path(source)
    if not path.exists():
        yield from _named_rows(_from_hub(source, option), source.path, source, option)
        return
    with tempfile.TemporaryDirectory(prefix="bgetune-") as cache:
        yield from _named_rows(_from_here(path, cache, source, option), str(path), source, option)


def _kind(path: Path, option: str) -> str:
    """The suffix of the data at `path`. The README of a dataset may say which of several kinds to read."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    found = {file.suffix for file in files if file.name not in _NO_DATA and not _hidden(file.relative_to(path))}
    kinds = sorted(found & set(_BUILDERS))
    if not kinds:
        raise UserError(f"{option}.path: {path} is or holds no {', '.join(_BUILDERS)} file")
    card = path / "README.md"
    if len(kinds) > 1 and not (card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace")):
        raise UserError(f"{option}.path: {path} holds files of several kinds ({', '.join(kinds)}); name one of them")
    return kinds[0]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _from_here(path: Path, cache: str, source: SourceConfig, option: str) -> Any:
    """The split of a folder, by the names of its files as `datasets` reads them; a file is all of its split."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    kind = _kind(path, option)
    name = _BUILDERS[kind]
    options: dict[str, Any] = {"cache_dir": cache}
    if path.is_dir():
        options |= {"path": str(path.resolve()), "name": source.subset}
    else:
        split = re.match(r"[\w.]*", source.split)
        options |= {"path": name, "data_files": {(split and split[0]) or "train": [str(path)]}}
        options |= {"sep": "\t"} if kind == ".tsv" else {}
    try:
        builder = datasets.load_dataset_builder(**options)
        if hasattr(builder.config, "converters"):  # csv; pandas would take 042 for the number 42
            options["converters"] = dict.fromkeys(source.columns.values(), str)
            builder = datasets.load_dataset_builder(**options)
        builder.download_and_prepare()
    except (datasets.exceptions.DatasetsError, ValueError, FileNotFoundError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).partition(" Example of usage")[0][:200]
        if reason.startswith(("BuilderConfig", "Config name")):
            raise UserError(f"{option}.subset: {source.subset!r} will not do for {path}: {reason}") from None
        raise UserError(f"{option}.path: {path} cannot be read as {name}: {reason}") from None
    try:
        return builder.as_dataset(split=source.split)
    except ValueError:
        known = ", ".join(builder.info.splits)
        raise UserError(f"{option}.split: {path} has no split {source.split!r}; it has {known}") from None


def _from_hub(source: SourceConfig, option: str) -> Any:
    import datasets

    name = source.path
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix in _BUILDERS:
        raise UserError(f"{option}.path: {name} does not exist; name a file, a folder of files or a Hub id (ORG/NAME)")
    try:
        return datasets.load_dataset(name, source.subset, split=source.split)
    except datasets.exceptions.DatasetNotFoundError:
        raise UserError(
            f"{option}.path: the Hub has no dataset {name!r}, or it is private and you are not logged in"
        ) from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        wrong = "split" if "split" in reason.lower() else "subset"
        raise UserError(f"{option}.{wrong}: {getattr(source, wrong)!r} will not do for {name}: {reason}") from None
    except OSError:  # ConnectionError of datasets, requests and httpx
        raise UserError(
            f"{option}.path: {name!r} is no file here, and the Hub cannot be reached; where there is a network run "
            f"`hf download {name} --repo-type dataset --local-dir DIR`, copy DIR here and name it"
        ) from None


def _named_rows(table: Iterable[dict[str, Any]], name: str, source: SourceConfig, option: str) -> Iterator[Row]:
    there = list(getattr(table, "column_names", []))
    for column in source.columns.values():
        if column not in there:
            hint = did_you_mean(column, there) or f"; it has {', '.join(there)}"
            raise UserError(f"{option}.columns: {name} has no column {column!r}{hint}")
    for number, row in enumerate(table, start=1):
        where = f"{name}: row {number}"
        value = {ours: row[theirs] for ours, theirs in source.columns.items()}
        pos = _texts(value["positive"], source.columns["positive"], where)
        neg = [] if value.get("negative") is None else _texts(value["negative"], source.columns["negative"], where)
        query = _texts(value["query"], source.columns["query"], where)
        if not pos:
            raise UserError(f'{where}: "{source.columns["positive"]}" is an empty list; every query needs a positive')
        if len(query) != 1:
            raise UserError(f'{where}: "{source.columns["query"]}" must hold one text, got {len(query)}')
        yield Row(where, Example(query[0], pos, neg), _titles(value.get("title"), len(pos), where))


def _texts(value: Any, column: str, where: str) -> list[str]:
    """A string or a list of strings, none of them empty."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise UserError(f'{where}: "{column}" must be a text or a list of texts, got {str(text)[:40]!r}')
        if text is None or not text.strip():
            raise UserError(f'{where}: "{column}" is empty; remove the row or give it a text')
    return texts


def _titles(value: Any, count: int, where: str) -> list[str]:
    """One title for every positive; a single one belongs to all of them."""
    titles = value if isinstance(value, list) else [value] * count
    titles = ["" if title is None else title for title in titles]
    if len(titles) != count or not all(isinstance(title, str) for title in titles):
        raise UserError(f"{where}: the title must be a text, or a list with one for every positive")
    return titles
