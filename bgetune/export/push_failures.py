"""What can go wrong on the Hub, as one line: the user's to mend, or a server's, which another try may find well."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from bgetune.errors import UserError
from bgetune.export.push_secret import redacted

_AGAIN = (408, 409, 412, 425, 429)
_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "h11", "hf_xet")
_SETTINGS = "https://huggingface.co/settings/tokens"


class PushFailed(Exception):
    """A push that is not complete, through no fault of the user's. One line.

    `wait`: seconds that the server asks for before another try.
    """

    def __init__(self, line: str, wait: float = 0.0) -> None:
        super().__init__(line)
        self.wait = wait


def failure_of(error: Exception, what: str, repository: str, token: str) -> Exception | None:
    """What to raise in place of an error of the Hub's client; None where it is none of the Hub's.

    A PushFailed may go away by itself, a UserError does not.

    Args:
        what: was being done, such as `commit to main`.
    """
    for each in _chain(error):
        if "Invalid metadata in README.md" in str(each):
            said = " ".join(redacted(str(each), token).split())
            return UserError(f"{what}: the Hub refuses the card: {said}; mend export.license or export.language")
    for each in _chain(error):
        if (status := _status(each)) is not None:
            return _of_status(status, getattr(each, "response", None), what, repository, _said(each, status, token))
    for each in _chain(error):
        name = type(each).__name__
        if name == "OfflineModeIsEnabled":
            return UserError(f"{what}: HF_HUB_OFFLINE is set, so that the Hub is not asked; unset it to push")
        if isinstance(each, json.JSONDecodeError):
            return PushFailed(f"{what}: the server's answer is not JSON; is HF_ENDPOINT a Hub?")
        if _is_connection(each):
            said = " ".join(redacted(str(each), token).split())[:160]
            return PushFailed(f"{what}: the connection broke ({name}{': ' if said else ''}{said})")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and type(error).__module__.startswith("hf_xet"):  # it tells the status in words alone
        match = re.search(r"\b([45]\d\d)\b", str(error))
        status = int(match[1]) if match else None
    return status if isinstance(status, int) else None


def _is_connection(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(libraries.intersection(_LIBRARIES)) or "Consistency check failed" in str(error) or _of_xet(error)


def _of_xet(error: BaseException) -> bool:
    """hf_xet raises RuntimeError for what its servers and the network do."""
    return isinstance(error, RuntimeError) and bool(re.search("(?i)xet|cas |reqwest|data processing", str(error)))


def _said(error: BaseException, status: int, token: str) -> str:
    """The server's own words in brackets, at most 160 characters; none of a 401, where servers repeat the token."""
    words = getattr(error, "server_message", None) or ""
    if status == 401 or not isinstance(words, str):
        return ""
    words = " ".join(redacted(words, token).split())[:160]
    return f" ({words})" if words else ""


def _of_status(status: int, response: Any, what: str, repository: str, said: str) -> Exception:
    if status in _AGAIN or status >= 500:
        return PushFailed(f"{what}: the Hub answers {status}{said}", wait=_retry_after(response))
    if status == 401:
        return UserError(f"{what}: the Hub does not know the token (401); make one that may write at {_SETTINGS}, then "
                         "set HF_TOKEN or run `hf auth login`")  # fmt: skip
    if status in (402, 403):
        return UserError(f"{what}: the token may not do that in {repository} ({status}){said}; take one with write "
                         f"permission for it from {_SETTINGS}, name a repository of yours, or try --pr")  # fmt: skip
    if status == 404:
        return UserError(f"{what}: {repository} or its branch is not there (404){said}; check the name, and that the "
                         "token may see it")  # fmt: skip
    return UserError(f"{what}: the Hub refuses it ({status}){said}")


def _retry_after(response: Any) -> float:
    """Seconds of the Retry-After header; 0 where there is none.

    >>> from types import SimpleNamespace
    >>> _retry_after(SimpleNamespace(headers={"Retry-After": "7"})), _retry_after(None)
    (7.0, 0.0)
    """
    told = getattr(response, "headers", {}).get("Retry-After", "") or ""
    return float(told) if re.fullmatch(r"\d{1,6}(\.\d+)?", told.strip()) else 0.0
