import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cus import folder_lock
from cus.errors import InputError
from cus.files import PART
from cus.folder_lock import NAME, FolderLock
from cus.output_folder import OutputFolder

HOLD = """
import sys, time
from pathlib import Path
from cus.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), *sys.argv[2:])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(
            InputError, match=f"another run is at work in .*: process {holder.pid}, started 20.*stop it"
        ):
            FolderLock(tmp_path).acquire()
        FolderLock(tmp_path, "-1-of-2").acquire()
        holder.send_signal(signal.SIGKILL)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir()) or [p.name for p in tmp_path.iterdir()] == [f"{NAME}-1-of-2"]


@pytest.mark.skipif(os.name != "posix", reason="fork")
def test_children_do_not_keep_a_lock(tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    gate = multiprocessing.get_context("fork").Event()
    child = multiprocessing.get_context("fork").Process(target=gate.wait, args=(10,))
    child.start()
    lock.release()
    FolderLock(tmp_path).acquire()
    gate.set()
    child.join()


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),
        ({"pid": 2**22 + 1}, False),
        ({"born": 1.0}, False),  # the machine was restarted, and the number is another process's
        ({"host": "elsewhere"}, True),
        (None, False),
    ],
)
def test_without_locks_of_the_system_the_file_counts_while_its_process_lives(tmp_path, monkeypatch, changes, refused):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    own = {"pid": os.getpid(), "host": platform.node(), "born": psutil.Process().create_time(), "started": 1.0e9}
    (tmp_path / NAME).write_text("damaged" if changes is None else json.dumps(own | changes))
    lock = FolderLock(tmp_path)
    if refused:
        with pytest.raises(InputError, match="another run is at work"):
            lock.acquire()
    else:
        lock.acquire()
        lock.release()
        assert not list(tmp_path.iterdir())


def test_parts_of_a_killed_share_are_removed_when_nobody_else_is_at_work(tmp_path):
    def open_share(share: str) -> OutputFolder:
        folder = OutputFolder(tmp_path, "clips")
        folder.open(("*.txt",), share=share)
        return folder

    part = tmp_path / f"{PART}1-a.txt"
    part.write_text("half")
    os.utime(part, (1, 1))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "-2"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        open_share("-1").close()
        assert part.exists()
        other.send_signal(signal.SIGKILL)
    younger = tmp_path / f"{PART}2-b.txt"
    younger.write_text("half")
    os.utime(younger, (time.time() + 100,) * 2)  # of a share that has only just begun
    open_share("-1").close()
    assert not part.exists() and younger.exists()
