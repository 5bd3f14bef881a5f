"""The manifest of a folder of clips: contents, origins, and what was left out for which reason."""

import json
from collections.abc import Iterable
from typing import Any

from cus.files import read_json
from cus.output_folder import OutputFolder
from cus.remote import Destination

FORMAT = "cus-clips-manifest-1"
MANIFEST = "manifest.json"
MARKS = "scenes"
SPLITS = TRAIN, HELD_OUT = "train", "held_out"


def write_manifest(folder: OutputFolder, place: Destination, about: dict[str, Any]) -> None:
    """Write `manifest.json` from the records of all scenes, of all processes and machines.

    Args:
        folder: open folder of the clips.
        place: where they end up.
        about: additional contents of the manifest.
    """
    marks: set[str] = set()
    place.bring(folder, f"{MARKS}/*.json")
    while (found := {path.name for path in (folder.path / MARKS).glob("*.json")}) != marks:
        # Processes may end at the same time: the last writer must have seen all records.
        marks = found
        content = manifest_of(read_json(folder.path / MARKS / name) for name in sorted(marks))
        text = json.dumps({"format": FORMAT, **about, **content}, indent=1)
        folder.write(MANIFEST, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        place.send(folder.path / MANIFEST, MANIFEST)
        place.bring(folder, f"{MARKS}/*.json")


def manifest_of(marks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Clips with checksums, scenes by split, and failures, from the records of scenes.

    The manifest is shared with the clips; local paths of scenes stay in their records.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    clips, left_out, failures, scenes = [], [], [], {}
    for mark in marks:
        name = mark["scene"]
        if "failed" in mark:
            failures.append({"scene": name, "reason": mark["failed"]})
        else:
            splits[mark["split"]].append(name)
            scenes[name] = {key: mark[key] for key in ("split", "verdicts", "notes", "counts", "seconds")}
        for clip in mark["clips"]:
            entry = {"scene": name, "split": mark["split"], **clip}
            (clips if "file" in clip else left_out).append(entry)
    return {"splits": splits, "scenes": scenes, "clips": clips, "left_out": left_out, "failures": failures}
