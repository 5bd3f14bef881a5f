"""A headless Chromium that a test looks through and clicks in, by the DevTools protocol."""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic "
    "--no-first-run --disable-background-networking --disable-component-update --disable-sync --remote-debugging-port=0"
).split()


class Browser:
    """One page."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.sent = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol and its result."""
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == self.sent:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, label: str) -> None:
        """Click the button with that text, once it can be."""
        named = f"b => b.textContent.trim() === {json.dumps(label)} && !b.disabled"
        found = f"[...document.querySelectorAll('button')].find({named})"
        wait_until(lambda: self.evaluate(f"!!{found}"), f"button {label}")
        self.evaluate(f"{found}.click()")

    def choose(self, current: str, option: str) -> None:
        """Open the list that shows `current`, and choose an option."""
        self.evaluate(f"[...document.querySelectorAll('input')].find(i => i.value === {json.dumps(current)}).click()")
        found = f"[...document.querySelectorAll('[role=option]')].find(o => o.textContent === {json.dumps(option)})"
        wait_until(lambda: self.evaluate(f"!!{found}"), f"option {option}")
        self.evaluate(f"{found}.click()")

    def click(self, x: float, y: float) -> None:
        """Click a place of the page, in pixels."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def text(self) -> str:
        """What the page says."""
        return self.evaluate("document.body.innerText") or ""

    def screenshot(self, path: Path) -> None:
        """The page as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def wait_until(condition: Any, what: str, seconds: float = 40) -> Any:
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


@contextlib.contextmanager
def opened(address: str, folder: Path, size: tuple[int, int] = (1000, 640)) -> Iterator[Browser]:
    """A browser that shows a page; its profile lies in `folder`."""
    from websockets.sync.client import connect

    assert CHROMIUM is not None
    log = folder / "chromium.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}", address],
            stderr=stream,
            stdout=stream,
            env=os.environ | {"HOME": str(folder)},
        )
    try:
        port = wait_until(lambda: re.search(r"DevTools listening on ws://[^:]+:(\d+)/", log.read_text()), "DevTools")[1]
        page = wait_until(lambda: _page_of(port), "the page")
        with connect(page, max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _page_of(port: str) -> str | None:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
        pages = [entry for entry in json.load(answer) if entry["type"] == "page" and entry["url"].startswith("http")]
    return pages[0]["webSocketDebuggerUrl"] if pages else None
