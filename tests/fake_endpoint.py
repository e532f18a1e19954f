"""A local server that speaks POST /v1/chat/completions, with faults on demand; it counts its calls by passage."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), named)


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


class FakeEndpoint:
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
        self.script, self.answer = script or {}, answer
        self.calls: Counter[str] = Counter()
        """Passage -> calls; a passage is what stands after the prompt's last `Passage:`."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _next(self, headers: dict[str, str], asked: dict[str, Any]) -> Reply:
        passage = asked["messages"][-1]["content"].rpartition("Passage:")[2].strip()
        with self._lock:
            self.requests.append(asked)
            self.headers.append(headers)
            call = self.calls[passage]
            self.calls[passage] += 1
        scripted = self.script.get(passage, self.script.get("*", ()))
        return scripted[call] if call < len(scripted) else self.answer(passage, asked["seed"])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != "/v1/chat/completions":
                    return self.send(refuses(404, "Not Found"))
                with fake._lock:
                    fake.at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake.at_once)
                try:
                    reply = fake._next(dict(self.headers), asked)
                    fake._closing.wait(reply.delay)
                finally:
                    with fake._lock:
                        fake.at_once -= 1
                return self.send(reply)

            def send(self, reply: Reply) -> None:
                try:
                    self.send_response(reply.status)
                    for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
                    if reply.cut:  # closed with lingering off, the kernel sends a reset
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.close_connection = True
                except OSError:  # the client is gone: killed, or tired of waiting
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler
