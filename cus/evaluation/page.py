"""The HTML page of an evaluation: sortable tables, and every case's pictures side by side with the truth."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from cus.evaluation.page_pictures import EMBED_BUDGET, page_pictures, picture_size
from cus.evaluation.records import Record, latest_records, record_json
from cus.evaluation.tables import REGION_LABELS, VALUE_LABELS, natural_key
from cus.report.script_json import script_json

SCRIPTS = ("page.js", "page_table.js", "page_cases.js", "page_compare.js")
HEAT_STOPS = 17


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
