"""Answers that were paid for, on disk: one line each, appended as they come."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path

from bgetune.files import sha256_json

ANSWERS = "answers.jsonl"


def answer_key(model: str, prompt: str, temperature: float, max_tokens: int, seed: int) -> str:
    """SHA-256 of all that decides an answer. Where the model is served is not part of it.

    >>> answer_key("m", "Hello", 0.7, 256, 0)[:12]
    '155b2163ac11'
    """
    decides = {"model": model, "prompt": prompt, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    return sha256_json(decides)


class AnswerCache:
    """A folder with one JSONL file of {"key", "queries"}; safe under SIGKILL and with several writers.

    A line is handed to the system before `add` returns, so a killed process loses none. A kill inside a write leaves
    a torn line: readers skip it, the next `add` starts a new line after it. Of several lines with one key the first
    counts, for every reader and for ever.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / ANSWERS

    def read(self) -> dict[str, list[str]]:
        """Key -> queries, of every whole line."""
        found: dict[str, list[str]] = {}
        if self.path.exists():
            with open(self.path, "rb") as file:
                for line in file:
                    entry = _parsed(line)
                    if entry is not None:
                        found.setdefault(*entry)
        return found

    def add(self, key: str, queries: Sequence[str]) -> None:
        """Append one answer. Raises OSError where the disk is full or the folder read-only."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "queries": list(queries)}, ensure_ascii=False) + "\n"
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # under the lock, an end without a newline was left by the dead
            file.write((b"" if _ends_a_line(file.fileno()) else b"\n") + line.encode())
            file.flush()


def _ends_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _parsed(line: bytes) -> tuple[str, list[str]] | None:
    """None for a line that was torn, by a kill or by a power cut."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: also bytes that are no UTF-8
        return None
    if not isinstance(row, dict):
        return None
    key, queries = row.get("key"), row.get("queries")
    if not isinstance(key, str) or not isinstance(queries, list) or not queries:
        return None
    return (key, queries) if all(isinstance(query, str) for query in queries) else None
