"""Files that are either whole or absent: atomic writes, hashes, JSON with sorted keys."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bgetune.errors import UserError


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open `path` for writing; it appears under its name only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it takes the place of `path` only when the block ends without an error.

    A kill between the two renames leaves the new folder under its temporary name and no `path`; the
    stage that made it then makes it again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        mode = 0o666 & ~_umask()
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                file.chmod(mode)  # safetensors writes for the owner alone
                _flush_to_disk(file)
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield `path` as an empty folder; it goes when the block ends, and first what a killed process left there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def link_or_copy(path: str | Path, target: str | Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, in the given order; returns how many."""
    count = 0
    with atomic_file(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def json_object(text: str, where: str) -> dict[str, Any]:
    """One line of a JSONL file. Raises UserError, with `where`, on anything but an object that can be written again."""
    try:
        row = json.loads(text, parse_constant=_finite, parse_float=_finite)
        lone = "\\ud" in text.lower() and _has_lone_surrogate(row)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply to be read; write flat objects") from None
    except ValueError as error:  # a number: _finite's, or Python's limit of 4,300 digits
        raise UserError(f"{where}: not valid JSON ({str(error).partition(':')[0]})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(row).__name__}")
    if lone:
        raise UserError(f"{where}: an escape \\uD800 to \\uDFFF without its other half; it is no character, remove it")
    return row


def _finite(number: str) -> float:
    """A float of a JSON text; Python would take NaN and Infinity, and 1e999 for infinity."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number[:40]} is no finite number")
    return value


def _has_lone_surrogate(row: Any) -> bool:
    """Valid JSON, but no text: it could be read and never be written again."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_tree(path: Path) -> str:
    """Hash of a file, or of a folder: every file's relative name and content, in sorted order. Absent: "absent"."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return "absent"
    return sha256_digests(tree_digests(path))


def tree_digests(folder: Path) -> dict[str, str]:
    """Name of each file that is not hidden, with slashes -> SHA-256; sorted as paths are, part by part."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def sha256_digests(digests: dict[str, str]) -> str:
    """What `sha256_tree` gives for the folder that has these `tree_digests`."""
    # a name need not be UTF-8
    named = [(os.fsencode(name).decode("utf-8", "backslashreplace"), digest) for name, digest in digests.items()]
    return sha256_json(named)
