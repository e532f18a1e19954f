"""The Hub's token: where it comes from, and how it stays out of everything that is said or written."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from bgetune.errors import UserError

log = logging.getLogger("bgetune")

_HOW = "set HF_TOKEN, or run `hf auth login`, with a token that may write (https://huggingface.co/settings/tokens)"


def hub_token(option: str) -> str:
    """The token of the environment (HF_TOKEN), else of the usual login.

    Args:
        option: what asks for it, for the message.

    Raises:
        UserError: there is none, or it holds what no token has.
    """
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UserError(f"{option}: there is no token of the Hugging Face Hub; {_HOW}")
    if not re.fullmatch(r"[!-~]+", token):
        raise UserError(f"{option}: the token of the Hub holds spaces or other characters that no token has; {_HOW}")
    return token


def redacted(text: str, token: str | None = None) -> str:
    """The text without the token, and without what else lets somebody in: users and queries of addresses, other tokens.

    >>> redacted("PUT https://me:pw@host/a?X-Amz-Signature=1f: Bearer abcdef", "abcdef")
    'PUT https://***@host/a?***: Bearer ***'
    >>> redacted("the token hf_AbCdEfGhIjKl is unknown")
    'the token *** is unknown'
    """
    if token:
        text = text.replace(token, "***")
    text = re.sub(r"(?<=://)[^/\s@]+@", "***@", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")>:,]*", r"\1?***", text)
    text = re.sub(r"(?i)\b([\w-]*(?:signature|credential|token|secret|key)[\w-]*=)[^\s&'\")]+", r"\1***", text)
    text = re.sub(r"(Bearer|Basic) [\w.~+/=-]+", r"\1 ***", text)
    return re.sub(r"\bhf_\w{6,}", "***", text)


class _Redacting(logging.Handler):
    """Says what the Hub's library says in our log, without the token."""

    def __init__(self, token: str) -> None:
        super().__init__(logging.WARNING)
        self._token = token

    def emit(self, record: logging.LogRecord) -> None:
        said = " ".join(redacted(record.getMessage(), self._token).split())
        log.log(logging.INFO, "the Hub's client: %s", said)


@contextmanager
def redacted_log(token: str) -> Iterator[None]:
    """Within it, the lines of huggingface_hub (which waits it makes, and why) go through us."""
    logger = logging.getLogger("huggingface_hub")
    before, propagated = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [_Redacting(token)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated


def repository_name(name: str, option: str) -> str:
    """ORG/NAME as the Hub allows it; raises UserError for anything else, and repeats no secret that is in it.

    >>> repository_name("my-org/bge-clinic", "--push")
    'my-org/bge-clinic'
    """
    part = r"(?!.*(--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?"
    good = re.fullmatch(f"{part}/{part}", name, re.ASCII) and not name.endswith((".git", ".ipynb"))
    if not good or redacted(name) != name or name == os.environ.get("HF_TOKEN"):
        shown = "its value (not repeated: it may be a secret)" if _may_be_secret(name) else repr(name)
        raise UserError(
            f"{option}: {shown} is no repository; write ORG/NAME, such as my-org/bge-clinic, and no address"
        )
    return name


def _may_be_secret(name: str) -> bool:
    return "/" not in name or any(sign in name for sign in ("@", ":", "?", "hf_"))


def branch_name(name: str, option: str) -> str:
    """A branch as git allows it, or `refs/pr/N`, an open pull request; raises UserError for anything else.

    >>> branch_name("v1.0", "--revision"), branch_name("refs/pr/3", "--revision")
    ('v1.0', 'refs/pr/3')
    """
    good = re.fullmatch(r"(?![-./])(?!.*(\.\.|//|/\.|\.lock$|[./]$))[\w./-]{1,200}", name, re.ASCII)
    if not good or (name.startswith("refs/") and not re.fullmatch(r"refs/pr/\d+", name)) or redacted(name) != name:
        raise UserError(f"{option}: {redacted(name)!r} is no name of a branch; use letters, digits, dots and dashes")
    return name
