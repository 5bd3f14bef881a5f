"""The page's pictures: embedded copies if these are small, else links to the files next to it."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import cv2

# Total of encoded copies, before base64 adds a third: browsers open such a page within a second or two.
EMBED_BUDGET = 32_000_000
JPEG_QUALITY = 92
# A PNG is at most about this many times as large as its JPEG (photographs 5 times): above that, do not try to embed.
PNG_OVER_JPEG = 10
FLAGS = [
    cv2.IMWRITE_JPEG_QUALITY,
    JPEG_QUALITY,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


@dataclass(frozen=True)
class PagePictures:
    """How a page includes its pictures.

    Attributes:
        addresses: path relative to the folder -> data URI or relative link; without unreadable files.
        embedded: whether the addresses are data URIs.
        bytes: total size of the copies, or of the linked files.
    """

    addresses: dict[str, str]
    embedded: bool
    bytes: int

    @property
    def explanation(self) -> str:
        """The page's text about its pictures."""
        size, count = f"{self.bytes / 1e6:.1f} MB", len(self.addresses)
        if self.embedded:
            return (
                f"{count} pictures are inside this page as JPEG copies of quality {JPEG_QUALITY} ({size}); scores "
                "are those of the files next to it."
            )
        return f"{count} pictures ({size}) are too much for one page: keep it together with the files next to it."


def page_pictures(folder: Path, paths: Iterable[str], budget: int = EMBED_BUDGET) -> PagePictures:
    """Embed or link pictures.

    Args:
        folder: folder of the page, to which the paths are relative.
        paths: paths of the pictures.
        budget: maximum number of bytes of embedded copies; above it all pictures are linked.
    """
    sizes = {path: (folder / path).stat().st_size for path in dict.fromkeys(paths) if (folder / path).is_file()}
    links = PagePictures({path: quote(path) for path in sizes}, False, sum(sizes.values()))
    if links.bytes > PNG_OVER_JPEG * budget:
        return links
    copies, total = {}, 0
    for path in sizes:
        pixels = cv2.imread(str(folder / path), cv2.IMREAD_COLOR)
        if pixels is None:
            continue
        ok, encoded = cv2.imencode(".jpg", pixels, FLAGS)
        assert ok, "JPEG encoding of a uint8 picture cannot fail"
        total += encoded.nbytes
        if total > budget:
            return links
        copies[path] = "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
    return PagePictures(copies, True, total)


def picture_size(folder: Path, path: str) -> tuple[int, int] | None:
    """(width, height) in pixels from a PNG's header, None if it is not a PNG."""
    try:
        with open(folder / path, "rb") as stream:
            header = stream.read(24)
    except OSError:
        return None
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        return None
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
