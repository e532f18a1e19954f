"""A headless Chromium that tests drive, over DevTools' pipe: no package and no port is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
)
_PATIENCE = 60.0  # seconds for one answer: the machine may be busy

INSTALLED = _PROGRAM is not None


class Page:
    """One tab. Commands are DevTools' (https://chromedevtools.github.io/devtools-protocol/)."""

    def __init__(self, browser: _Pipe, session: str) -> None:
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> Any:
        return self._browser.command(method, params, self._session)

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Load a file in a window of that size and wait until it is there."""
        self._load("about:blank")  # so that the page before is not laid out anew
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.command("Emulation.setScriptExecutionDisabled", value=not script)
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._load(path.resolve().as_uri())

    def _load(self, address: str) -> None:
        self._browser.events.clear()
        self.command("Page.navigate", url=address)
        self._browser.wait_for("Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """The value of an expression in the page; AssertionError where it throws."""
        found = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of the first element that fits."""
        x, y = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center', inline: 'center'});"
            "const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        for kind in ("keyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.command("Input.insertText", text=text)

    def screenshot(self, path: Path, full: bool = True) -> None:
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(shot["data"]))

    def events(self, method: str) -> list[dict[str, Any]]:
        """What happened since the page was opened."""
        return [event["params"] for event in self._browser.events if event.get("method") == method]


class _Pipe:
    """DevTools' messages: JSON with a NUL after each, to the browser's descriptor 3 and from its 4."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._held, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def command(self, method: str, params: dict[str, Any], session: str | None = None) -> Any:
        self._number += 1
        message = {
            "id": self._number,
            "method": method,
            "params": params,
            **({"sessionId": session} if session else {}),
        }
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            got = self._message()
            if got.get("id") == self._number:
                assert "error" not in got, (method, got["error"])
                return got["result"]
            self.events.append(got)

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._message())

    def _message(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            got = os.read(self._read, 1 << 20)
            assert got, "Chromium has ended"
            self._held += got
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)


def _pipe() -> tuple[int, int]:
    """Read and write end, both above the numbers that the browser uses."""
    ends = os.pipe()
    above = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return above[0], above[1]


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with one empty tab; it has ended and left nothing behind when the block ends."""
    assert _PROGRAM is not None
    (to_read, to_write), (from_read, from_write) = _pipe(), _pipe()
    profile = tempfile.mkdtemp(prefix="chromium-")
    nowhere = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    actions = [(os.POSIX_SPAWN_DUP2, to_read, 3), (os.POSIX_SPAWN_DUP2, from_write, 4), nowhere]
    command = [_PROGRAM, *_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    process = os.posix_spawn(_PROGRAM, command, dict(os.environ), file_actions=actions, setpgroup=0)
    for end in (to_read, from_write):
        os.close(end)
    try:
        pipe = _Pipe(to_write, from_read)
        tabs = pipe.command("Target.getTargets", {})["targetInfos"]
        tab = next((one["targetId"] for one in tabs if one["type"] == "page"), None)
        tab = tab or pipe.command("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = pipe.command("Target.attachToTarget", {"targetId": tab, "flatten": True})["sessionId"]
        yield Page(pipe, session)
    finally:
        for end in (to_write, from_read):
            os.close(end)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        shutil.rmtree(profile, ignore_errors=True)
