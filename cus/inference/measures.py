"""Measures a run's close-up: how much of it the photographs show, and whether they agree on the geometry."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, fused_warp
from cus.conditioning.fused.blend import Layer, look_up
from cus.conditioning.fused.sampling import blur
from cus.conditioning.fused.views import placements, views_of
from cus.conditioning.fused.warp import SEEN
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.estimators.consistency import MAX_ROUND_TRIP, round_trip_errors

# Frames within this fraction of the largest magnification show the same; the last of them is the close-up.
SAME_MAGNIFICATION = 0.01
# References are predicted at most at this longest side, and at most this many of them, evenly spaced.
HELD_OUT_SIDE, HELD_OUT_VIEWS = 384, 4
# Predictions are compared over Gaussians of this many pixels, where the reference varies by more than noise.
STRUCTURE_SIGMA, LEAST_VARIATION = 3.0, 0.01
# A patch counts as predicted if its correlation with the reference is at least this.
PREDICTED = 0.7
# A smaller fraction of a view is not evidence.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Measures:
    """Measures of one run. Fractions are in [0, 1]; NaN means not measurable.

    Attributes:
        frame: index of the close-up, the frame with the largest magnification.
        view: index of the reference that sees it with the most pixels, among the placed ones.
        seen_by_one: fraction of the close-up's pixels that at least one reference sees.
        seen_by_two: fraction that at least two references see.
        photo_pixels: photograph pixels per pixel of the close-up along a side: the median where it is seen.
        confidence: mean confidence over the photographs.
        overlap: fraction of the photographs' pixels whose points lie inside another photograph.
        depth_agreement: fraction of those that another view's depth maps back to within 1.5 pixels.
        held_out: fraction of a photograph's structured patches that the others predict through the geometry.
        focal_low: 10 % quantile of a guessed focal length in pixels.
        focal_high: 90 % quantile of a guessed focal length in pixels.
        width: width of the photograph in the same pixels.
        views: number of photographs.
        seen_mean: fraction of a frame's pixels that the photographs show, mean over the frames.
        seen_least: the same for the frame with the smallest fraction.
    """

    frame: int
    view: int
    seen_by_one: float
    seen_by_two: float
    photo_pixels: float
    confidence: float
    overlap: float
    depth_agreement: float
    held_out: float
    focal_low: float = math.nan
    focal_high: float = math.nan
    width: float = math.nan
    views: int = 2
    seen_mean: float = math.nan
    seen_least: float = math.nan

    def to_tensor(self) -> Tensor:
        """[15] float64, for saving."""
        return torch.tensor(astuple(self), dtype=torch.float64)

    @staticmethod
    def from_tensor(values: Tensor) -> "Measures":
        """Inverse of `to_tensor`; earlier versions recorded only the first twelve values."""
        names = [field.name for field in fields(Measures)][: len(values)]
        named = dict(zip(names, values.tolist(), strict=True))
        return Measures(**named | {name: int(named[name]) for name in ("frame", "view", "views") if name in named})


@dataclass(frozen=True)
class Sight:
    """How the references see one frame.

    Attributes:
        layers: V layers at the working size.
        masks: [V, H, W] bool, where each reference sees the frame's surface.
        photo_pixels: [V, H, W] photograph pixels per frame pixel along a side; 0 where unseen.
    """

    layers: list[Layer]
    masks: Tensor
    photo_pixels: Tensor

    @property
    def best(self) -> int:
        """Index of the reference that sees the frame with the most photograph pixels."""
        return int(self.photo_pixels.square().sum(dim=(1, 2)).argmax())


def closest_frame(depths: Tensor, masks: Tensor, cameras: Cameras) -> int:
    """The frame with the largest magnification, the last among equals.

    A frame's magnification is the number of its pixels per scene unit at the path's end point: the middle of its last
    frame with any surface, at the median depth there. So a zoom's close-up is its end, whatever the depths.

    Args:
        depths: [T, H, W] z-depths in scene units.
        masks: [T, H, W] bool, where there are depths.
        cameras: T cameras of the frames.
    """
    covered = [t for t in range(len(cameras)) if bool(masks[t].any())]
    if not covered:
        return len(cameras) - 1
    end = covered[-1]
    middle = torch.full_like(depths[end : end + 1], float(depths[end][masks[end]].median()))
    point = cameras[end].backproject(middle.to(cameras.viewmats))[0, cameras.height // 2, cameras.width // 2]
    distances = cameras.project(point[None])[1][:, 0]
    scales = torch.where(distances > 0, cameras.Ks[:, 0, 0] / distances.clamp(min=1e-12), 0.0)
    return int(torch.nonzero(scales >= (1 - SAME_MAGNIFICATION) * scales.max())[-1])


def sight(scene: SceneEstimate, camera: Cameras, depth: Tensor, finer: Sequence[float]) -> Sight:
    """Sample the references at a frame's surface.

    Args:
        scene: V references with cameras and depths.
        camera: camera of the frame.
        depth: [H, W] z-depths of the frame, 0 in holes.
        finer: for each of V photographs, its pixels per pixel of the working size along a side.
    """
    inverse = torch.where(depth > 0, 1 / depth.double().clamp(min=1e-12), 0.0)
    views = views_of(scene, None)
    layers = [look_up(view, place, inverse) for view, place in zip(views, placements(views, camera), strict=True)]
    masks = torch.stack([layer.seen > SEEN for layer in layers])
    footprints = torch.stack([layer.footprint * factor for layer, factor in zip(layers, finer, strict=True)])
    return Sight(layers, masks, footprints * masks)


def measure(
    scene: SceneEstimate, cameras: Cameras, warped: Conditioning, valid: Tensor, finer: Sequence[float], width: float
) -> tuple[Measures, Sight]:
    """Measure a run.

    Args:
        scene: V references with cameras and depths.
        cameras: T cameras of the frames.
        warped: conditioning of the frames.
        valid: [V, h, w] bool, valid pixels of the photographs.
        finer: for each of V views, pixels of its colour source per pixel of the working size along a side.
        width: width of the first photograph at the working size.

    Returns:
        The measures, and the references' sight of the close-up.
    """
    frame = closest_frame(warped.depths, warped.masks, cameras.to(scene.images.device))
    camera = cameras[frame].to(scene.images.device)
    seen = sight(scene, camera, warped.depths[frame] * warped.masks[frame], finer)
    count = seen.masks.sum(dim=0)
    finest = seen.photo_pixels.amax(dim=0)
    overlap, agreement = depth_agreement(scene, valid)
    shown = warped.masks.float().mean(dim=(1, 2))
    low, high = scene.focal_range or (math.nan, math.nan)
    measures = Measures(
        frame=frame,
        view=seen.best,
        seen_by_one=float((count >= 1).float().mean()),
        seen_by_two=float((count >= 2).float().mean()),
        photo_pixels=float(finest[finest > 0].median()) if bool((finest > 0).any()) else math.nan,
        confidence=float(scene.confidences[valid].mean()) if bool(valid.any()) else math.nan,
        overlap=overlap,
        depth_agreement=agreement,
        held_out=held_out(scene, valid),
        focal_low=low,
        focal_high=high,
        width=width,
        views=len(scene),
        seen_mean=float(shown.mean()),
        seen_least=float(shown.min()),
    )
    return measures, seen


def depth_agreement(scene: SceneEstimate, valid: Tensor) -> tuple[float, float]:
    """Fraction of valid pixels [V, h, w] that lie inside another view, and of these the fraction with equal depths."""
    if len(scene) == 1:
        return 0.0, math.nan
    inverse = torch.where(scene.depths > 0, 1 / scene.depths.clamp(min=1e-12), 0.0)
    inside = agreeing = 0
    for view in range(len(scene)):
        others = [other for other in range(len(scene)) if other != view]
        errors = round_trip_errors(inverse, scene.cameras, view, others).amin(dim=0)[valid[view]]
        inside += int(torch.isfinite(errors).sum())
        agreeing += int((errors < MAX_ROUND_TRIP).sum())
    return inside / max(int(valid.sum()), 1), agreeing / inside if inside else math.nan


def held_out(scene: SceneEstimate, valid: Tensor) -> float:
    """How well a photograph is predicted from the others through the estimated geometry, in [0, 1]; NaN: unknown.

    Each of up to `HELD_OUT_VIEWS` references in turn is left out and predicted by warping the others' pictures and
    depths into its camera. The two are correlated around every pixel that the prediction covers and where the reference
    has structure; the result is the mean over the references of the fraction of pixels with a correlation of at least
    `PREDICTED`. Correlation ignores exposure; neither plain walls nor parts seen in only one photograph count.
    """
    if len(scene) == 1:
        return math.nan
    count = min(len(scene), HELD_OUT_VIEWS)
    chosen = np.linspace(0, len(scene) - 1, count).round().astype(int).tolist()
    shares = [_predicted_share(scene, valid[view], view) for view in chosen]
    known = [share for share in shares if not math.isnan(share)]
    return sum(known) / len(known) if known else math.nan


def _predicted_share(scene: SceneEstimate, valid: Tensor, view: int) -> float:
    """The fraction of one view's structured pixels that the other views predict; NaN if they show nothing of it."""
    height, width = scene.images.shape[-2:]
    scale = min(1.0, HELD_OUT_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rest = [other for other in range(len(scene)) if other != view]
    others = replace(
        scene,
        images=scene.images[rest],
        cameras=scene.cameras[rest],
        depths=scene.depths[rest],
        confidences=scene.confidences[rest],
        gains=None,
    )
    target = scene.cameras[view].resized(size[1], size[0])
    try:
        # Their original depths: after making them agree, the result would no longer measure their quality.
        predicted = fused_warp(others, target, None, False, agreed=True, with_layers=False)
    except InputError:  # none of their points land in this view
        return math.nan
    counts = F.interpolate(valid[None, None].float(), size, mode="area")[0, 0] > 0.99
    mask = predicted.masks[0] & counts.to(predicted.masks.device)
    truth = F.interpolate(scene.images[view : view + 1], size, mode="area")[0]
    correlation, structured = _local_correlation(predicted.images[0], truth, mask)
    if float(structured.float().mean()) < LEAST_SHARE:
        return math.nan
    return float((correlation[structured] >= PREDICTED).float().mean())


def _local_correlation(first: Tensor, second: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """[H, W] correlation of two pictures [3, H, W] around each pixel, and where the second has enough structure."""
    weights = mask.float()
    around = blur(weights[None], STRUCTURE_SIGMA)[0].clamp(min=1e-3)

    def smooth(values: Tensor) -> Tensor:
        return blur((values * weights)[None].contiguous(), STRUCTURE_SIGMA)[0] / around

    a, b = (picture.mean(dim=0) for picture in (first, second))
    a, b = a - smooth(a), b - smooth(b)
    aa, bb, ab = smooth(a * a), smooth(b * b), smooth(a * b)
    return ab / ((aa + 1e-6) * (bb + 1e-6)).sqrt(), mask & (bb > LEAST_VARIATION**2)


def plain_crop(photograph: Tensor, seen: Sight, view: int, working: tuple[int, int]) -> np.ndarray | None:
    """The part of a photograph shown by a frame, resampled to the frame's size, without any warping.

    Args:
        photograph: [3, Hi, Wi] uint8, the whole photograph of reference `view` at any size.
        seen: the references' sight of the frame; position and scale of the crop are medians over the seen pixels.
        view: index of the reference.
        working: width and height of the reference at the working size.

    Returns:
        [H, W, 3] uint8, Lanczos; black where the frame extends outside the photograph. None if it sees nothing.
    """
    layer, mask = seen.layers[view], seen.masks[view]
    if not bool(mask.any()):
        return None
    height, width = mask.shape
    rows, columns = torch.nonzero(mask, as_tuple=True)
    scale = float(layer.footprint[mask].median())
    left = float((layer.x[mask] - scale * (columns + 0.5)).median())
    top = float((layer.y[mask] - scale * (rows + 0.5)).median())
    finer_x, finer_y = photograph.shape[-1] / working[0], photograph.shape[-2] / working[1]
    box = (left * finer_x, top * finer_y, (left + scale * width) * finer_x, (top + scale * height) * finer_y)
    return _cropped(photograph.permute(1, 2, 0).cpu().numpy(), box, (width, height))


def _cropped(picture: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Resample a box (left, top, right, bottom) of a picture [H, W, 3] to another (width, height)."""
    height, width = picture.shape[:2]
    # A tiny overlap of the border is rounding and must not give a black line.
    left, top, right, bottom = (
        min(max(at, 0.0), limit) if -0.5 < at < limit + 0.5 else at
        for at, limit in zip(box, (width, height, width, height), strict=True)
    )
    # A few more pixels than the box, for the filter.
    x0, y0, x1, y1 = (
        max(0, int(left) - 8),
        max(0, int(top) - 8),
        min(width, int(right) + 9),
        min(height, int(bottom) + 9),
    )
    before_x, before_y = (math.ceil(max(0.0, -at)) for at in (left, top))
    after_x, after_y = math.ceil(max(0.0, right - width)), math.ceil(max(0.0, bottom - height))
    padded = np.pad(picture[y0:y1, x0:x1], ((before_y, after_y), (before_x, after_x), (0, 0)))
    dx, dy = before_x - x0, before_y - y0
    moved = (left + dx, top + dy, right + dx, bottom + dy)
    return np.array(Image.fromarray(padded).resize(size, Image.Resampling.LANCZOS, box=moved))
