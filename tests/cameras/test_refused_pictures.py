"""Files that are no pictures, or damaged ones: each is refused with one clear message."""

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cus.cameras.photos import inspect_photo
from cus.cameras.pictures import decode
from cus.errors import InputError
from tests.cameras.test_pictures import RAMP, corners, save_turned


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RAMP.astype(np.float32), "from 0 to 255; expected 0"),
        (RAMP.astype(np.float32) - 1, "from -1"),
        (np.where(RAMP > 250, np.nan, 0.5).astype(np.float32), "not numbers"),
        (np.where(RAMP > 250, np.inf, 0.5).astype(np.float32), "infinite"),
        (RAMP.astype(np.int32) * 1000, "from 0 to 255000"),
    ],
)
def test_values_that_are_no_brightness_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=message):
        decode(tmp_path / "a.tif")


def test_a_picture_without_a_visible_pixel_is_refused(tmp_path):
    Image.fromarray(np.zeros((48, 64, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="transparent everywhere"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.cr2", b"II*\0\x10\0\0\0CR\x02\0", "raw file.*darktable-cli"),
        ("a.nef", b"MM\0*\0\0\0\x08", "raw file"),
        ("a.raf", b"FUJIFILMCCD-RAW 0201", "raw file"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1", "raw file"),
        ("a.jxl", b"\xff\x0a\x01\x02", "JPEG XL.*djxl"),
        ("a.jpg", b"8BPS\0\1", "Photoshop.*magick"),
        ("a.exr", b"\x76\x2f\x31\x01", "high dynamic range.*oiiotool"),
        ("a.png", b"%PDF-1.7", "PDF.*pdftoppm"),
        ("a.jpg", b"<?xml version='1.0'?><svg xmlns='x'/>", "SVG.*rsvg-convert"),
        ("a.jpg", b"<!DOCTYPE html><html></html>", "web page"),
        ("a.jpg", b"not a picture", "not a picture but text"),
        ("a.jpg", b"\0\0\0\x18ftypmp42\0\0\0\0", "but a video"),
        ("a.jpg", b"\x1a\x45\xdf\xa3", "but a video"),
        ("a.jpg", b"PK\3\4abc", "archive"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("._a.jpg", b"\0\5\x16\7\0\2", "macOS"),
        ("a.jpg", bytes(range(128, 200)), "not a picture.*80 81"),
        ("a.jpg", b"", "empty"),
    ],
)
def test_what_is_no_picture_is_named_with_what_to_do(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        inspect_photo(tmp_path / name)


def test_a_raw_file_is_not_taken_for_its_preview(tmp_path):
    """A DNG is a TIFF whose first picture is a thumbnail; the tag 50706 says what it is."""
    Image.fromarray(corners()).save(tmp_path / "a.tif", tiffinfo={50706: b"\1\4\0\0"})
    with pytest.raises(InputError, match="raw file"):
        inspect_photo(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("device", "device"),
        ("loop", "symbolic links"),
        ("dangling", "No such file"),
        ("below a file", "no such photograph"),
        ("long", "no such photograph"),
        ("null", "no such photograph"),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind, message):
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        os.chdir(tmp_path)
        server.bind("a.jpg")
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "gone.jpg")
    elif kind == "below a file":
        path.write_bytes(b"x")
        path = path / "b.jpg"
    else:
        path = Path("a" * 5000 if kind == "long" else "a\0b.jpg")
    with pytest.raises(InputError, match=message):
        inspect_photo(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(corners()).save(path)
    path.chmod(0)
    with pytest.raises(InputError, match="permissions"):
        inspect_photo(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp", "jp2"])
def test_a_picture_that_is_cut_off_anywhere_is_an_input_error(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for share in (0.02, 0.3, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError):
            inspect_photo(path).pixels()


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(1)
    for suffix in ("jpg", "png", "webp", "tif", "gif"):
        path = tmp_path / f"a.{suffix}"
        save_turned(tmp_path / f"b.{suffix}", 6) if suffix != "gif" else Image.fromarray(corners()).save(
            tmp_path / "b.gif"
        )
        data = np.frombuffer((tmp_path / f"b.{suffix}").read_bytes(), np.uint8)
        for _ in range(40):
            broken = data.copy()
            places = rng.integers(0, min(len(data), 400), 6)
            broken[places] = rng.integers(0, 256, 6)
            path.write_bytes(broken.tobytes())
            try:
                inspect_photo(path).pixels()
            except InputError:
                pass


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    """A PNG of 29,000 x 29,000 pixels in a few bytes: a decompression bomb."""
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 29_000, 29_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match="841 million pixels"):
        inspect_photo(tmp_path / "a.png")


def test_a_tiff_whose_tags_are_lists_is_an_input_error(tmp_path):
    """Width and height of many values each: their product would fill the memory."""
    path = tmp_path / "a.tif"
    Image.fromarray(RAMP.astype(np.float32)).save(path)
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    for index in range(int.from_bytes(data[first : first + 2], "little")):
        entry = first + 2 + 12 * index
        if int.from_bytes(data[entry : entry + 2], "little") in (256, 257):
            data[entry + 4 : entry + 8] = struct.pack("<I", 2000)
    path.write_bytes(data)
    with pytest.raises(InputError):
        inspect_photo(path).pixels()
