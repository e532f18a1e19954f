"""What the tests' local HTTP servers share: a port, a thread, and answers that may be cut off half-way."""

from __future__ import annotations

import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

_Server = TypeVar("_Server", bound="LocalServer")


class LocalServer:
    """A context: `with ... as server: ... server.url`; its port is taken before, answers come in the context alone."""

    def __init__(self, handler: type[LocalHandler]) -> None:
        self._lock = threading.RLock()
        self._closing = threading.Event()  # a delayed answer waits on it no longer than the context lasts
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self: _Server) -> _Server:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class LocalHandler(BaseHTTPRequestHandler):
    """One connection; a subclass says what is answered."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client to acknowledge its headers

    def body(self) -> bytes:
        """All that the request carries."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, content: bytes, headers: dict[str, str], half: bool = False) -> None:
        """Answer, in JSON unless `headers` say else (`Retry_After` goes as Retry-After); `half`: half, then a reset."""
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if half else content)
        except OSError:  # the client is gone: killed, or tired of waiting
            self.close_connection = True
        if half:
            time.sleep(0.01)  # the first half arrives; then the reset
            self.reset()

    def reset(self) -> None:
        """End the connection with a reset: the kernel sends one for a socket closed with lingering off."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
