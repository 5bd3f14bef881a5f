"""Runs one command a case in a forked child: nothing is imported twice, and whatever happens stays in the child.

A case is a folder with files made for it, and the arguments of a command. It passes when the command ends by itself
within the limits, with the status that is right for what it was given, and says on stderr what a person needs.
"""

import importlib
import os
import re
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
SECONDS, BYTES = 20.0, 2 * 2**30
# Of an error: some list the first differences of a checkpoint.
LINES = 12
# Beyond the limit, so that a case that passes it is seen to, and does not take the machine with it.
_ADDRESS_SPACE = 6 * 2**30
Expected = Literal["refused", "usable", "either"]
"""What is right: status 2 with an error, status 0, or either of them."""


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        family: what it belongs to, such as "splats".
        name: what is wrong in it.
        command: such as "cus-view", or a script such as "train/unet.py".
        arguments: of the command; paths are relative to the case's folder.
        make: writes its files into the folder, which is there.
        expected: what is right.
        note: pattern that stderr must hold where the command goes through.
        quick: belongs to the part that is run with every test.
    """

    family: str
    name: str
    command: str
    arguments: tuple[str, ...]
    make: Callable[[Path], object] = field(default=lambda folder: None)
    expected: Expected = "refused"
    note: str = ""
    quick: bool = False

    @property
    def id(self) -> str:
        """Names the case in tables and tests."""
        return f"{self.family}: {self.command}: {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What a case did.

    Attributes:
        case: which.
        faults: what is wrong with it; empty where all is well.
        status: exit status, or minus the signal that ended it.
        seconds: it took.
        bytes: of memory that it held at its peak, the libraries' included.
        stderr: what it printed.
    """

    case: Case
    faults: tuple[str, ...]
    status: int
    seconds: float
    bytes: int
    stderr: str


def import_everything() -> None:
    """What the children use, without starting any thread: those would not live on in them."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    for name in ("infer", "fit", "eval", "view", "export", "convert", "push"):
        importlib.import_module(f"cus.cli.{name}")
    for name in (
        "cus.inference", "cus.inference.refit", "cus.inference.photo_fit", "cus.inference.exports", "cus.viewer",
        "cus.evaluation.runner", "cus.lvdm", "cus.hub.publish", "cus.training.loop", "cus.training.unet",
        "cus.training.vae", "cus.training.decoder", "cus.datasets.scenes", "cus.estimators.sfm", "cv2", "pycolmap",
    ):  # fmt: skip
        importlib.import_module(name)


def run(case: Case, folder: Path) -> Outcome:
    """Make the case's files in a new folder, run its command there, and judge what it did."""
    folder.mkdir(parents=True)
    case.make(folder)
    output = folder.with_suffix(".err")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(case, folder, output)
    status, peak, stopped = _wait(child, started)
    seconds = time.monotonic() - started
    stderr = output.read_text(errors="replace") if output.exists() else ""
    return Outcome(case, _faults(case, status, stopped, stderr), status, seconds, peak, stderr)


def _become(case: Case, folder: Path, output: Path) -> None:
    """The child: never returns."""
    status = 1
    try:
        os.setsid()
        stream = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, source in ((0, nothing), (1, nothing), (2, stream)):
            os.dup2(source, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _ADDRESS_SPACE,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        status = _called(case)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _called(case: Case) -> int:
    arguments = list(case.arguments)
    if case.command.startswith("cus-"):
        return importlib.import_module(f"cus.cli.{case.command.removeprefix('cus-')}").main(arguments)
    sys.argv = [case.command, *arguments]
    runpy.run_path(str(ROOT / case.command), run_name="__main__")
    return 0


def _wait(child: int, started: float) -> tuple[int, int, str]:
    """Exit status, peak of memory, and why it was stopped, if it was.

    On a machine that others use, too, a process may stand still for a while: its own seconds count, and those in which
    it waits for something.
    """
    peak, stopped, busy, moved = 0, "", 0.0, started
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), peak, stopped
        seconds, resident, waiting = _state(child)
        now = time.monotonic()
        if seconds > busy or not waiting:
            busy, moved = seconds, now
        peak = max(peak, resident)
        if not stopped and (peak > BYTES or busy + (now - moved) > SECONDS):
            stopped = "memory" if peak > BYTES else "hang"
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)


def _state(pid: int) -> tuple[float, int, bool]:
    """Seconds of processor time, bytes of memory, and whether it waits."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0, False
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), fields[0] != "R"


def _faults(case: Case, status: int, stopped: str, stderr: str) -> tuple[str, ...]:
    if stopped:
        return (stopped,)
    found = []
    if "Traceback (most recent call last)" in stderr or "Fatal Python error" in stderr:
        found.append("traceback")
    right = {"refused": (2,), "usable": (0,), "either": (0, 2)}[case.expected]
    if status not in right:
        found.append(f"status {status}")
    if status == 2:
        message = stderr.rpartition("error:")[2].strip()
        if not message:
            found.append("silent")
        elif len(message.splitlines()) > LINES:
            found.append(f"error of {len(message.splitlines())} lines")
    if status == 0 and case.note and not re.search(case.note, stderr):
        found.append("silent")
    return tuple(found)
