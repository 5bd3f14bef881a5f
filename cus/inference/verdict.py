"""Interprets a run's measures for the user: good, fair or poor, with advice, and whether to trust it at all.

docs/report.md states the limits and shows measurements of real photographs on either side of them.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.conversions import fov_from_focal
from cus.estimators import SceneEstimate
from cus.estimators.focal_profile import WEAK_GUESS
from cus.inference.folder import State
from cus.inference.measures import Measures, measure, plain_crop
from cus.inference.photographs import Batch, Inputs, size_inside
from cus.inference.photographs import photographs as read
from cus.inference.recorded import conditioning_from

Grade = Literal["good", "fair", "poor"]
ORDER: tuple[Grade, ...] = ("good", "fair", "poor")

# Limits of grades: at least the first is good, at least the second fair.
HELD_OUT = 0.7, 0.4
HELD_OUT_WEAK = 0.7, 0.6  # for a weak guess of the focal length: pictures match, but the geometry can be far off
CONFIDENCE = 0.35, 0.1
COVERAGE = 0.9, 0.6
SEEN_BY_TWO = 0.6, 0.0  # a single photograph's close-up is at least as good as its plain crop
PHOTO_PIXELS = 0.7, 0.3

ADVICE = (
    "use photographs that are sharp and taken nearer to each other (some 20 degrees apart at most, with more than half "
    "of the picture in common) or more of them, give the cameras (--cameras), or try another --estimator"
)
FOCAL_ADVICE = "give --fov or --focal-35mm, from the data sheet of the camera or phone"
_MEASURES, _CROP = "measures", "plain_crop"


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        name: name of the finding.
        grade: good, fair or poor.
        told: measurement as a sentence without a full stop.
        advice: remedy as a sentence without a full stop; empty if good.
    """

    name: str
    grade: Grade
    told: str
    advice: str = ""


@dataclass(frozen=True)
class Verdict:
    """Expected quality of a close-up.

    Attributes:
        grade: the worst grade of the findings.
        trusted: whether the geometry was found; without it the frames do not show the scene.
        findings: findings on geometry, coverage, detail, and the focal length if it was guessed.
        measures: measures behind the findings.
    """

    grade: Grade
    trusted: bool
    findings: tuple[Finding, ...]
    measures: Measures

    @property
    def headline(self) -> str:
        """One sentence without a full stop."""
        if not self.trusted:
            return "the geometry of these photographs was not found, and the close-up shows what is not there"
        weak = [finding.name for finding in self.findings if finding.grade == self.grade]
        if self.grade == "good":
            return "the photographs hold what this close-up shows"
        return f"the close-up is {self.grade}: {' and '.join(weak)}"

    @property
    def advice(self) -> list[str]:
        """Advice, the most urgent first; empty if all is good."""
        ranked = sorted(self.findings, key=lambda finding: -ORDER.index(finding.grade))
        return list(dict.fromkeys(finding.advice for finding in ranked if finding.advice))

    def to_json(self) -> dict[str, Any]:
        """Values for `run.json` and `--json`; None for measures that are unknown."""
        measures = {
            name: None if math.isnan(value) else round(value, 4) for name, value in asdict(self.measures).items()
        }
        return {
            "grade": self.grade,
            "trusted": self.trusted,
            "headline": self.headline,
            "findings": [asdict(finding) for finding in self.findings],
            "measures": measures,
        }


def judge(measures: Measures) -> Verdict:
    """The verdict on a run's measures."""
    findings = [_geometry(measures), _coverage(measures), _detail(measures)]
    if not math.isnan(measures.focal_low):
        findings.append(_focal(measures))
    grades: list[Grade] = [finding.grade for finding in findings]
    grade = _worst(*grades)
    return Verdict(grade, findings[0].grade != "poor", tuple(findings), measures)


def _is_weak(measures: Measures) -> bool:
    return measures.focal_high > WEAK_GUESS * measures.focal_low


def _grade(value: float, limits: tuple[float, float]) -> Grade:
    """The grade of a value; an unknown value is not good."""
    if math.isnan(value):
        return "fair"
    return "good" if value >= limits[0] else "fair" if value >= limits[1] else "poor"


def _worst(*grades: Grade) -> Grade:
    return ORDER[max(ORDER.index(grade) for grade in grades)]


def _percent(share: float) -> str:
    return "an unknown share" if math.isnan(share) else f"{100 * share:.0f} %"


def _geometry(measures: Measures) -> Finding:
    if measures.views == 1:
        return _guessed_geometry(measures)
    limits = HELD_OUT_WEAK if _is_weak(measures) else HELD_OUT
    grade = _worst(_grade(measures.held_out, limits), _grade(measures.confidence, CONFIDENCE))
    told = (
        f"{_percent(measures.held_out)} of a photograph's structure is predicted from the others, depths agree on "
        f"{_percent(measures.depth_agreement)} of what two photographs share, mean confidence {measures.confidence:.2f}"
    )
    advice = f"{FOCAL_ADVICE}; {ADVICE}" if _is_weak(measures) else ADVICE
    return Finding("geometry", grade, told, "" if grade == "good" else advice)


def _guessed_geometry(measures: Measures) -> Finding:
    told = (
        "the depth of one photograph is a network's guess, which no other photograph checks; mean confidence "
        f"{measures.confidence:.2f}"
    )
    advice = "add a photograph taken from a step aside, so that depth is measured, or keep to small moves"
    return Finding("geometry", _worst("fair", _grade(measures.confidence, CONFIDENCE)), told, advice)


def _coverage(measures: Measures) -> Finding:
    if measures.views == 1:
        return _coverage_by_one(measures)
    grade = _worst(_grade(measures.seen_by_one, COVERAGE), _grade(measures.seen_by_two, SEEN_BY_TWO))
    told = (
        f"{_percent(measures.seen_by_one)} of the close-up is seen in one photograph or more, "
        f"{_percent(measures.seen_by_two)} in two or more"
    )
    if measures.seen_least < measures.seen_by_one - 0.005:
        # The end of the path is not its worst part, as between the photographs of an orbit.
        grade = _worst(grade, _grade(measures.seen_mean, COVERAGE))
        told += (
            f"; of all frames {_percent(measures.seen_mean)}, of the one that they show least of "
            f"{_percent(measures.seen_least)}"
        )
    if min(measures.seen_by_one, measures.seen_least) < 0.995:
        told += "; the rest is imagined"
    advice = "add photographs that show this part from nearby, or choose another --target, --trajectory or --zoom"
    return Finding("coverage", grade, told, "" if grade == "good" else advice)


def _coverage_by_one(measures: Measures) -> Finding:
    grade = _worst(_grade(measures.seen_by_one, COVERAGE), _grade(measures.seen_mean, COVERAGE))
    told = (
        f"the photograph shows {_percent(measures.seen_by_one)} of the close-up; of all frames it shows "
        f"{_percent(measures.seen_mean)}, of the one that it shows least of {_percent(measures.seen_least)}"
        + ("; the rest is imagined" if measures.seen_least < 0.995 else "")
    )
    advice = "add photographs that show this part, or choose another --target, a smaller --zoom or another --trajectory"
    return Finding("coverage", grade, told, "" if grade == "good" else advice)


def _detail(measures: Measures) -> Finding:
    grade = _grade(measures.photo_pixels, PHOTO_PIXELS)
    if math.isnan(measures.photo_pixels):
        told = "no photograph shows any of the close-up"
    elif measures.photo_pixels >= 1:
        told = (
            f"each pixel of the close-up shows {measures.photo_pixels:.1f} pixels of a photograph along a side: all "
            "its detail can be real"
        )
    else:
        told = (
            f"each pixel of the close-up shows {measures.photo_pixels:.2f} pixels of a photograph along a side: detail "
            f"finer than {1 / measures.photo_pixels:.1f} pixels is imagined"
        )
    advice = "add a photograph taken from nearer or with more pixels, or choose a smaller --zoom"
    return Finding("detail", grade, told, "" if grade == "good" else advice)


def _focal(measures: Measures) -> Finding:
    low, high = (fov_from_focal(focal, measures.width) for focal in (measures.focal_high, measures.focal_low))
    weak = _is_weak(measures)
    told = f"guessed: the photographs are {low:.0f} to {high:.0f} degrees wide with a probability of 80 %"
    return Finding(
        "focal length",
        "fair" if weak else "good",
        told,
        f"{FOCAL_ADVICE}: the shape of the scene hangs on it" if weak else "",
    )


def look(
    scene: SceneEstimate,
    cameras: Cameras,
    warped: State,
    inputs: Inputs,
    batch: Batch,
    photographs: Sequence[Tensor] | None,
) -> State:
    """Add to a recorded conditioning the measures of its run, and the plain crop of the best photograph.

    Args:
        scene: scene estimate for the V photographs.
        cameras: T cameras of the frames.
        warped: conditioning as recorded by `state_of`.
        inputs: V photographs.
        batch: decoded photographs at the working size.
        photographs: photographs at full resolution, if the conditioning uses them; None: the batch.
    """
    height, width = scene.images.shape[-2:]
    finer = [1.0] * len(scene)
    if photographs is not None:
        finer = [math.sqrt(p.shape[-1] * p.shape[-2] / (width * height)) for p in photographs]
    valid = batch.set.valid.to(scene.images.device)
    inside = float(size_inside(batch, inputs.photos[0])[0])
    measures, seen = measure(scene, cameras, conditioning_from(warped), valid, finer, inside)
    if not judge(measures).trusted and bool(seen.masks[0].any()):
        # The best view depends on the geometry; paths start at the first view.
        measures = replace(measures, view=0)
    best = read(inputs, batch, [measures.view])[0] if photographs is None else photographs[measures.view]
    crop = plain_crop(best, seen, measures.view, (width, height))
    found = {_MEASURES: measures.to_tensor()}
    if crop is not None:
        found[_CROP] = torch.from_numpy(crop)
    return State(warped.tensors | found, warped.notes)


def seen_in(state: State) -> tuple[Verdict | None, np.ndarray | None]:
    """Verdict and plain crop [H, W, 3] uint8 of a recorded conditioning; None if it was recorded without them."""
    if _MEASURES not in state.tensors:
        return None, None
    crop = state.tensors.get(_CROP)
    return judge(Measures.from_tensor(state.tensors[_MEASURES])), None if crop is None else crop.cpu().numpy()
