"""Measures artefacts of walking into a Gaussian scene: holes, popping, needles."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras

# Opacity from which a pixel counts as covered by Gaussians.
COVERED = 0.5
BLOCK = 16
WORST_SHARE = 0.01
# Depths with a larger relative difference belong to different surfaces.
SAME_SURFACE = 0.05
# Both pictures are blurred by this many pixels before the comparison, so that resampling does not count as change.
BLUR_SIGMA = 1.0
NEEDLE_RATIO = 10.0
NEEDLE_LENGTH = 1 / 20


@dataclass(frozen=True)
class Shot:
    """One rendered view.

    Attributes:
        camera: one camera.
        picture: [3, H, W] RGB in [0, 1].
        alphas: [H, W] opacities in [0, 1].
        depths: [H, W] expected z-depths in scene units; meaningful where alphas are above one half.
    """

    camera: Cameras
    picture: Tensor
    alphas: Tensor
    depths: Tensor


@dataclass(frozen=True)
class FrameMeasures:
    """Measures of one frame of a path.

    Attributes:
        uncovered: fraction of pixels with alpha below one half.
        needles: fraction of the visible Gaussians that are needles (`needle_share`).
        change: mean absolute difference from the next frame on co-visible pixels, of 255; None for the last frame.
        popping: the same over the worst 1 % of blocks of 16x16 pixels, of 255; None for the last frame.
        co_visible: fraction of pixels that were compared; None for the last frame.
    """

    uncovered: float
    needles: float
    change: float | None = None
    popping: float | None = None
    co_visible: float | None = None


@dataclass(frozen=True)
class Steadiness:
    """Measures of all frames of a path."""

    frames: tuple[FrameMeasures, ...]

    def summary(self) -> dict[str, float]:
        """The worst frame for each measure, and their means."""
        changes = [f.change for f in self.frames if f.change is not None]
        popping = [f.popping for f in self.frames if f.popping is not None]
        return {
            "uncovered_mean": sum(f.uncovered for f in self.frames) / len(self.frames),
            "uncovered_worst": max(f.uncovered for f in self.frames),
            "change_mean": sum(changes) / len(changes) if changes else 0.0,
            "popping_mean": sum(popping) / len(popping) if popping else 0.0,
            "popping_worst": max(popping, default=0.0),
            "needles_worst": max(f.needles for f in self.frames),
        }

    def as_json(self) -> dict[str, Any]:
        """All measures, for a file."""
        return {"summary": self.summary(), "frames": [asdict(frame) for frame in self.frames]}

    def table(self, rows: int = 9) -> str:
        """A few evenly spaced frames, and the worst of each column, as text."""
        lines = ["frame   uncovered   change   popping   needles"]
        picked = range(len(self.frames))
        if len(self.frames) > rows:
            picked = [round(i * (len(self.frames) - 1) / (rows - 1)) for i in range(rows)]
        for index in picked:
            lines.append(_row(f"{index:5d}", self.frames[index]))
        worst = self.summary()
        lines.append(
            f"worst {100 * worst['uncovered_worst']:9.2f} %  {max(f.change or 0 for f in self.frames):7.2f} "
            f"{worst['popping_worst']:9.2f} {100 * worst['needles_worst']:7.3f} %"
        )
        lines.append("change, popping: of 255, to the next frame; popping is the mean of the worst 1 % of 16x16 blocks")
        return "\n".join(lines)


def _row(label: str, frame: FrameMeasures) -> str:
    change = "      -" if frame.change is None else f"{frame.change:7.2f}"
    popping = "        -" if frame.popping is None else f"{frame.popping:9.2f}"
    return f"{label} {100 * frame.uncovered:9.2f} %  {change} {popping} {100 * frame.needles:7.3f} %"


def uncovered_share(alphas: Tensor) -> float:
    """Fraction of pixels with alphas [H, W] below one half."""
    return (alphas < COVERED).float().mean().item()


def needle_share(conics: Tensor, visible: Tensor, longest_side: int, ratio: float = NEEDLE_RATIO) -> float:
    """Fraction of the visible Gaussians that look like needles in a view.

    A needle's longest axis, as projected and smoothed for the picture, is more than `ratio` times its shortest, and its
    length (four standard deviations) is more than 1/20 of the picture's longest side.

    Args:
        conics: [N, 3] upper triangles of the inverse 2D covariances (xx, xy, yy), 1 / pixels^2.
        visible: [N] bool, whether a Gaussian is visible.
        longest_side: longest side of the picture in pixels.
        ratio: minimum ratio of axes of a needle.
    """
    if not bool(visible.any()):
        return 0.0
    xx, xy, yy = conics[visible].double().unbind(1)
    middle, spread = (xx + yy) / 2, (((xx - yy) / 2).square() + xy.square()).sqrt()
    largest = middle + spread
    # The product of the eigenvalues over the larger one: a difference would cancel for long thin Gaussians.
    smallest = ((xx * yy - xy.square()) / largest).clamp_min(torch.finfo(torch.float64).tiny)
    lengths = 4 / smallest.sqrt()
    needles = ((largest / smallest).sqrt() > ratio) & (lengths > NEEDLE_LENGTH * longest_side)
    return needles.double().mean().item()


def compare(first: Shot, second: Shot) -> tuple[float, float, float]:
    """How much the scene changes between two views, beyond the effect of the cameras' motion.

    Pixels of each picture are located in the other by their expected depth. A pixel counts if it lies on a surface in
    both pictures, inside one surface (not at a depth edge), and nothing nearer hides it in the other. So something that
    vanishes in front of something else counts in the direction that starts from it.

    Returns:
        The mean absolute difference, of 255, over both directions; the worse direction's mean over its worst 1 % of
        blocks, of 255; and the share of pixels compared.
    """
    ways = [_difference(first, second), _difference(second, first)]
    sums = [(difference * counted).sum().item() for difference, counted in ways]
    counts = [counted.sum().item() for _, counted in ways]
    pixels = sum(counted.numel() for _, counted in ways)
    mean = 255 * sum(sums) / max(sum(counts), 1)
    worst = 255 * max(_worst_blocks(difference, counted) for difference, counted in ways)
    return mean, worst, sum(counts) / pixels


def _difference(source: Shot, other: Shot) -> tuple[Tensor, Tensor]:
    """[H, W] mean absolute difference between `source` and `other` at corresponding points; [H, W] where it counts."""
    points = source.camera.backproject(source.depths[None]).reshape(-1, 3)
    pixels, depths = (values[0].unflatten(0, source.depths.shape) for values in other.camera.project(points))
    size = pixels.new_tensor([other.camera.width, other.camera.height])
    inside = ((pixels > 0) & (pixels < size)).all(dim=-1) & (depths > 0)
    maps = torch.cat([_blurred(other.picture), other.depths[None], other.alphas[None]])
    grid = torch.where(inside[..., None], 2 * pixels / size - 1, torch.zeros_like(pixels))
    found = F.grid_sample(maps[None], grid[None], padding_mode="border", align_corners=False)[0]
    not_hidden = found[3] > depths * (1 - SAME_SURFACE)
    counted = inside & not_hidden & (source.alphas > COVERED) & (found[4] > COVERED) & ~_depth_edges(source.depths)
    return (found[:3] - _blurred(source.picture)).abs().mean(dim=0), counted


def _depth_edges(depths: Tensor) -> Tensor:
    """[H, W] bool: pixels within two pixels of a depth discontinuity."""
    padded = F.pad(depths[None, None], (2, 2, 2, 2), mode="replicate")
    nearest, farthest = -F.max_pool2d(-padded, 5, 1)[0, 0], F.max_pool2d(padded, 5, 1)[0, 0]
    return farthest > nearest * (1 + SAME_SURFACE)


def _blurred(picture: Tensor) -> Tensor:
    """[C, H, W] smoothed by a Gaussian of `BLUR_SIGMA` pixels."""
    radius = math.ceil(2 * BLUR_SIGMA)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(picture) / BLUR_SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(picture[:, None], (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def _worst_blocks(difference: Tensor, counted: Tensor) -> float:
    """Mean over the worst 1 % (at least one) of the blocks of which at least half counts; 0 without any."""
    maps = torch.stack([difference * counted, counted.to(difference)])[:, None]
    total, share = F.avg_pool2d(maps, BLOCK, ceil_mode=True, count_include_pad=False)[:, 0]
    means = (total / share)[share >= 0.5]
    if means.numel() == 0:
        return 0.0
    return means.topk(max(1, math.ceil(WORST_SHARE * means.numel()))).values.mean().item()
