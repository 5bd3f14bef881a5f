"""Filters of clips: each gives a value, what it is held to, and so a verdict that the manifest keeps."""

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
from cus.datasets.scene_clips.rendered import Rendered, psnr

# A camera is behind a surface that is nearer to a reference than the camera is, by more than this share.
_BEHIND = 0.02
_NEAREST_SHARE = 0.01


@dataclass(frozen=True)
class Verdict:
    """One filter's.

    Attributes:
        name: of what was measured.
        value: as measured; None where it could not be, which passes.
        bound: what it is held to.
        is_least: whether the value must be at least the bound; else at most.
    """

    name: str
    value: float | None
    bound: float
    is_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether the clip may stay."""
        if self.value is None:
            return True
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def entry(self) -> dict[str, Any]:
        """What JSON keeps of it."""
        return {**asdict(self), "value": _finite(self.value), "passed": self.passed}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def conditioning_verdicts(
    targets: Tensor, valid: Tensor, conditioning: Conditioning, filters: Filters
) -> list[Verdict]:
    """Coverage, agreement and sharpness of a clip.

    Args:
        targets: [T, 3, H, W].
        valid: [T, H, W] bool, where they are known.
        conditioning: of the same cameras.
        filters: the bounds.
    """
    known = conditioning.masks & valid
    agreement = psnr(conditioning.images, targets, known)
    return [
        Verdict("coverage", float(conditioning.coverage.mean()), filters.least_coverage),
        Verdict("agreement", agreement, filters.least_agreement),
        Verdict("sharpness", sharpness(targets, conditioning.images, known), filters.least_sharpness),
    ]


def sharpness(targets: Tensor, conditioning: Tensor, known: Tensor) -> float | None:
    """Mean gradient of targets over that of conditioning [T, 3, H, W], between known [T, H, W] pixels; None: flat."""
    pairs = known[..., 1:] & known[..., :-1]
    gradients = [images.diff(dim=-1).abs().mean(dim=1)[pairs] for images in (targets, conditioning)]
    if not len(gradients[0]) or float(gradients[1].mean()) < 1e-4:
        return None
    return float(gradients[0].mean() / gradients[1].mean())


def truth_verdicts(
    truth: Rendered, path: Cameras, seen: Rendered, references: Cameras, scale: float, filters: Filters
) -> list[Verdict]:
    """Opacity, nearest surface, and whether cameras stand inside of something, of rendered ground truth.

    Args:
        truth: of the path.
        path: T cameras.
        seen: the same scene as the references see it.
        references: V cameras.
        scale: of the scene.
        filters: the bounds.
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
    """The hundredth of a frame's known depths [H, W] that is nearest ends here."""
    values = depth[depth > 0]
    return float(np.quantile(values.numpy(), _NEAREST_SHARE)) if len(values) else None


def inside_geometry(centers: Tensor, depths: Tensor, references: Cameras) -> float:
    """Share of camera centres [T, 3] that are hidden in every reference into whose picture they fall.

    Args:
        centers: of the cameras in question; those in no reference's picture are taken to be free.
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
    """Whether a clip stays."""
    return all(verdict.passed for verdict in verdicts)
