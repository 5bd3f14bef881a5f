import json
import os
from pathlib import Path

import pytest

from cus.errors import InputError
from cus.files import LARGEST_JSON, read_json, require_regular


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
