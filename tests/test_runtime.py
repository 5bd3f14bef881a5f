import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cus.runtime import Interrupts, Terminated, exit_status, signal_handlers_kept

WAITING = """
import sys, time
from cus.cli.command import Telling, guarded
{before}
def work():
    {work}
sys.exit(guarded(work, Telling("cus-test"), final=True))
"""


def ended_by(number: int, work: str, before: str = "", times: int = 1) -> tuple[int, str, float]:
    """Exit status, standard error and seconds until the end of a command that gets a signal once it says "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(before=before, work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    started = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.5 * (times - 1))
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, errors, time.monotonic() - started


WAIT = "print('ready', flush=True); time.sleep(20)"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_one_line_and_its_own_status(number, status):
    assert ended_by(number, WAIT)[:2] == (status, "interrupted\n")


def test_colmaps_library_does_not_take_the_signals():
    before = "from cus.runtime import signal_handlers_kept\nwith signal_handlers_kept():\n    import pycolmap"
    assert ended_by(signal.SIGTERM, WAIT, before)[:2] == (143, "interrupted\n")


def test_an_interrupt_that_a_library_turns_into_its_own_error_is_an_interrupt():
    work = "\n    ".join(["try:", f"    {WAIT}", "except BaseException:", "    raise ImportError('no numpy here')"])
    assert ended_by(signal.SIGINT, work)[:2] == (130, "interrupted\n")


def test_an_interrupt_in_a_finalizer_is_not_lost():
    before = "class Slow:\n    def __del__(self):\n        " + WAIT
    status, errors, seconds = ended_by(signal.SIGINT, "Slow(); time.sleep(20)", before)
    assert (status, errors) == (130, "interrupted\n") and seconds < 5


def test_the_second_signal_ends_a_command_that_does_not_end_at_the_first():
    work = "\n    ".join(["while True:", "    try:", f"        {WAIT}", "    except BaseException:", "        pass"])
    status, errors, seconds = ended_by(signal.SIGINT, work, times=2)
    assert (status, errors) == (130, "") and seconds < 5


def test_threads_that_nobody_stops_do_not_keep_an_interrupted_command_alive():
    before = "import threading; threading.Thread(target=time.sleep, args=[20]).start()"
    status, _, seconds = ended_by(signal.SIGTERM, WAIT, before)
    assert status == 143 and seconds < 5


def test_a_signal_that_the_parent_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.received is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_given_back_and_other_threads_leave_them_alone():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Terminated) as ended, Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert exit_status(ended.value) == 143 and exit_status(KeyboardInterrupt()) == 130
    thread = threading.Thread(target=Interrupts().__enter__)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_of_a_library_are_undone():
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with signal_handlers_kept():
            ctypes.pythonapi.PyOS_setsig(signal.SIGTERM, ctypes.c_void_p(int(signal.SIG_IGN)))
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
