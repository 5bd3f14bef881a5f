"""The output folder of an evaluation: started, resumed, or refused because it holds another one."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from cus.cameras.transforms_json import read_json
from cus.datasets.scenes import find_scenes
from cus.errors import InputError
from cus.evaluation.protocol import Protocols
from cus.evaluation.records import Record, latest_records, read_records
from cus.evaluation.rows import ROWS
from cus.evaluation.settings import EvalSettings
from cus.evaluation.splits import Split, build_split, load_split, save_split
from cus.files import PART, explained
from cus.output_folder import OutputFolder

SPLIT, RECORDS, SETTINGS, PICTURES = "split.json", "records.jsonl", "settings.json", "pictures"
RESULTS = ("results.json", "results.md", "results.tex", "per_image.csv", "page.html")
MADE = (SPLIT, RECORDS, SETTINGS, *RESULTS)
# The layout of a table may change when resuming; what its numbers depend on may not.
LAYOUT = ("title", "axes", "baseline", "metrics")
# Settings that a split file replaces.
OF_SPLIT = ("protocol", "rules", "scenes")


@dataclass(frozen=True)
class Mode:
    """What to do with a folder that already holds an evaluation.

    Attributes:
        resume: continue it.
        retry: also retry failed cases.
        overwrite: replace it.
    """

    resume: bool = False
    retry: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Raise InputError for contradictory options."""
        if self.resume and self.overwrite:
            raise InputError("an evaluation is resumed or replaced, not both")
        if self.retry and not self.resume:
            raise InputError("--retry goes with --resume")


@dataclass(frozen=True)
class Begun:
    """State of an evaluation when it starts.

    Attributes:
        split: all cases to evaluate.
        records: latest records of the work done so far.
        without_cases: scene -> reason why it has no case.
    """

    split: Split
    records: list[Record]
    without_cases: dict[str, str]


class EvaluationFolder(OutputFolder):
    """The output folder of an evaluation. Files of an earlier one stay until they are replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "an evaluation")
        self._start: Callable[[], None] | None = None

    def prepare(self, mode: Mode, inputs: Iterable[Path]) -> None:
        """Lock the folder; `close` releases it.

        Args:
            mode: what to do with an existing evaluation.
            inputs: files that the evaluation reads.

        Raises:
            InputError: the folder holds an evaluation that is neither resumed nor replaced, or files that no evaluation
                made; it cannot be written, or another process is using it.
        """
        mode.check()
        # A folder with a scene's name may hold other files, so each file is checked before it is written.
        self.open(MADE, inputs)
        if self.is_ours(RECORDS) and not (mode.resume or mode.overwrite):
            self.close()
            raise InputError(f"{self.path} already holds an evaluation: --resume continues it, --overwrite replaces it")

    def start(self, write: Callable[[], None], *, overwrite: bool) -> None:
        """Call `write` for the first files: now or, with `overwrite`, before the first other file is written."""
        if overwrite:
            self._start = write
        else:
            write()

    def write(self, name: str, writer: Callable[[Path], Any]) -> Path:
        """Write a file of the folder; an earlier evaluation is removed only once the first new file is on disk."""
        if self._start is None:
            return super().write(name, writer)
        part = self.path / f"{PART}first{Path(name).suffix}"
        try:
            with explained(self.path / name, self.remedy):
                writer(part)
                path = self.claim(name)
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def claim(self, name: str) -> Path:
        """Reserve a file's path in the folder, as `OutputFolder.claim`."""
        if self._start is not None:
            start, self._start = self._start, None
            self.remove(list(self.made))
            start()
        return super().claim(name)


def held_size(out: Path, path: Path | None, mode: Mode) -> int:
    """Longest side of the pictures of cases that are resumed or come from a split file; 0 if not yet chosen."""
    if mode.resume and (out / SPLIT).is_file():
        return load_split(out / SPLIT).size
    return load_split(path).size if path is not None else 0


def begin(
    data: Path, folder: EvaluationFolder, settings: EvalSettings, path: Path | None, metrics: Sequence[str], mode: Mode
) -> Begun:
    """Choose the cases, or take the existing ones, and record the plan.

    Args:
        data: folder of the scenes.
        folder: output folder, prepared.
        settings: checked settings with a size.
        path: split file, or None.
        metrics: names of the metrics to score.
        mode: what to do with an existing evaluation.

    Raises:
        InputError: the folder holds another evaluation, or the data do not match the split; nothing is changed then.
    """
    out = folder.path
    if mode.resume and ((out / RECORDS).exists() or (out / SPLIT).is_file()):
        return _resumed(data, folder, settings, path, metrics, mode)
    if path is None:
        split, without = build_split(
            data, cast(Protocols, settings.protocol), settings.size, settings.made_rules(), settings.scenes
        )
    else:
        split, without = _from_file(path, data, settings), {}
    if len(split) == 0:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(without.items())[:4])
        raise InputError(f"no scene in {data} gives a case: {reasons}")
    # A mistyped path, or photographs without depth, must not destroy the earlier evaluation.
    folder.start(lambda: _write(folder, settings, split, without, path is not None), overwrite=mode.overwrite)
    return Begun(split, [], without)


def _from_file(path: Path, data: Path, settings: EvalSettings) -> Split:
    split = replace(load_split(path, data), size=settings.size)
    if settings.scenes is None:
        return split
    unknown = [name for name in settings.scenes if name not in split.scenes]
    if unknown:
        raise InputError(f"{path} has no scene {unknown[0]}; it has {', '.join(split.scenes)}")
    return replace(split, scenes={name: split.scenes[name] for name in settings.scenes})


def _resumed(
    data: Path, folder: EvaluationFolder, settings: EvalSettings, path: Path | None, metrics: Sequence[str], mode: Mode
) -> Begun:
    out = folder.path
    for name in (SPLIT, SETTINGS):
        if not (out / name).is_file():
            raise InputError(f"{out} cannot be resumed without its {name}; --overwrite starts from scratch")
    written = read_json(out / SETTINGS)
    from_file = bool(written.get("from_split_file", False))
    _check_same(out, written.get("settings", {}), settings, OF_SPLIT if from_file else ())
    split = load_split(out / SPLIT, data)
    if path is not None and _from_file(path, data, settings) != split:
        raise InputError(f"{out} was made with other cases than those of {path}; leave --split out, or --out another")
    without = dict(written.get("without_cases", {}))
    if mode.retry and without:
        again = [source.name for source in find_scenes(data) if source.name in without]
        found, failures = build_split(data, split.protocol, split.size, split.rules, again)
        split = replace(split, scenes=split.scenes | found.scenes)
        without = {name: reason for name, reason in without.items() if name not in again} | failures
    records = latest_records(read_records(out / RECORDS)) if (out / RECORDS).exists() else []
    for record in records:
        missing = [name for name in metrics if record.error is None and name not in record.scores.get("frame", {})]
        if missing:
            known = " ".join(name for name in record.scores.get("frame", {}) if not name.endswith("_error"))
            raise InputError(
                f"{out} holds pictures that were not scored by {', '.join(missing)}; give --metrics {known}, or "
                "another --out"
            )
    _write(folder, settings, split, without, from_file)
    return Begun(split, records, without)


def _check_same(out: Path, then: dict[str, Any], settings: EvalSettings, free: Sequence[str]) -> None:
    """Refuse settings that would mix two evaluations in one table. Raises InputError that names each."""
    now = json.loads(json.dumps(settings.summary()))
    if then.get("estimator") == "auto":
        then = then | {"estimator": "stereo"}  # the default at the time of that record
    changes = []
    for name, value in now.items():
        if name in (*LAYOUT, *free) or then.get(name) == value:
            continue
        if name == "rows":
            changes += _row_changes(then.get(name) or [], value)
        else:
            changes.append(f"{name} was {then.get(name)!r}, is {value!r}")
    if changes:
        raise InputError(
            f"{out} was made with other settings ({'; '.join(changes)}); give the same ones, or another --out"
        )


def _row_changes(then: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    # A setting that an earlier version did not have had its default value.
    before, after = ({row["name"]: _defaults(row["kind"]) | row for row in rows} for rows in (then, now))
    if list(before) != list(after):
        return [f"rows were {' '.join(before) or 'none'}, are {' '.join(after)}"]
    return [
        f"{key} of row {name} was {before[name].get(key)!r}, is {value!r}"
        for name, row in after.items()
        for key, value in row.items()
        if before[name].get(key) != value
    ]


def _defaults(kind: str) -> dict[str, Any]:
    return asdict(ROWS[kind]()) if kind in ROWS else {}


def _write(
    folder: EvaluationFolder, settings: EvalSettings, split: Split, without: dict[str, str], from_file: bool
) -> None:
    content = {"settings": settings.summary(), "from_split_file": from_file, "without_cases": without}
    folder.write(SETTINGS, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))
    folder.write(SPLIT, lambda part: save_split(part, split))
