"""The HTML page of an evaluation: sortable tables, and every case's pictures side by side with the truth."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from cus.evaluation.records import Record, latest_records, record_json
from cus.evaluation.tables import REGION_LABELS, VALUE_LABELS, natural_key
from cus.report.viewer import script_json

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
SCRIPTS = ("page.js", "page_table.js", "page_cases.js", "page_compare.js")
HEAT_STOPS = 17


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


def truth_path(records: Sequence[Record]) -> str:
    """The path of the picture of a case's target: next to the rows' pictures.

    Args:
        records: records of one case, at least one.
    """
    pictures = [record.picture for record in records if record.picture is not None]
    folder = PurePosixPath(pictures[0]).parent if pictures else f"pictures/{records[0].scene}/{records[0].case}"
    return f"{folder}/target.png"


def _cases(folder: Path, records: Iterable[Record], rows: Sequence[str]) -> list[dict[str, Any]]:
    """Entries for the scripts, one per case, in natural order."""
    by_case: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[Record]] = {}
    for record in latest_records(records):
        if record.row in rows:
            by_case.setdefault((record.scene, record.case, tuple(record.group.items())), []).append(record)
    entries = []
    for (scene, case, group), members in by_case.items():
        truth = truth_path(members)
        candidates = [truth, *(record.picture for record in members if record.picture is not None)]
        size = next((found for path in candidates if (found := picture_size(folder, path))), (3, 2))
        shown = {
            entry["row"]: {name: entry[name] for name in ("scores", "picture", "error")}
            for entry in map(record_json, members)
        }
        entries.append(
            {"scene": scene, "case": case, "group": dict(group), "truth": truth, "size": size, "rows": shown}
        )
    return sorted(entries, key=lambda entry: (natural_key(entry["scene"]), natural_key(entry["case"])))


def _heat_stops() -> list[tuple[float, float, float]]:
    """RGB in [0, 1] along the colour map of errors: black for none, bright for large ones."""
    levels = np.linspace(0, 255, HEAT_STOPS).round().astype(np.uint8)[None]
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[0, :, ::-1] / 255
    return [(float(r), float(g), float(b)) for r, g, b in colors]


def _text(name: str) -> str:
    return (files("cus.evaluation") / name).read_text(encoding="utf-8")


def page_html(
    folder: Path,
    records: Sequence[Record],
    tables: dict[str, Any],
    context: dict[str, Any],
    budget: int = EMBED_BUDGET,
) -> str:
    """The page as text; it needs no network, and no other file unless there are too many pictures to embed.

    Args:
        folder: folder of the page, to which picture paths are relative.
        records: records that the tables are made from.
        tables: `cus.evaluation.results.summary_json` of the records.
        context: title, settings and versions.
        budget: maximum number of bytes of embedded pictures; above it the page links to the files.
    """
    cases = _cases(folder, records, [row["name"] for row in tables["rows"]])
    wanted = [path for case in cases for path in (case["truth"], *(row["picture"] for row in case["rows"].values()))]
    pictures = page_pictures(folder, [path for path in wanted if path is not None], budget)
    stops = _heat_stops()
    loader = jinja2.PackageLoader("cus.evaluation", ".")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=loader)
    labels = {"values": VALUE_LABELS, "regions": REGION_LABELS}
    return environment.get_template("page.html").render(
        title=context["title"],
        settings=context["settings"],
        versions=context["versions"],
        tables=tables,
        counts={"scenes": len(tables["scenes"]), "cases": len(cases), "rows": len(tables["rows"])},
        pictures_are=pictures.explanation,
        row_labels={row["name"]: row["label"] for row in tables["rows"]},
        heat=[" ".join(f"{stop[channel]:.3f}" for stop in stops) for channel in range(3)],
        heat_gradient=Markup(", ".join(f"rgb({255 * r:.0f},{255 * g:.0f},{255 * b:.0f})" for r, g, b in stops)),
        style=Markup(_text("page.css")),
        script=Markup("\n".join(_text(name) for name in SCRIPTS)),
        data=script_json({"tables": tables, "cases": cases, "labels": labels}),
        pictures=script_json(pictures.addresses),
    )
