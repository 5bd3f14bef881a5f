"""The evaluation part of a model card: the tables in a folder of `cus-eval`, as plain data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cus.cameras.transforms_json import read_json
from cus.errors import InputError
from cus.hub.card import Column, Row, Table

OWN_KINDS = ("frames", "splat")


def read_tables(folder: Path, is_model: Callable[[str], bool]) -> list[Table]:
    """The tables over all scenes and whole frames of an evaluation that includes a model.

    Args:
        folder: output folder of `cus-eval`.
        is_model: whether a name given to `--model` refers to the card's model.

    Raises:
        InputError: the folder holds no evaluation, or none of this model.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no evaluation: it has no results.json; name a folder that cus-eval filled")
    results = read_json(path)
    try:
        return _tables(folder, results, is_model)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} is not what this version of cus-eval writes ({error!r}); evaluate again") from error


def _tables(folder: Path, results: dict[str, Any], is_model: Callable[[str], bool]) -> list[Table]:
    settings = results["settings"]
    models = {
        # With a LoRA the frames are not the model's own any more.
        row["name"]: row.get("lora") or row["model"] or settings["model"]
        for row in settings["rows"]
        if row["kind"] in OWN_KINDS
    }
    own = {name for name, model in models.items() if is_model(str(model))}
    if not own:
        there = ", ".join(sorted({str(model) for model in models.values()})) or "no model"
        raise InputError(f"{folder} measured {there}, not this model: nothing of it goes into the card")
    columns = [Column(*(metric[key] for key in Column.__dataclass_fields__)) for metric in results["metrics"]]
    labels = {row["name"]: row["label"] for row in results["rows"]}
    tables = []
    for group in _groups(results):
        rows = [
            Row(
                label,
                name in own,
                {metric: _score(cell) for metric, cell in group["cells"][name].items() if _score(cell)},
            )
            for name, label in labels.items()
            if name in group["cells"]
        ]
        if any(row.own and row.scores for row in rows):
            notes = [*_notes(settings, own), *_gaps(group)]
            source = f"`cus-eval` of closeupshot {results['versions']['closeupshot']}"
            tables.append(
                Table(
                    str(results["title"]),
                    list(results["scenes"]),
                    group["label"] if group["values"] else "",
                    group["compared"],
                    columns,
                    rows,
                    notes,
                    source,
                )
            )
    if not tables:
        raise InputError(f"{folder} holds no score of this model yet; let cus-eval finish (--resume)")
    return tables


def _groups(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Column groups of the table over all scenes and whole frames."""
    for section in results["tables"]:
        if section["region"] == "frame" and section["scene"] is None:
            return section["groups"]
    return []


def _score(cell: dict[str, Any]) -> Any:
    """(mean, interval) of a cell; None without a finite mean, which JSON stores as a word."""
    estimate = cell["estimate"]
    if estimate is None or isinstance(estimate["mean"], str):
        return None
    interval = estimate["interval"]
    if interval is None or any(isinstance(bound, str) for bound in interval):
        return estimate["mean"], None
    return estimate["mean"], (interval[0], interval[1])


def _notes(settings: dict[str, Any], own: set[str]) -> list[str]:
    poses = "Poses are given" if settings["poses"] == "given" else "Poses are estimated"
    notes = [
        f"{poses}, pictures are {settings['size']} pixels on their longer side, the seed is {settings['seed']}.",
        "Brackets are 95 % bootstrap intervals over the cases of these scenes.",
    ]
    if any(row["blur"] for row in settings["rows"]):
        notes.append("A best blur is chosen by the truth.")
    for row in settings["rows"]:
        asked = [f"{key} {row[key]}" for key in ("steps", "guidance", "structure") if row.get(key) is not None]
        if row["name"] in own and asked:
            notes.append(f"{row['label']}: {', '.join(asked)}.")
    return notes


def _gaps(group: dict[str, Any]) -> list[str]:
    if group["compared"] == group["planned"]:
        return []
    return [f"Of {group['planned']} cases, {group['compared']} have scores of every row; the means are over these."]
