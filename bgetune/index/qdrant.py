"""A Qdrant server or folder: a client for it, patience with a server that is busy, and the ids of points.

Its client is optional: pip install 'bgetune[qdrant]'.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bgetune.errors import UserError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

log = logging.getLogger("bgetune")

MEMORY = ":memory:"
"""The location of collections that end with the program."""
KEY = "QDRANT_API_KEY"
"""The environment variable with a server's key; it is never an option."""
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each further try, where a server is busy or gone: it has a minute to come back."""

_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "bgetune")
_TIMEOUT, _LONGEST_PAUSE = 60, 60.0  # seconds
_BUSY = (408, 429, 500, 502, 503, 504)


class Unfinished(Exception):
    """No mistake of the user's, and not done: one line; what was done so far is kept, and is gone on from."""


def is_local(location: str) -> bool:
    """No server but qdrant-client's local mode, an exact search in Python for tests and small collections.

    >>> is_local(":memory:"), is_local("~/of/mine"), is_local("https://db:6333")
    (True, True, False)
    """
    return not location.startswith(("http://", "https://"))


def shown(location: str) -> str:
    """As it may be printed: without a user and a password.

    >>> shown("http://me:secret@db:6333"), shown("./of/mine")
    ('http://db:6333', './of/mine')
    """
    if is_local(location):
        return location
    scheme, _, rest = location.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def point_id(passage_id: str) -> str:
    """A passage's point is always the same UUID; Qdrant takes nothing but numbers and UUIDs.

    >>> point_id("p1")
    'd7cb3c77-60cb-5866-8e21-d38d5b5ce334'
    """
    return str(uuid.uuid5(_IDS, passage_id))


@contextmanager
def connected(location: str, option: str, waits: Sequence[float] = ()) -> Iterator[QdrantClient]:
    """A client, closed at the end; whatever the server answers within the block is one line, too.

    Args:
        location: `:memory:`, a folder, or a server's URL, whose key is taken from the variable QDRANT_API_KEY.
        option: whose value the location is, for messages.
        waits: seconds before each further try of a request that a busy or an absent server did not answer. An address
            at which nothing answers at first is a mistake, and not tried again.

    Raises:
        UserError: the package is missing, another program holds the folder, no server answers, or it refuses.
        Unfinished: the server went on being busy or absent through all waits.
    """
    try:
        from qdrant_client import QdrantClient
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ImportError:
        what = "qdrant needs the package qdrant-client; run pip install 'bgetune[qdrant]', or leave it out"
        raise UserError(f"{option}: {what}") from None
    where = shown(location)
    folder = str(Path(location).expanduser()) if is_local(location) and location != MEMORY else None
    key = None if is_local(location) else os.environ.get(KEY) or None
    place = None if folder else location
    try:
        client = QdrantClient(place, path=folder, api_key=key, timeout=_TIMEOUT, check_compatibility=False)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{option}: {where}: {one_line(error)}") from None
    try:
        patient = cast("QdrantClient", _Patient(client, where, waits, option)) if waits else client
        try:
            client.get_collections()
        except Exception as error:
            if isinstance(error, ResponseHandlingException) or _pause(error) is None:
                raise
            patient.get_collections()
        yield patient
    except ResponseHandlingException as error:
        what = f"no Qdrant server answers at {where} ({one_line(error)}); start it, or correct the address"
        raise UserError(f"{option}: {what}") from None
    except UnexpectedResponse as error:
        raise UserError(f"{option}: the Qdrant server at {where} refuses ({_refusal(error)})") from None
    except QdrantException as error:
        raise UserError(f"{option}: the Qdrant server at {where} is too busy ({one_line(error)}); try later") from None
    except sqlite3.Error as error:  # of local mode: a full disk, a folder that cannot be written to
        raise UserError(f"{option}: {where}: {one_line(error)}; see to that and run again") from None
    finally:
        client.close()


class _Patient:
    """A client whose requests are sent again while the server is busy or gone.

    All that bgetune asks for may be asked for twice: a point replaces itself, an alias is set to where it is.
    """

    def __init__(self, client: Any, where: str, waits: Sequence[float], option: str) -> None:
        self._client, self._where, self._waits, self._option = client, where, waits, option

    def __getattr__(self, name: str) -> Any:
        return partial(self._asked, getattr(self._client, name))

    def _asked(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        for wait in (*self._waits, None):
            try:
                return call(*args, **options)
            except Exception as error:
                pause, reason = _pause(error), _reason(error)
                if pause is None:
                    raise
            if wait is None:
                break
            seconds = min(max(wait, pause), _LONGEST_PAUSE)
            log.info("%s: %s; asking again in %g s", self._where, reason, seconds)
            time.sleep(seconds)
        raise Unfinished(
            f"{self._option}: the Qdrant server at {self._where} went on failing ({reason}), asked "
            f"{len(self._waits) + 1} times; see to it and run the same command again, it goes on from here"
        )


def _pause(error: Exception) -> float | None:
    """Seconds that a server wants to be left alone, 0 where it says nothing; None: asking again would not help."""
    from pydantic import ValidationError
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    if isinstance(error, QdrantException):  # 429 with a date in Retry-After
        return 0.0
    if isinstance(error, ResponseHandlingException):  # no connection, or an answer of another version
        return None if isinstance(error.source, ValidationError) else 0.0
    return 0.0 if isinstance(error, UnexpectedResponse) and error.status_code in _BUSY else None


def _reason(error: Any) -> str:
    return _refusal(error) if hasattr(error, "structured") else one_line(error) or type(error).__name__


def _refusal(error: Any) -> str:
    """What a server said, and what helps; without the key, should it repeat it."""
    try:
        said = one_line(error.structured()["status"]["error"])
    except (ValueError, LookupError, TypeError):
        said = f"{error.status_code} {error.reason_phrase}"
    if "larger than allowed" in said:
        said += " Raise service.max_request_size_mb in its configuration, or index shorter passages"
    key = os.environ.get(KEY)
    return said.replace(key, "...") if key else said


def one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
