"""Background work of the server: playing a path, and rendering one video at a time."""

import threading
import time
from collections.abc import Callable


class Player:
    """Calls `show(frame)` at a steady rate until the path ends or it is paused; a new start ends the previous one."""

    def __init__(self) -> None:
        self._pause: threading.Event | None = None

    @property
    def playing(self) -> bool:
        """Whether frames are being shown."""
        return self._pause is not None and not self._pause.is_set()

    def start(self, first: int, frames: int, fps: float, show: Callable[[int], None]) -> None:
        """Show frames `first` to `frames` - 1, in a thread."""
        self.pause()
        pause = self._pause = threading.Event()

        def run() -> None:
            # The position follows the clock, not the number of updates: slow links skip frames.
            started = time.monotonic()
            shown = first - 1
            while not pause.is_set() and shown < frames - 1:
                due = first + int((time.monotonic() - started) * fps)
                if due > shown:
                    shown = min(due, frames - 1)
                    show(shown)
                pause.wait(0.25 / fps)
            pause.set()

        threading.Thread(target=run, name="cus-view player", daemon=True).start()

    def pause(self) -> None:
        """Pause playback."""
        if self._pause is not None:
            self._pause.set()


class Stopped(Exception):
    """Raised inside a job that has been stopped."""


class OneAtATime:
    """Runs a job in a thread; refuses another while it is running."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, job: Callable[[Callable[[], None]], None]) -> bool:
        """Run `job(check)` in a thread; False if one is running. `check()` raises `Stopped` after `stop`."""
        if not self._busy.acquire(blocking=False):
            return False
        self._stop.clear()

        def check() -> None:
            if self._stop.is_set():
                raise Stopped

        def run() -> None:
            try:
                job(check)
            except Stopped:
                pass
            finally:
                self._busy.release()

        self._thread = threading.Thread(target=run, name="cus-view recording", daemon=True)
        self._thread.start()
        return True

    def cancel(self) -> None:
        """Tell the job to stop."""
        self._stop.set()

    def stop(self) -> None:
        """Tell the job to stop, and wait up to a second; its thread does not keep the process alive."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(timeout=1)
