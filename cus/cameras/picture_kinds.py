"""The kind of a file by its first bytes: a supported picture, or what to do about one that is not."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from cus.errors import InputError

# Pillow's names of the supported formats; for others it would start other programs or mistake a preview for the whole.
PILLOW_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "PPM", "JPEG2000")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .mpo .png .tif .tiff .webp .avif .heic .heif .hif .bmp .gif .ppm .pgm .pnm .jp2".split()
)
_READ = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|II\*\x00|MM\x00\*|II\+\x00|MM\x00\+|RIFF....WEBP|GIF8[79]a|BM|P[1-6]\s|P[fF]\s"
    rb"|\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  ",
    re.DOTALL,
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_VIDEO = re.compile(
    rb"....(ftyp|moov|mdat|wide|free)|\x1a\x45\xdf\xa3|RIFF....AVI |\x00\x00\x01[\xba\xb3]|FLV", re.DOTALL
)
RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dng .erf .kdc .mos .mrw .nef .nrw .orf .pef .raf .rw2 .sr2 .srw .x3f".split()
)

# (first bytes, kind of file, command that makes a picture of it: see `convert_command`)
_HDR_COMMAND = "oiiotool {0} --colorconvert linear sRGB --clamp:min=0:max=1 -d uint16 -o {1}.png"
_CONVERTED = (
    (rb"8BPS", "a Photoshop document", "magick {0}'[0]' {1}.png"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture", "djxl {0} {1}.png"),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE|#\?RGBE", "a high dynamic range picture", _HDR_COMMAND),
    (rb"%PDF", "a PDF document", "pdftoppm -png -r 300 {0} {1}"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file", "gs -sDEVICE=png16m -r300 -o {1}.png {0}"),
    (rb"DDS |\x00\x00\x01\x00|icns|qoif|DPX|SDPX|XPDS", "a kind of picture that is not read", "magick {0} {1}.png"),
)
_RAW = re.compile(rb"FUJIFILMCCD-RAW|IIR[OS]\x08|MMOR|IIU\x00|II\*\x00....CR|....ftypcrx |\x00MRM|FOVb", re.DOTALL)


def convert_command(path: Path, command: str) -> str:
    """Fill a shell command with the file's name, and its name without suffix."""
    return command.format(shlex.quote(str(path)), shlex.quote(str(path.with_suffix(""))))


def is_heic(start: bytes) -> bool:
    """Whether a file with these first bytes is a HEIC or HEIF picture."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS and not is_avif(start)


def is_avif(start: bytes) -> bool:
    """Whether a file with these first bytes is an AVIF picture."""
    length = min(int.from_bytes(start[:4], "big"), len(start))
    brands = [start[i : i + 4] for i in (8, *range(16, length, 4))]
    return start[4:8] == b"ftyp" and (b"avif" in brands or b"avis" in brands)


def is_video(start: bytes) -> bool:
    """Whether a file with these first bytes is a video (an animated GIF is not)."""
    return bool(_VIDEO.match(start)) and not is_heic(start) and not is_avif(start)


def check_kind(path: Path, stream: BinaryIO) -> bytes:
    """Check that a file is a supported picture; returns its first bytes and rewinds the stream.

    Raises:
        InputError: any other kind of file, with the command that converts it if there is one.
    """
    start = stream.read(4096)
    stream.seek(0)
    tiff_based = start[:4] in (b"II*\x00", b"MM\x00*")
    if _RAW.match(start) or (tiff_based and path.suffix.lower() in RAW_SUFFIXES):
        raise InputError(raw_message(path))
    if not (_READ.match(start) or is_heic(start) or is_avif(start)):
        raise InputError(_refusal(path, start))
    return start


def raw_message(path: Path) -> str:
    """Message for a camera's raw file."""
    command = convert_command(path, "darktable-cli {0} {1}.jpg")
    return f"{path} is a camera's raw file, which is not developed here; develop it first, for example: {command}"


def heic_message(path: Path) -> str:
    """Message for a HEIC picture if pillow-heif is missing."""
    linux, mac = (
        convert_command(path, c) for c in ("heif-convert {0} {1}.jpg", "sips -s format jpeg {0} --out {1}.jpg")
    )
    return (
        f"{path} is a HEIC picture; pip install 'closeupshot[heic]' lets it be read, or convert it: {linux} (Linux), "
        f"{mac} (macOS)"
    )


def _refusal(path: Path, start: bytes) -> str:
    for pattern, name, command in _CONVERTED:
        if re.match(pattern, start, re.DOTALL):
            return f"{path} is {name}; convert it first: {convert_command(path, command)}"
    if is_video(start):
        return f"{path} is not a picture but a video; given alone with --views, its sharpest frames are chosen"
    if start.startswith((b"PK\x03\x04", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ")):
        return f"{path} is an archive; unpack it and name the photographs in it"
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS, not the picture; fetch it with: git lfs pull"
    if start.startswith(b"\x00\x05\x16\x07"):
        return f"{path} is a macOS metadata file, not the picture; give the file without ._ before its name"
    return _refusal_of_text(path, start)


def _refusal_of_text(path: Path, start: bytes) -> str:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"<svg" in text[:4096].lower():
        command = convert_command(path, "rsvg-convert -w 2048 {0} -o {1}.png")
        return f"{path} is an SVG drawing; convert it first: {command}"
    if text[:15].lower().startswith((b"<!doctype html", b"<html")):
        return (
            f"{path} is not a picture but a web page, which the download saved in its place; fetch the picture itself"
        )
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in start[:512])
    if printable >= 0.95 * len(start[:512]):
        return f"{path} is not a picture but text (it begins {start[:24]!r}); give a JPEG, PNG, TIFF or WebP"
    return (
        f"{path} is not a picture that can be read (it begins with the bytes {start[:8].hex(' ')}); "
        "give a JPEG, PNG, TIFF or WebP"
    )


def open_heif(path: Path, stream: BinaryIO) -> Image.Image:
    """Open a HEIC picture, upright by its own header. Raises InputError if pillow-heif is not installed."""
    if find_spec("pillow_heif") is None:
        raise InputError(heic_message(path))
    from pillow_heif import HeifImageFile

    return HeifImageFile(stream, str(path))
