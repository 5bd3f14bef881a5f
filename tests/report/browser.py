"""A headless Chromium, spoken to over its debugging pipe: pages from the file system, real events, screenshots."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FLAGS = [
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
# The browser reads descriptor 3 and writes descriptor 4; ours go there just before it starts.
MOVE_DESCRIPTORS = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One page. `problems` collects what it logs as errors and warnings, `requests` every address it asks for."""

    def __init__(self, folder: Path, *flags: str, timeout: float = 40.0) -> None:
        binary = find_chromium()
        assert binary is not None
        self.deadline = timeout
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._buffer = b""
        self._ids = itertools.count(1)
        self._results: dict[int, dict[str, Any]] = {}
        from_us, self._out = os.pipe()
        self._in, to_us = os.pipe()
        arguments = [binary, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags]
        command = [sys.executable, "-c", MOVE_DESCRIPTORS, str(from_us), str(to_us), *arguments]
        self._process = subprocess.Popen(
            command, pass_fds=(from_us, to_us), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired, TimeoutError):
            self._process.kill()
            self._process.wait(10)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the browser's debugging protocol."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self.deadline
        while number not in self._results:
            self._receive(until)
        answer = self._results.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self, until: float) -> None:
        ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError("the browser does not answer")
        data = os.read(self._in, 2**20)
        if not data:
            raise OSError("the browser has ended")
        *whole, self._buffer = (self._buffer + data).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self._results[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])

    def open(self, path: Path, width: int = 900, height: int = 700, scale: float = 1.0, mobile: bool = False) -> None:
        """Open a file in a window of that many CSS pixels and wait until it has loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get(
            "value"
        )

    def wait(self, condition: str) -> None:
        """Until an expression in the page is true."""
        until = time.monotonic() + self.deadline
        while self.evaluate(condition) is not True:
            if time.monotonic() > until:
                raise TimeoutError(f"never came true: {condition}; the page says {self.problems}")
            time.sleep(0.05)

    def screenshot(self, whole: bool = False) -> np.ndarray:
        """[H, W, 3] uint8 RGB of the window, or of the whole page."""
        encoded = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None, "the browser's own PNG decodes"
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event: mousePressed, mouseMoved, mouseReleased or mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(
        self, start: tuple[float, float], end: tuple[float, float], button: str = "left", modifiers: int = 0
    ) -> None:
        """Press at `start`, move, release at `end` (CSS pixels)."""
        held = {"button": button, "modifiers": modifiers}
        self.mouse("mousePressed", *start, clickCount=1, **held)
        for share in (0.5, 1.0):
            at = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
            self.mouse("mouseMoved", *at, buttons={"left": 1, "right": 2}[button], **held)
        self.mouse("mouseReleased", *end, clickCount=1, **held)

    def key(self, code: str, key: str) -> None:
        """A key down and up."""
        self.call("Input.dispatchKeyEvent", type="keyDown", code=code, key=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", code=code, key=key)
