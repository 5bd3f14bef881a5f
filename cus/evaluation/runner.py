"""`cus-eval`: every row of every case of a split, scored, recorded as it happens, and resumed where it was cut off."""

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.cameras import PosedPhotos
from cus.cameras.transforms_json import read_json
from cus.datasets.scenes import open_source
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.evaluation.alignment import Alignment, align_cameras
from cus.evaluation.covisibility import covisible
from cus.evaluation.metrics import Metric, best_blur, make_metrics
from cus.evaluation.protocol import Case, index_of
from cus.evaluation.records import Record, append_record, latest_records, read_records
from cus.evaluation.results import write_results
from cus.evaluation.rows import CaseWork, Models, References
from cus.evaluation.settings import EvalSettings, RowSettings, blurred_name
from cus.evaluation.splits import Split, build_split, load_split, save_split
from cus.evaluation.tables import MetricColumn, MetricLike
from cus.evaluation.targets import Target, frame_size, read_target
from cus.inference.progress import OnProgress
from cus.inference.settings import fingerprint

SPLIT, RECORDS, SETTINGS, PICTURES = "split.json", "records.jsonl", "settings.json", "pictures"
# Everything that an evaluation leaves in its folder.
MADE = (SPLIT, RECORDS, SETTINGS, PICTURES, "results.json", "results.md", "results.tex", "per_image.csv", "page.html")
# How far estimated cameras are from the given ones, where poses are estimated.
ALIGNMENT = (
    MetricColumn("rotation_error", "Rotation error", "°", False),
    MetricColumn("position_error", "Position error", "", False),
)


@dataclass(frozen=True)
class Outcome:
    """What an evaluation left.

    Attributes:
        files: the tables and the page.
        records: all records.
        without_cases: scene -> why it has no case.
        unavailable: metric -> why it is not in the tables.
    """

    files: list[Path]
    records: list[Record]
    without_cases: dict[str, str]
    unavailable: dict[str, str]

    @property
    def failures(self) -> list[Record]:
        """Those without scores."""
        return [record for record in self.records if record.error is not None]


def evaluate(
    data: Path,
    out: Path,
    settings: EvalSettings,
    split: Path | None = None,
    *,
    resume: bool = False,
    retry: bool = False,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Run the benchmark.

    Args:
        data: posed photographs, or a folder of such scenes (`cus.datasets.scenes`).
        out: folder for `split.json`, `records.jsonl`, pictures, tables and page.
        settings: what to do.
        split: cases to take, from an earlier evaluation; None chooses them by `settings.rules`.
        resume: go on with what `out` holds.
        retry: with `resume`, also try again what failed.
        on_progress: called with (rows done, rows in all, what is being done).

    Raises:
        InputError: settings or data that cannot be, a folder that holds another evaluation; nothing is overwritten.
    """
    settings.check()
    metrics, unavailable = make_metrics(settings.metrics, torch.device("cpu"))
    out.mkdir(parents=True, exist_ok=True)
    if settings.size == 0:
        settings.size = _model_size(settings)
    chosen, without_cases = _cases(data, out, settings, split, resume)
    records = _begin(out, settings, chosen, resume, retry)
    run = _Run(data, out, settings, chosen, metrics, records, on_progress)
    run.without_cases = without_cases
    try:
        for name in chosen.scenes:
            run.scene(name)
            run.write()
    finally:
        files = run.write()
    return Outcome(files, run.records, without_cases, unavailable)


class _Run:
    def __init__(
        self,
        data: Path,
        out: Path,
        settings: EvalSettings,
        split: Split,
        metrics: list[Metric],
        records: list[Record],
        on_progress: OnProgress | None,
    ) -> None:
        self.data, self.out, self.settings, self.split = data, out, settings, split
        self.metrics, self.records, self.on_progress = metrics, records, on_progress
        self.models = Models(settings)
        self.without_cases: dict[str, str] = {}
        self.total = len(split) * len(settings.row_names)
        self.known = {(record.scene, record.case, record.row) for record in records}

    def write(self) -> list[Path]:
        """The tables and the page of what there is."""
        if not self.records:
            return []
        columns: list[MetricLike] = [*self.metrics]
        if self.settings.poses == "estimated":
            columns += ALIGNMENT
        summary = self.settings.summary()
        if self.without_cases:
            summary["scenes without cases"] = self.without_cases
        return write_results(
            self.out,
            self.records,
            columns,
            self.settings.row_names,
            summary,
            axes=self.settings.axes,
            baseline=self.settings.baseline or None,
        )

    def scene(self, name: str) -> None:
        """All cases of a scene, those of one pair of references after each other."""
        cases = self.split.scenes[name].cases
        open_cases = [case for case in cases if self._missing(name, case)]
        if not open_cases:
            return
        try:
            posed = open_source(self.split.source(name, self.data))
        except InputError as error:
            self._fail(name, open_cases, str(error))
            return
        for pair in dict.fromkeys(case.references for case in open_cases):
            self._pair(name, posed, [case for case in open_cases if case.references == pair])

    def _pair(self, scene: str, posed: PosedPhotos, cases: Sequence[Case]) -> None:
        started = time.perf_counter()
        self._say(f"{scene}: cameras and depth of {' and '.join(cases[0].references)}")
        try:
            references, alignment = self._references(posed, cases[0].references)
        except Exception as error:  # one scene of many: its reason is recorded, the others go on
            self._fail(scene, cases, _reason(error))
            return
        seconds = (time.perf_counter() - started) / len(cases)
        for case in cases:
            self._case(scene, posed, case, references, alignment, seconds)

    def _references(self, posed: PosedPhotos, names: Iterable[str]) -> tuple[References, Alignment | None]:
        """The references at the model's size with depths, in the data set's world."""
        chosen = posed.select([index_of(posed, name) for name in names])
        width, height = frame_size(*chosen.sizes[0], self.settings.size)
        photos, cameras = chosen.read(width, height)
        images, valid = photos.images.to(self.models.device), photos.valid.to(self.models.device)
        if self.settings.poses == "given":
            given = cameras.to(self.models.device)
            scene = estimate_scene(images, given, self.settings.estimator, valid=valid)
            return References(scene, valid, self.models), None
        focals = cameras.Ks[:, 0, 0]
        scene = estimate_scene(images, None, self.settings.estimator, valid=valid, focals=focals)
        alignment = align_cameras(scene.cameras, cameras)
        return References(alignment.scene(scene), valid, self.models), alignment

    def _case(
        self,
        scene: str,
        posed: PosedPhotos,
        case: Case,
        references: References,
        alignment: Alignment | None,
        shared_seconds: float,
    ) -> None:
        try:
            target = read_target(posed, case, self.settings.size)
            work = CaseWork(references, target.camera)
            regions = {
                "frame": target.valid,
                "covisible": target.valid & covisible(references.scene, work.camera).cpu(),
            }
        except Exception as error:
            self._fail(scene, [case], _reason(error))
            return
        self._save(scene, case, "target", target.picture)
        for row in self.settings.rows:
            names = [name for name, _ in _names(row) if (scene, case.name, name) not in self.known]
            if not names:
                continue
            self._say(f"{scene} {case.name}: {row.label}")
            started = time.perf_counter()
            try:
                picture = work.picture(row).float().cpu().clamp(0, 1)
                error = None
            except Exception as reason:
                picture, error = torch.empty(0), _reason(reason)
            seconds = time.perf_counter() - started + shared_seconds
            for name, label in _names(row):
                if name not in names:
                    continue
                if error is not None:
                    self._record(Record(scene, case.name, name, label, _group(case), {}, None, seconds, error))
                    continue
                shown = picture if name == row.name else best_blur(picture, target.picture, target.valid)[1]
                scores = self._scores(shown, target, regions, alignment)
                path = self._save(scene, case, name, shown)
                self._record(Record(scene, case.name, name, label, _group(case), scores, path, seconds))

    def _scores(
        self, picture: Tensor, target: Target, regions: dict[str, Tensor], alignment: Alignment | None
    ) -> dict[str, dict[str, float]]:
        scores: dict[str, dict[str, float]] = {}
        for region, mask in regions.items():
            everything = bool(mask.all())
            scores[region] = {}
            for metric in self.metrics:
                if everything:
                    scores[region][metric.name] = metric(picture, target.picture)
                elif metric.takes_mask:
                    value = metric(picture, target.picture, mask) if bool(mask.any()) else math.nan
                    scores[region][metric.name] = value
                elif region == "frame":
                    # What cannot leave pixels out sees the truth where the truth has none.
                    filled = torch.where(mask, picture, target.picture)
                    scores[region][metric.name] = metric(filled, target.picture)
        if alignment is not None:
            values = (alignment.rotation_errors, alignment.position_errors)
            named = zip(ALIGNMENT, values, strict=True)
            scores["frame"] |= {column.name: float(errors.max()) for column, errors in named}
        return scores

    def _missing(self, scene: str, case: Case) -> bool:
        return any((scene, case.name, name) not in self.known for name in self.settings.row_names)

    def _fail(self, scene: str, cases: Iterable[Case], reason: str) -> None:
        """Nothing leaves a table in silence: every row of the cases gets the reason."""
        for case in cases:
            for row in self.settings.rows:
                for name, label in _names(row):
                    if (scene, case.name, name) not in self.known:
                        self._record(Record(scene, case.name, name, label, _group(case), {}, None, 0.0, reason))

    def _record(self, record: Record) -> None:
        append_record(self.out / RECORDS, record)
        self.records.append(record)
        self.known.add((record.scene, record.case, record.row))

    def _save(self, scene: str, case: Case, name: str, picture: Tensor) -> str:
        """Write a PNG; returns its path relative to the output folder."""
        relative = Path(PICTURES) / scene / case.name / f"{name}.png"
        path = self.out / relative
        pixels = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
        part = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(encoded.tobytes())
            os.replace(part, path)
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}); free some space and --resume") from error
        return relative.as_posix()

    def _say(self, words: str) -> None:
        if self.on_progress is not None:
            self.on_progress(len(self.known), self.total, words)


def _names(row: RowSettings) -> list[tuple[str, str]]:
    """Names and labels of the records that a row leaves."""
    names = [(row.name, row.label)]
    return [*names, (blurred_name(row.name), f"{row.label}, best blur")] if row.blur else names


def _group(case: Case) -> dict[str, str]:
    """What a case belongs to: the axes of the tables."""
    u, v = case.center
    return {
        "protocol": case.protocol,
        "level": case.level,
        "motion": case.motion,
        "zoom": f"x{case.zoom:g}",
        "place": f"{u:.2f},{v:.2f}",
    }


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _model_size(settings: EvalSettings) -> int:
    """The model's own frame size, from its index alone."""
    from cus.inference.settings import InferSettings
    from cus.inference.stages import model_defaults

    names = {row.model or settings.model for row in settings.rows if not row.classical} or {settings.model}
    sizes = [model_defaults(InferSettings(views=(), model=name)) for name in sorted(names)]
    return max(max(sampling.width, sampling.height) for sampling in sizes)


def _cases(
    data: Path, out: Path, settings: EvalSettings, path: Path | None, resume: bool
) -> tuple[Split, dict[str, str]]:
    """The cases: of the folder that is resumed, of a split file, or chosen now and written down."""
    kept = out / SPLIT
    if resume and kept.is_file():
        return load_split(kept, data), {}
    if path is not None:
        split = load_split(path, data)
        if settings.scenes is not None:
            unknown = [name for name in settings.scenes if name not in split.scenes]
            if unknown:
                raise InputError(f"{path} has no scene {unknown[0]}; it has {', '.join(split.scenes)}")
            scenes = {name: split.scenes[name] for name in settings.scenes}
            split = Split(split.protocol, split.size, split.rules, scenes)
        return split, {}
    split, failures = build_split(data, settings.made_protocol(), settings.size, settings.made_rules(), settings.scenes)
    if len(split) == 0:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(failures.items())[:4])
        raise InputError(f"no scene in {data} gives a case: {reasons}")
    return split, failures


def _begin(out: Path, settings: EvalSettings, split: Split, resume: bool, retry: bool) -> list[Record]:
    """Records to go on from. Raises InputError where the folder holds another evaluation."""
    path, records = out / SETTINGS, out / RECORDS
    # A table may be laid out anew; what its numbers depend on may not change.
    layout = ("title", "axes", "baseline", "rows", "metrics", "scenes")
    settled = {name: value for name, value in settings.summary().items() if name not in layout}
    key = fingerprint([repr(settled), repr(settings.rows), repr(split)])
    if records.exists() and not resume:
        raise InputError(f"{out} already holds an evaluation: --resume goes on with it, --overwrite replaces it")
    if resume and path.is_file() and read_json(path).get("fingerprint") != key:
        raise InputError(
            f"{out} was made with other settings or cases (see its {SETTINGS}); give the same ones, or another --out"
        )
    save_split(out / SPLIT, split)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"fingerprint": key, "settings": settings.summary()}, indent=1))
    os.replace(part, path)
    if not records.exists():
        return []
    found = latest_records(read_records(records))
    return [record for record in found if not (retry and record.error is not None)]
