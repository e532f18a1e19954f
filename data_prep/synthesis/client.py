"""One question to an OpenAI-compatible endpoint over HTTP: its answer, or what went wrong and whether to try again."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from bgetune.config_data import SynthesizeConfig
from bgetune.errors import UserError

_SECRET_LENGTH = 16
"""Shorter keys, such as EMPTY for a local server, are words that may well stand in an answer."""
_CONNECT_SECONDS = 10.0


class Failed(Exception):
    """A request without an answer.

    `again`: another try may succeed; `wait`: seconds that the server asks for; `unreachable`: nobody was there;
    `broken`: the model answered, with nothing that can be used.
    """

    def __init__(
        self,
        reason: str,
        again: bool = True,
        wait: float | None = None,
        unreachable: bool = False,
        broken: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait = reason, again, wait
        self.unreachable, self.broken = unreachable, broken


class Endpoint:
    """POST {url}/chat/completions, as an async context.

    The key is read from the environment once, goes into the header of each request and nowhere else: it is taken out
    of all that a server says before anybody sees it.

    Raises:
        UserError: synthesize.url is no URL; synthesize.api_key_env is no name, or its value no key.
    """

    def __init__(self, settings: SynthesizeConfig) -> None:
        self._settings = settings
        self._url = chat_url(settings.url or "")
        self._key = _key(settings.api_key_env)
        self.shown = shown_url(settings.url or "")

    async def __aenter__(self) -> Endpoint:
        seconds = self._settings.timeout
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=self._settings.concurrency),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, prompt: str, seed: int) -> str:
        """The text of one answer.

        Raises:
            Failed: no answer this time.
            UserError: the server says that the URL, the key or the model is wrong.
        """
        asked = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._settings.temperature,
            "max_tokens": self._settings.max_tokens,
            "seed": seed,
        }
        try:
            # httpx counts each read by itself: a server that trickles would never time out
            response = await asyncio.wait_for(self._client.post(self._url, json=asked), self._settings.timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise Failed(self._without_key(str(error)) or "no connection", unreachable=True) from None
        except (asyncio.TimeoutError, httpx.TimeoutException):
            raise Failed(f"no answer within {self._settings.timeout:g} seconds") from None
        except httpx.HTTPError as error:
            raise Failed(f"the connection broke ({type(error).__name__})") from None
        self._refuse(response)
        return self._content(response)

    def _refuse(self, response: httpx.Response) -> None:
        status, settings = response.status_code, self._settings
        if status == 200:
            return
        said = self._said(response) if status != 401 else ""  # there servers like to repeat a part of the key
        if status in (401, 402, 403):
            raise UserError(f"synthesize.api_key_env: {self.shown} answered {status}{said}; {self._key_advice()}")
        if status in (404, 405) or 300 <= status < 400:
            raise UserError(
                f"synthesize.url: {self.shown} answered {status}{said}; synthesize.url is what stands before "
                f'/chat/completions, mostly ending in /v1, and synthesize.model, now "{settings.model}", a name that '
                "the server knows"
            )
        again = status in (408, 409, 425, 429) or status >= 500
        raise Failed(f"HTTP {status}{said}", again, retry_after(response.headers.get("Retry-After")))

    def _key_advice(self) -> str:
        name = self._settings.api_key_env
        if self._key is None:
            # a key that was put here by mistake is not repeated
            named = name if name.isupper() else "that it names"
            return f"the environment variable {named} is not set; set it to your key"
        return (
            f"check the key in the environment variable {name}, and that its account may use synthesize.model "
            f'"{self._settings.model}"'
        )

    def _content(self, response: httpx.Response) -> str:
        try:
            body = response.json()
        except (ValueError, RecursionError):
            raise Failed("the body of the answer is not valid JSON") from None
        try:
            content = body["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            reason = f"the answer has no choices[0].message.content{self._said(response)}"
            raise Failed(reason) from None
        if isinstance(content, list):  # parts, as some servers send them
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        if not isinstance(content, str) or not content.strip():
            raise Failed("the answer is empty", broken=True)
        secret = self._key is not None and len(self._key) >= _SECRET_LENGTH
        return self._without_key(content) if secret else content

    def _said(self, response: httpx.Response) -> str:
        """The server's own words in brackets, at most 160 characters, or nothing."""
        try:
            words = _message(response.json())
        except (ValueError, RecursionError):
            words = ""
        words = " ".join(self._without_key(words).split())
        return f" ({words[:160]})" if words else ""

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _message(body: Any) -> str:
    """OpenAI's {"error": {"message"}}, and what others make of it."""
    if isinstance(body, dict):
        for key in ("error", "message", "detail"):
            if key in body:
                return _message(body[key])
    return body if isinstance(body, str) else ""


def chat_url(url: str) -> str:
    """Where questions go; raises UserError for what is no URL.

    >>> chat_url("http://localhost:8000/v1/")
    'http://localhost:8000/v1/chat/completions'
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(httpx.URL(url).host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        good = False
    if not good:
        raise UserError(
            f'synthesize.url: "{shown_url(url)}" is no address of a server; give one such as http://localhost:8000/v1'
        )
    if parts.username or parts.password:
        raise UserError(
            "synthesize.url: it holds a user or password; remove it and put the key into the environment variable that "
            "synthesize.api_key_env names"
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/chat/completions"))


def shown_url(url: str) -> str:
    """The URL without the parts that may hold a secret.

    >>> shown_url("https://me:secret@host:1/v1?key=secret")
    'https://host:1/v1'
    """
    return re.sub(r"[?#].*$|(?<=//)[^/@]*@", "", url)


def _key(name: str) -> str | None:
    """The key, or None where the variable is unset or empty."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UserError(
            "synthesize.api_key_env: its value is no name of an environment variable; give the name of the variable "
            "that holds the key, such as OPENAI_API_KEY, and never the key"
        )
    key = os.environ.get(name, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(
            f"synthesize.api_key_env: the environment variable {name} holds spaces or other characters that no key "
            "has; set it again"
        )
    return key or None


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds them or a date (RFC 9110, 10.2.3); None where it says nothing.

    >>> retry_after("2.5"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after("soon")
    (2.5, 0.0, None)
    """
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d*)?", header.strip()):
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())


def wait_before(attempt: int, asked: float | None, jitter: float) -> float:
    """Seconds to wait before try number `attempt` (the first is 0).

    It doubles from half a second to 30 seconds; up to a quarter is added by `jitter`, from 0 to 1, so that those who
    failed together do not come again together. A server's own wish counts when it is longer, up to two minutes.

    >>> wait_before(1, None, 0.0), wait_before(3, None, 1.0), wait_before(60, None, 0.0)
    (0.5, 2.5, 30.0)
    >>> wait_before(1, 7.0, 0.0), wait_before(1, 86400.0, 0.0)
    (7.0, 120.0)
    """
    doubled = min(30.0, 0.5 * 2.0 ** min(attempt - 1, 10))
    return max(doubled, min(asked or 0.0, 120.0)) * (1 + 0.25 * jitter)
