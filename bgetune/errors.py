"""How a user's mistake reaches the user: one line on stderr, exit code 2."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import NoReturn

from bgetune.progress import BarHandler


class UserError(Exception):
    """A mistake the user can mend. The message names the option or file:line, the value, and what to do."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake by raising UserError, never by printing usage and exiting."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        hint = did_you_mean(unknown[1], self._option_string_actions) if unknown else ""
        raise UserError(f"{self.prog}: {message}{hint}; --help shows the options")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name.

    >>> did_you_mean("learning_rat", ["learning_rate", "epochs"])
    '; did you mean "learning_rate"?'
    >>> did_you_mean("zzz", ["learning_rate"])
    ''
    """
    close = get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _disk_is_full(error: Exception) -> bool:
    """As Python says it, as safetensors does (Rust's words), and as numpy does (a short write, without a number)."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    words = str(error)
    short_write = isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", words)
    return bool(short_write) or f"(os error {errno.ENOSPC})" in words or f"(os error {errno.EDQUOT})" in words


def _could_not_be_made(path: str) -> bool:
    """Not there, in a folder that can be looked into: only an output is made; an input that is refused is there."""
    return not os.path.lexists(path) and os.access(os.path.dirname(os.path.abspath(path)), os.X_OK)


def explain_os_error(error: Exception) -> str | None:
    """One line for the file-system errors a user can mend, None for the others."""
    where = getattr(error, "filename", None) or "the output folder"
    if _disk_is_full(error):
        return f"{where}: the disk is full; free some room and run the same command again, it goes on from here"
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        if _could_not_be_made(str(where)):
            return f"{where}: no permission; choose an `output` folder that you may write to"
        return f"{where}: cannot be read or written; check its permissions"
    if error.errno == errno.ENOENT:
        return f"{where}: no such file or folder"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return f"{where}: {os.strerror(error.errno)}; move it away or choose another path"
    return None


def exit_code(program: Callable[[], int | None]) -> int:
    """Run a program; turn a user's mistake into one line and 2, an interrupt into 130."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[BarHandler()])
    for noisy in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "huggingface_hub",
        "datasets",
        "bm25s",
        "faiss",
        "sentence_transformers",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return program() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        line = explain_os_error(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from here", file=sys.stderr)
        return 130
