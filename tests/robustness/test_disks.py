"""Disks that fill up, and folders that become read-only, at every stage of every command that fills a folder."""

import ctypes
import fnmatch
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cus.folder_record import RECORD
from tests.robustness import kills

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts and capabilities are Linux's"),
]
MIB = 2**20
# How many times a command meets the obstacle on its way.
STOPS = 8
# linux/capability.h: root ignores the permissions of files while it has this one.
CAPABILITY_VERSION, DAC_OVERRIDE = 0x20080522, 1


class Disk:
    """A file system in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refusal = self._mount(f"size={64 * MIB}", "-t", "tmpfs", "tmpfs")

    def resize(self, size: int) -> None:
        """In bytes; never less than what is on it."""
        assert self._mount(f"remount,size={max(size, self.used() + 4096)}") == ""

    def used(self) -> int:
        return shutil.disk_usage(self.path).used

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)

    def _mount(self, options: str, *more: str) -> str:
        done = subprocess.run(["mount", "-o", options, *more, str(self.path)], capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stderr or "refused"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    made = Disk(tmp_path / "disk")
    if made.refusal:
        pytest.skip(f"no file system can be mounted here: {made.refusal.strip()}")
    yield made
    made.unmount()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kills.load_everything()
    folder = tmp_path_factory.mktemp("inputs")
    assert kills.run(lambda: kills.make_inputs(folder) or 0, folder.with_suffix(".txt")) == 0
    return folder


def undisturbed(command: str, inputs: Path, out: Path, log: Path) -> dict[str, object]:
    assert kills.run(kills.work(command, inputs, out), log) == 0, log.read_text()[-2000:]
    return kills.contents(out)


def on_a_small_disk(act: Callable[[], int]) -> Callable[[], int]:
    """The command without its check that there is room at all, which a small disk never passes."""

    def work() -> int:
        from cus import output_folder

        output_folder.LEAST_FREE_BYTES = 0
        return act()

    return work


def without_root_s_privilege(act: Callable[[], int]) -> Callable[[], int]:
    """The command as a process that permissions hold for, whoever starts it."""

    def work() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
        assert libc.capget(header, sets) == 0
        sets[0] &= ~(1 << DAC_OVERRIDE)
        assert libc.capset(header, sets) == 0
        return act()

    return work


def check_refusal(log: Path, words: tuple[str, ...]) -> None:
    """One line that says what is wrong, and no traceback."""
    text = log.read_text()
    assert "Traceback" not in text and "internal error" not in text, text
    said = [line for line in text.splitlines() if line.startswith("error:") or "InputError" in line]
    assert len(said) == 1 and any(word in text for word in words), text
    log.write_text("")


@pytest.mark.parametrize("command", kills.COMMANDS)
def test_a_disk_that_fills_up_again_and_again_costs_nothing_but_time(command, inputs, disk, tmp_path):
    log = tmp_path / "log.txt"
    expected, before = undisturbed(command, inputs, tmp_path / "whole" / "out", log), kills.checksums(inputs)
    needed = sum(file.stat().st_size for file in (tmp_path / "whole" / "out").rglob("*") if file.is_file())
    out = disk.path / "out"
    act = on_a_small_disk(kills.work(command, inputs, out))
    refused = 0
    for share in range(STOPS):
        disk.resize(round(needed * share / STOPS))
        log.write_text("")
        status = kills.run(act, log)
        assert status in (0, 2), log.read_text()
        if status == 2:
            check_refusal(log, ("the disk is full",))
            refused += 1
    assert refused >= STOPS // 2
    disk.resize(4 * needed + 64 * MIB)
    assert kills.run(act, log) == 0, log.read_text()
    got = kills.contents(out)
    assert [name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)] == []
    assert kills.checksums(inputs) == before


def files_in(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def set_writable(folder: Path, writable: bool) -> None:
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o755 if writable else 0o555)


def run_into_read_only(act: Callable[[], int], out: Path, files: int, log: Path) -> int | None:
    """The exit status of a command that may write nothing more as soon as its folder holds that many files."""
    child = kills.start(without_root_s_privilege(act), log)
    end = time.monotonic() + kills.LONGEST_SECONDS
    while files_in(out) < files and time.monotonic() < end:
        status = kills.wait(child, 0)
        if status is not None:
            return status
        time.sleep(0.001)
    set_writable(out, False)
    try:
        return kills.wait(child, kills.LONGEST_SECONDS)
    finally:
        set_writable(out, True)


@pytest.mark.parametrize("command", kills.COMMANDS)
def test_a_folder_that_becomes_read_only_again_and_again_costs_nothing_but_time(command, inputs, tmp_path):
    log, out = tmp_path / "log.txt", tmp_path / "cut" / "out"
    expected, before = undisturbed(command, inputs, tmp_path / "whole" / "out", log), kills.checksums(inputs)
    act, refused = kills.work(command, inputs, out), 0
    for share in range(STOPS):
        log.write_text("")
        status = run_into_read_only(act, out, 1 + len(expected) * share // STOPS, log)
        assert status in (0, 2), log.read_text()
        if status == 2:
            check_refusal(log, ("cannot write",))
            refused += 1
    assert refused >= STOPS // 2
    assert kills.run(act, log) == 0, log.read_text()
    got = kills.contents(out)
    different = {name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)}
    # safetensors cannot remove its own temporary file from a folder that has become read-only under it.
    assert {name for name in different if not fnmatch.fnmatch(Path(name).name, ".tmp??????")} == set()
    assert kills.checksums(inputs) == before


@pytest.mark.parametrize("command", ["infer", "fit", "eval"])
def test_an_earlier_run_stays_whole_where_the_disk_has_no_room_for_another(command, inputs, disk, tmp_path):
    log, out = tmp_path / "log.txt", disk.path / "out"

    def what_was_made() -> dict[str, str]:
        # The list names a file before it is written.
        return {name: digest for name, digest in kills.checksums(out).items() if name != RECORD}

    disk.resize(256 * MIB)
    assert kills.run(on_a_small_disk(kills.work(command, inputs, out)), log) == 0, log.read_text()
    before = what_was_made()
    disk.resize(0)
    # An evaluation is not resumed with other settings, whatever the disk.
    for mode in ("--overwrite", "--resume")[: 1 if command == "eval" else 2]:
        log.write_text("")
        act = on_a_small_disk(kills.work(command, inputs, out, mode, size=128))
        assert kills.run(act, log) == 2, log.read_text()
        check_refusal(log, ("the disk is full",))
        assert what_was_made() == before
