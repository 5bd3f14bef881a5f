"""`cus-eval`: scores every row on every case of a split, records each result immediately, and can be resumed."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.cameras import PosedPhotos
from cus.cameras.alignment import Alignment, align_cameras
from cus.datasets.scenes import open_source
from cus.diffusion.loading import find_fitting_lora, find_model
from cus.diffusion.parts import sampling_of
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.estimators.choice import prepare
from cus.evaluation.folder import PICTURES, RECORDS, RESULTS, Begun, EvaluationFolder, Mode, begin, held_size
from cus.evaluation.metrics import Metric, best_blur, make_metrics, scored
from cus.evaluation.protocol import Case, index_of, window_of
from cus.evaluation.records import Record, append_record, latest_records
from cus.evaluation.resection import reference_features, resected
from cus.evaluation.results import write_results
from cus.evaluation.rows import Frames
from cus.evaluation.settings import EvalSettings
from cus.evaluation.tables import MetricColumn
from cus.evaluation.targets import Target, covisible, frame_size, read_target, references_at
from cus.evaluation.work import CaseWork, Models, References
from cus.files import explained
from cus.inference.progress import OnProgress
from cus.inference.settings import torch_device

# With estimated poses: the distance of the references' cameras from the given ones, and the reprojection error of the
# features that determined the target's camera.
ESTIMATION = (
    MetricColumn("rotation_error", "Rotation error", "°", False),
    MetricColumn("position_error", "Position error", "", False),
    MetricColumn("place_error", "Place error", "px", False),
)


@dataclass(frozen=True)
class Outcome:
    """Results of an evaluation.

    Attributes:
        files: paths of the tables and the page.
        records: all records.
        without_cases: scene -> reason why it has no case.
        unavailable: metric -> reason why it is not in the tables.
    """

    files: list[Path]
    records: list[Record]
    without_cases: dict[str, str]
    unavailable: dict[str, str]

    @property
    def failures(self) -> list[Record]:
        """The records without scores."""
        return [record for record in self.records if record.error is not None]


def evaluate(
    data: Path,
    out: Path,
    settings: EvalSettings,
    split: Path | None = None,
    *,
    mode: Mode | None = None,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Run the benchmark.

    Args:
        data: folder of posed photographs, or of several such scenes (`cus.datasets.scenes`).
        out: folder for `split.json`, `records.jsonl`, pictures, tables and page.
        settings: settings of the evaluation.
        split: file with the cases of an earlier evaluation; None chooses them by `settings.rules`.
        mode: whether to resume or replace an evaluation in `out`; by default an existing one is refused.
        on_progress: called with (rows done, total rows, current work).

    Raises:
        InputError: invalid settings or data, or a folder that holds another evaluation; raised before anything slow
            starts and with nothing changed.
    """
    mode = mode or Mode()
    settings.check()
    torch_device(settings.device)
    folder = EvaluationFolder(out)
    # Resuming uses the split in the folder.
    folder.prepare(mode, [path for path in (split, data) if path is not None and not (mode.resume and path == split)])
    try:
        # Use the resolved name from here on: tables of different estimators must not look alike.
        settings = replace(settings, estimator=prepare(settings.estimator).estimator)
        metrics, unavailable = make_metrics(settings.metrics, torch.device("cpu"))
        settings, model_size = _with_models(settings)
        settings = replace(settings, size=settings.size or held_size(out, split, mode) or model_size)
        begun = begin(data, folder, settings, split, [metric.name for metric in metrics], mode)
        run = _Run(data, folder, settings, begun, metrics, retry=mode.retry, on_progress=on_progress)
        try:
            for name in begun.split.scenes:
                run.scene(name)
                run.write()
        finally:
            files = run.write()
        folder.rewrite()
    finally:
        folder.close()
    return Outcome(files, latest_records(run.records), begun.without_cases, unavailable)


def _with_models(settings: EvalSettings) -> tuple[EvalSettings, int]:
    """Pin Hub models in the settings to their commits; also returns the models' frame size, from their indices alone.

    Raises:
        InputError: a missing model, or conditioning images that are unknown or lack an option of a row.
    """
    names = {row.model or settings.model for row in settings.rows if isinstance(row, Frames)}
    if not names and settings.size == 0:
        names = {settings.model}
    models = {name: find_model(name) for name in sorted(names)}
    samplings = {name: sampling_of(model) for name, model in models.items()}
    for row in settings.rows:
        if isinstance(row, Frames):
            row.images(samplings[row.model or settings.model].conditioning)
    fitting = {
        (row.model or settings.model, row.lora): find_fitting_lora(row.lora, models[row.model or settings.model])
        for row in settings.rows
        if isinstance(row, Frames) and row.lora is not None
    }
    loras: dict[str | None, str] = {lora: found.name for (_, lora), found in fitting.items()}

    def pinned(name: str) -> str:
        # A branch may change before the evaluation is resumed, and a table must not mix two commits.
        return models[name].name if name in models else name

    rows = [
        replace(row, model=row.model and pinned(row.model), lora=loras.get(row.lora))
        if isinstance(row, Frames)
        else row
        for row in settings.rows
    ]
    size = max((max(sampling.width, sampling.height) for sampling in samplings.values()), default=0)
    return replace(settings, model=pinned(settings.model), rows=rows), size


class _Run:
    def __init__(
        self,
        data: Path,
        folder: EvaluationFolder,
        settings: EvalSettings,
        begun: Begun,
        metrics: list[Metric],
        *,
        retry: bool,
        on_progress: OnProgress | None,
    ) -> None:
        self.data, self.folder, self.settings, self.split = data, folder, settings, begun.split
        self.metrics, self.on_progress = metrics, on_progress
        self.without_cases = begun.without_cases
        self.models = Models(settings.device, settings.dtype)
        self.total = len(self.split) * len(settings.row_names)
        # Failed cases stay in the tables until they are retried.
        self.records = list(begun.records)
        settled = (record for record in self.records if record.error is None or not retry)
        self.known = {(record.scene, record.case, record.row) for record in settled}

    def write(self) -> list[Path]:
        """Write the tables and the page for the current records."""
        if not self.records:
            return []
        columns: list[Metric | MetricColumn] = [*self.metrics]
        if self.settings.poses == "estimated":
            columns += ESTIMATION
        summary = self.settings.summary()
        if self.without_cases:
            summary["scenes_without_cases"] = self.without_cases
        for name in RESULTS:
            self.folder.claim(name)
        return write_results(
            self.folder.path,
            self.records,
            columns,
            self.settings.row_names,
            summary,
            axes=self.settings.axes,
            baseline=self.settings.baseline or None,
        )

    def scene(self, name: str) -> None:
        """Evaluate all cases of a scene, grouped by their pair of references."""
        cases = self.split.scenes[name].cases
        open_cases = [case for case in cases if self._missing(name, case)]
        if not open_cases:
            return
        try:
            posed = open_source(self.split.source(name, self.data))
        except InputError as error:
            self._fail(name, open_cases, str(error))
            return
        for note in posed.notes:
            self._say(f"{name}: {note}")
        for pair in dict.fromkeys(case.references for case in open_cases):
            self._pair(name, posed, [case for case in open_cases if case.references == pair])

    def _pair(self, scene: str, posed: PosedPhotos, cases: Sequence[Case]) -> None:
        started = time.perf_counter()
        self._say(f"{scene}: cameras and depth of {' and '.join(cases[0].references)}")
        try:
            references, alignment = self._references(posed, cases[0].references)
        except Exception as error:  # one scene of many: record its reason and continue with the others
            self._fail(scene, cases, _reason(error))
            return
        seconds = (time.perf_counter() - started) / len(cases)
        for case in cases:
            self._case(scene, posed, case, references, alignment, seconds)
        self.write()

    def _references(self, posed: PosedPhotos, names: Iterable[str]) -> tuple[References, Alignment | None]:
        """The references at the model's size with depths, in the data set's world."""
        chosen = posed.select([index_of(posed, name) for name in names])
        width, height = frame_size(*chosen.sizes[0], self.settings.size)
        photos, cameras = chosen.read(width, height)
        images, valid = photos.images.to(self.models.device), photos.valid.to(self.models.device)
        if self.settings.poses == "given":
            used, alignment = list(range(len(chosen))), None
            scene = estimate_scene(images, cameras.to(self.models.device), self.settings.estimator, valid=valid)
        else:
            focals = cameras.Ks[:, 0, 0]
            estimated = estimate_scene(images, None, self.settings.estimator, valid=valid, focals=focals)
            used = list(estimated.used)
            alignment = align_cameras(estimated.cameras, cameras[used])
            scene = estimated.moved(alignment)

        def read_larger(size: int) -> list[Tensor]:
            return references_at(chosen, photos, size, used)

        return References(scene, valid[used], self.models, self.settings.defaults, read_larger), alignment

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
            target, errors = read_target(posed, case, self.settings.size), {}
            if alignment is not None:
                target, errors = self._placed(posed, case, references, target, alignment)
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
            names = [name for name in row.names if (scene, case.name, name) not in self.known]
            if not names:
                continue
            self._say(f"{scene} {case.name}: {row.label}")
            started = time.perf_counter()
            try:
                picture, error = _finite(row.picture(work).float().cpu()).clamp(0, 1), None
            except Exception as reason:
                picture, error = torch.empty(0), _reason(reason)
            seconds = time.perf_counter() - started + shared_seconds
            for name, label in row.names.items():
                if name not in names:
                    continue
                if error is not None:
                    self._record(Record(scene, case.name, name, label, _group(case), {}, None, seconds, error))
                    continue
                shown = picture if name == row.name else best_blur(picture, target.picture, target.valid)[1]
                scores = self._scores(shown, target, regions)
                scores["frame"] |= errors
                path = self._save(scene, case, name, shown)
                self._record(Record(scene, case.name, name, label, _group(case), scores, path, seconds))

    def _scores(self, picture: Tensor, target: Target, regions: dict[str, Tensor]) -> dict[str, dict[str, float]]:
        scores: dict[str, dict[str, float]] = {}
        for region, mask in regions.items():
            everything = bool(mask.all())
            scores[region] = {}
            for metric in self.metrics:
                if everything:
                    scores[region][metric.name] = scored(metric, picture, target.picture)
                elif metric.takes_mask:
                    value = scored(metric, picture, target.picture, mask) if bool(mask.any()) else math.nan
                    scores[region][metric.name] = value
                elif region == "frame":
                    # Metrics that cannot exclude pixels see no error where the truth is missing.
                    filled = torch.where(mask, picture, target.picture)
                    scores[region][metric.name] = scored(metric, filled, target.picture)
        return scores

    def _placed(
        self, posed: PosedPhotos, case: Case, references: References, target: Target, alignment: Alignment
    ) -> tuple[Target, dict[str, float]]:
        """The target with its camera in the estimated scene, and the errors of the estimates (`ESTIMATION`)."""
        scene, valid = references.scene, references.valid
        features = references.once(("features",), lambda: reference_features(scene, valid))
        held_out = posed.select([index_of(posed, case.target)])
        size = frame_size(*held_out.sizes[0], self.settings.size)
        photo, camera = held_out.read(*size)
        window = window_of(case.center, case.zoom)
        found = resected(scene, features, photo.images[0], camera, window, photo.valid[0])
        enlargement = float(target.camera.Ks[0, 0, 0] / camera.Ks[0, 0, 0])
        values = alignment.rotation_errors.max(), alignment.position_errors.max(), enlargement * found.error
        errors = {column.name: float(value) for column, value in zip(ESTIMATION, values, strict=True)}
        return replace(target, camera=replace(target.camera, viewmats=found.viewmats)), errors

    def _missing(self, scene: str, case: Case) -> bool:
        return any((scene, case.name, name) not in self.known for name in self.settings.row_names)

    def _fail(self, scene: str, cases: Iterable[Case], reason: str) -> None:
        """Record the reason for every row of the cases: nothing disappears from a table silently."""
        for case in cases:
            for row in self.settings.rows:
                for name, label in row.names.items():
                    if (scene, case.name, name) not in self.known:
                        self._record(Record(scene, case.name, name, label, _group(case), {}, None, 0.0, reason))

    def _record(self, record: Record) -> None:
        path = self.folder.claim(RECORDS)
        with explained(path, self.folder.remedy):
            append_record(path, record)
        self.records.append(record)
        self.known.add((record.scene, record.case, record.row))

    def _save(self, scene: str, case: Case, name: str, picture: Tensor) -> str:
        """Write a PNG; returns its path relative to the output folder."""
        relative = Path(PICTURES) / scene / case.name / f"{name}.png"
        pixels = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
        self.folder.write(relative.as_posix(), lambda part: part.write_bytes(encoded.tobytes()))
        return relative.as_posix()

    def _say(self, words: str) -> None:
        if self.on_progress is not None:
            self.on_progress(len(self.known), self.total, words)


def _finite(picture: Tensor) -> Tensor:
    if not bool(torch.isfinite(picture).all()):
        raise InputError("the picture has values that are not numbers")
    return picture


def _group(case: Case) -> dict[str, str]:
    """The group of a case: the axes of the tables."""
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
