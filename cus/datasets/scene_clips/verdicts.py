"""Filters of clips: each compares a measured value with a bound and gives a verdict for the manifest."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning
from cus.datasets.scene_clips.recipe import Filters
from cus.datasets.scene_clips.truth import Rendered, psnr

# A camera is behind a surface that is nearer to a reference than the camera is by more than this fraction.
_BEHIND = 0.02
_NEAREST_SHARE = 0.01


@dataclass(frozen=True)
class Verdict:
    """The verdict of one filter.

    Attributes:
        name: name of the measurement.
        value: measured value; None if it could not be measured, which passes.
        bound: bound for the value.
        is_least: whether the bound is a minimum; else it is a maximum.
    """

    name: str
    value: float | None
    bound: float
    is_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether the clip passes the filter."""
        if self.value is None:
            return True
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def entry(self) -> dict[str, Any]:
        """Its entry in JSON."""
        return {**asdict(self), "value": _finite(self.value), "passed": self.passed}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def conditioning_verdicts(
    targets: Tensor, valid: Tensor, conditioning: Conditioning, filters: Filters
) -> list[Verdict]:
    """Coverage, agreement and sharpness of a clip.

    Args:
        targets: [T, 3, H, W] ground truth of the frames.
        valid: [T, H, W] bool, where the targets are known.
        conditioning: conditioning of the same cameras.
        filters: bounds of the filters.
    """
    known = conditioning.masks & valid
    agreement = psnr(conditioning.images, targets, known)
    return [
        Verdict("coverage", float(conditioning.coverage.mean()), filters.least_coverage),
        Verdict("agreement", agreement, filters.least_agreement),
        Verdict("sharpness", sharpness(targets, conditioning.images, known), filters.least_sharpness),
    ]


def sharpness(targets: Tensor, conditioning: Tensor, known: Tensor) -> float | None:
    """Ratio of mean gradients of targets and conditioning [T, 3, H, W], between known [T, H, W] pixels; None: flat."""
    pairs = known[..., 1:] & known[..., :-1]
    gradients = [images.diff(dim=-1).abs().mean(dim=1)[pairs] for images in (targets, conditioning)]
    if not len(gradients[0]) or float(gradients[1].mean()) < 1e-4:
        return None
    return float(gradients[0].mean() / gradients[1].mean())


def truth_verdicts(
    truth: Rendered, path: Cameras, seen: Rendered, references: Cameras, scale: float, filters: Filters
) -> list[Verdict]:
    """Opacity, nearest surface, and cameras inside geometry, for rendered ground truth.

    Args:
        truth: renders along the path.
        path: T cameras of the frames.
        seen: renders of the same scene from the references.
        references: V cameras of the references.
        scale: scene scale.
        filters: bounds of the filters.
    """
    nearest = [_nearest(depth) for depth in truth.depths]
    known = [depth for depth in nearest if depth is not None]
    distance = min(known) / scale if known else None
    return [
        Verdict("opacity", float(truth.alphas.mean(dim=(1, 2)).min()), filters.least_opacity),
        Verdict("distance", distance, filters.least_distance),
        Verdict("inside", inside_geometry(path.centers, seen.depths, references), filters.most_inside, is_least=False),
    ]


def _nearest(depth: Tensor) -> float | None:
    """The first percentile of a frame's known depths [H, W]."""
    values = depth[depth > 0]
    return float(np.quantile(values.numpy(), _NEAREST_SHARE)) if len(values) else None


def inside_geometry(centers: Tensor, depths: Tensor, references: Cameras) -> float:
    """Fraction of camera centres [T, 3] that are hidden in every reference whose picture contains them.

    Args:
        centers: centres of the cameras to check; those in no reference's picture count as free.
        depths: [V, H, W] z-depths of the references, 0 = none.
        references: V cameras of H x W pixels.
    """
    pixels, z = references.project(centers)
    size = pixels.new_tensor([references.width, references.height])
    looked_at = (z > 0) & ((pixels >= 0) & (pixels < size)).all(dim=-1)
    columns, rows = (pixels[..., axis].long().clamp(0, int(size[axis]) - 1) for axis in (0, 1))
    surface = torch.stack([depth[row, column] for depth, row, column in zip(depths, rows, columns, strict=True)])
    looked_at &= surface > 0
    hidden = looked_at & (z > surface * (1 + _BEHIND))
    inside = looked_at.any(dim=0) & (hidden == looked_at).all(dim=0)
    return float(inside.float().mean())


def all_passed(verdicts: Sequence[Verdict]) -> bool:
    """Whether a clip is kept."""
    return all(verdict.passed for verdict in verdicts)
