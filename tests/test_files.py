import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cus import files
from cus.errors import InputError
from cus.files import LARGEST_JSON, check_target, keep_copy, lies_in, read_json, require_regular, same_file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_json_is_read_in_every_encoding_that_its_first_bytes_show(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "Größe"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"a": "Größe"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON.*; copy it again"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe\xfd", "not valid JSON"),
        (b"[1]", "expected a JSON object, got a list; copy it again"),
        (b"1" * 5000, "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        read_json(tmp_path / "a.json", "copy it again")
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(InputError, match="64 MiB; a JSON file here has at most 64"):
        read_json(tmp_path / "a.json")


def test_nothing_waits_for_what_is_no_ordinary_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(InputError, match=f"it is {kind}; expected an ordinary file"):
            read_json(path)
    for name in ("absent", "loop", "a\0b"):
        with pytest.raises(InputError, match="cannot read"):
            require_regular(tmp_path / name)
    (tmp_path / "a.json").write_text(json.dumps({}))
    assert require_regular(tmp_path / "a.json") == 2


def test_a_file_appears_only_when_it_is_complete_and_errors_leave_the_earlier_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with pytest.raises(ZeroDivisionError), files.replacing(path, parents=True) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert not path.parent.exists(), "folders made for it go, too"
    with pytest.raises(InputError, match="No such file"):
        files.write_text(path, "no folder")
    path.parent.mkdir()
    files.write_text(path, "first\r\n")
    assert path.read_bytes() == b"first\r\n"
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as part:
        assert part.suffix == ".txt", "many writers choose their format by it"
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first\r\n" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full: .*a.txt could not be written.*free some"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk is full"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "cannot write .*a.txt.*read-only or another user's"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "read-only or another user's"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "cannot write .*a.txt .Input/output error"),
        (ValueError("Io error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_what_stops_a_write_is_said_with_the_remedy(tmp_path, error, words):
    with pytest.raises(InputError, match=words + ".*choose another place"), files.replacing(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_writer_itself_stays_what_it_is(tmp_path):
    with pytest.raises(ValueError, match="no such colour"), files.replacing(tmp_path / "a.txt"):
        raise ValueError("no such colour")


def test_parts_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    living = tmp_path / f"{files.PART}{os.getppid()}-a.txt"
    for path in (tmp_path / f"{files.PART}{ended.pid}-a.txt", living, tmp_path / f"{files.PART}{ended.pid}-b.txt"):
        path.write_text("half")
    files.write_text(tmp_path / "a.txt", "whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.txt", living.name, f"{files.PART}{ended.pid}-b.txt"}


def test_one_file_is_known_by_all_its_names(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "folder" / "a.jpg"
    folder.mkdir()
    file.write_bytes(b"a photograph")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "hard.jpg").hardlink_to(file)
    assert same_file(file, tmp_path / "link" / "a.jpg") and same_file(file, tmp_path / "hard.jpg")
    assert not same_file(file, folder) and not same_file(file, tmp_path / "absent")
    assert lies_in(tmp_path / "link" / "a.jpg", folder) and lies_in(folder, tmp_path / "link")
    assert not lies_in(tmp_path / "hard.jpg", folder) and not lies_in(tmp_path, folder)


def test_a_target_that_would_lose_something_is_refused(tmp_path: Path) -> None:
    photo, link, pipe = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "pipe"
    photo.write_bytes(b"a photograph")
    link.symlink_to(photo)
    os.mkfifo(pipe)
    check_target(tmp_path / "new.jpg", overwrite=False, inputs=[photo])
    check_target(photo, overwrite=True)
    for path, overwrite, inputs, message in (
        (photo, False, [], "already exists: --overwrite replaces it"),
        (link, True, [photo], "is the same file as .*a.jpg, which is to be read"),
        (tmp_path, True, [], "is a folder, not a file"),
        (pipe, True, [], "is a device, pipe or socket"),
        (Path(os.devnull), True, [], "is a device, pipe or socket"),
    ):
        with pytest.raises(InputError, match=message):
            check_target(path, overwrite=overwrite, inputs=inputs)


def test_a_copy_that_is_kept_never_takes_the_place_of_another(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert keep_copy(card) is None
    for words in ("first", "second"):
        card.write_text(words)
        assert keep_copy(card) is not None
    names = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert names == {"README.md": "second", "README.md.bak-1": "first", "README.md.bak-2": "second"}
