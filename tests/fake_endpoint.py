"""A local server that speaks POST /v1/chat/completions, with faults on demand; it counts its calls by passage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.http_server import LocalHandler, LocalServer


@dataclass(frozen=True)
class Reply:
    """What is sent: a status and a body, after `delay` seconds; or, with `cut`, half of it and a reset."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


def says(content: Any, delay: float = 0.0) -> Reply:
    """A whole answer of a model."""
    message = {"role": "assistant", "content": content}
    body = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return Reply(body=json.dumps(body).encode(), delay=delay)


def refuses(status: int, message: str = "no", **headers: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), headers)


TOO_MANY = refuses(429, "slow down", Retry_After="0")
SERVER_ERROR = refuses(500, "out of memory")
HANG = Reply(delay=60.0)
CUT = Reply(body=b"x" * 1000, cut=True)
BROKEN_JSON = Reply(body=b'{"choices": [{"message": {"cont')
NO_LIST = says("I am sorry, but I cannot help with that.")
EMPTY = says("")


def two_queries(passage: str, seed: int) -> Reply:
    """The usual answer: it depends on what is asked and on nothing else."""
    return says(json.dumps([f"what is said of {passage}", f"who asks for {passage} by {seed}"]))


class FakeEndpoint(LocalServer):
    """A context: `with FakeEndpoint() as server: ... server.url`.

    Args:
        script: passage -> replies to its first calls; "*" stands for every passage that is not named.
        answer: (passage, seed) -> the reply to all other calls.
    """

    def __init__(
        self,
        script: dict[str, Sequence[Reply]] | None = None,
        answer: Callable[[str, int], Reply] = two_queries,
    ) -> None:
        super().__init__(self._handler())
        self.url += "/v1"
        self.script, self.answer = script or {}, answer
        self.calls: Counter[str] = Counter()
        """Passage -> calls; a passage is what stands after the prompt's last `Passage:`."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0

    def _next(self, headers: dict[str, str], asked: dict[str, Any]) -> Reply:
        passage = asked["messages"][-1]["content"].rpartition("Passage:")[2].strip()
        with self._lock:
            self.requests.append(asked)
            self.headers.append(headers)
            call = self.calls[passage]
            self.calls[passage] += 1
        scripted = self.script.get(passage, self.script.get("*", ()))
        return scripted[call] if call < len(scripted) else self.answer(passage, asked["seed"])

    def _handler(self) -> type[LocalHandler]:
        fake = self

        class Handler(LocalHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.body())
                if self.path != "/v1/chat/completions":
                    return self._say(refuses(404, "Not Found"))
                with fake._lock:
                    fake.at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake.at_once)
                try:
                    reply = fake._next(dict(self.headers), asked)
                    fake._closing.wait(reply.delay)
                finally:
                    with fake._lock:
                        fake.at_once -= 1
                return self._say(reply)

            def _say(self, reply: Reply) -> None:
                self.send(reply.status, reply.body, reply.headers, half=reply.cut)

        return Handler
