"""Makes the references agree, once per scene: consistent depths, and one common exposure.

A slightly wrong depth shifts the other references' pictures against a reference's own. Optical flow measures this
shift; along the epipolar line it gives a correction of the depth. Where the pictures say little, planes fitted around
a pixel say more (`fused/planes.py`). Every target then uses the same corrected depths, so the frames of a path are
consistent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.fused.operations import KERNELS_ON_THREADS, TORCH, Operations
from cus.conditioning.fused.sharpening import gray
from cus.conditioning.fused.views import Placement, View, views_of
from cus.conditioning.options import Backend, resolved_backend
from cus.scene import SceneEstimate

# Flow is measured at twice the working size if that has at most this many pixels along the longest side.
LARGEST_ENLARGED = 1280
# A round of corrections is given by the width in pixels, at the size of the flow, of the Gaussian that smooths them;
# PLANES is a round that puts the depths on planes.
PLANES = "planes"
Rounds = Sequence[float | str]
ROUNDS: Rounds = (PLANES, 2.5, 1.5, PLANES)
# Photographs of at least this many pixels per pixel of the working size are worth depths of twice that size, with flow
# at four times it, up to this many pixels along the longest side: coarse rounds, then fine ones.
FINE_SCALE, LARGEST_FINE = 3.0, 2560
COARSE: Rounds = (PLANES, 4.0, 2.5)
FINE: Rounds = (2.5, 1.5, 1.0, PLANES)
# The longest displacement that a round corrects, in pixels at the size of the flow.
LONGEST_STEP = 3.0
# A correction stands or falls by the mean square difference to the other pictures, over a Gaussian of this width in
# pixels. The difference has to fall by a twentieth, so that correct depths stay; where the pictures differ by more than
# one and a half levels of 255 it may even grow by a fifth, because the way to the correct depth is not straight.
ACCEPTANCE_SIGMA, BETTER, NO_WORSE, DIFFERENT = 4.0, 0.95, 1.2, (1.5 / 255) ** 2
# Planes replace depths where the pictures differ by at most a twentieth more than before, or by this much.
HALF_LEVEL = (0.5 / 255) ** 2
# Where the mean square difference to another picture, over a Gaussian of this width in pixels, comes to the square of
# this gray value, the match counts for a quarter: probably one of the two shows something else.
MISMATCH_SIGMA, MISMATCH = 2.0, 0.02
# Gray values change by how much they do over a Gaussian of this width in pixels: about what matching compares.
GRADIENT_SIGMA = 1.5
# Number of nearest references that a reference is compared with, at most, so the cost is linear in their number.
PARTNERS = 3
# Weight of pixels that no other reference sees; they take the corrections around them.
_UNSEEN = 0.02
# Optical flow needs several of its patches along each side.
PATCH, SMALLEST_SIDE = 8, 32


def agree(
    scene: SceneEstimate,
    photographs: Sequence[Tensor] | None = None,
    *,
    enlarge: bool = True,
    backend: Backend = "auto",
) -> SceneEstimate:
    """Refine a scene's depths until the references agree, and estimate the gains of their exposures.

    Args:
        scene: V references; a single one is returned unchanged.
        photographs: the same views at a larger size, as for `fused_warp`.
        enlarge: whether photographs of at least three times the working size may double it.
        backend: "auto", "cpu" or "torch", as for `fused_warp`.

    Returns:
        The scene with refined `depths` and with `gains`; pixels without a depth still have none. If `enlarge` and the
        photographs are large, its images, cameras and maps have twice the width and height of the given ones.
    """
    views = views_of(scene, photographs)
    longest, shortest = (side(scene.images.shape[-2:]) for side in (max, min))
    enlargement = 2 if 2 * longest <= LARGEST_ENLARGED else 1
    if len(views) < 2 or enlargement * shortest < SMALLEST_SIDE:
        return scene
    compiled = resolved_backend(backend, (scene.images, scene.depths), "a float32 scene") == "cpu"
    operations = KERNELS_ON_THREADS if compiled else TORCH
    partners = _partners(views)
    if min(min(view.photo_scale) for view in views) < FINE_SCALE or 4 * longest > LARGEST_FINE:
        views, pictures = _rounds(views, partners, ROUNDS, enlargement, operations)
    else:
        views, pictures = _rounds(views, partners, COARSE, 2, operations)
        if enlarge:
            scene, views = _doubled(scene, views, pictures, operations)
        views, pictures = _rounds(views, partners, FINE, 2 if enlarge else 4, operations)
    gains = _gains(views, pictures, partners, operations)
    return replace(scene, depths=torch.stack([view.depths for view in views]), gains=gains)


@dataclass(frozen=True)
class _Picture:
    """An enlarged reference.

    Attributes:
        colors: [3, H, W] RGB.
        x, y: [H, W] float64 pixel positions at the working size.
        camera: one camera of H x W pixels.
        enlargement: factor from the working size to H x W.
    """

    colors: Tensor
    x: Tensor
    y: Tensor
    camera: Cameras
    enlargement: int

    @staticmethod
    def of_all(views: Sequence[View], enlargement: int, operations: Operations) -> "list[_Picture]":
        """The enlarged views, which share their pixels' positions."""
        height, width = (enlargement * side for side in views[0].depths.shape)
        cameras = [view.camera.resized(width, height) for view in views]
        pixels = cameras[0].pixel_centers().double() / enlargement
        x, y = (pixels[..., axis].contiguous() for axis in range(2))
        return [_Picture._of(*one, x, y, enlargement, operations) for one in zip(views, cameras, strict=True)]

    @staticmethod
    def _of(view: View, camera: Cameras, x: Tensor, y: Tensor, enlargement: int, operations: Operations) -> "_Picture":
        # Any depth will do: it does not matter for a view seen from its own position.
        anywhere = torch.ones((camera.height, camera.width), dtype=view.depths.dtype, device=view.depths.device)
        layer = operations.look_up(view, Placement.between(view.camera, camera), anywhere)
        return _Picture(layer.colors.to(view.depths.dtype), x, y, camera, enlargement)


def _rounds(
    views: list[View], partners: Sequence[Sequence[int]], rounds: Rounds, enlargement: int, operations: Operations
) -> tuple[list[View], list[_Picture]]:
    """The views after some rounds, and the pictures that were compared."""
    pictures = _Picture.of_all(views, enlargement, operations)
    for one in rounds:
        inverse = [
            _flattened(picture, view, [views[other] for other in others], operations)
            if isinstance(one, str)
            else _refined(picture, view.inverse, [views[other] for other in others], one, operations)
            for picture, view, others in zip(pictures, views, partners, strict=True)
        ]
        views = [_with_inverse(view, q) for view, q in zip(views, inverse, strict=True)]
    return views, pictures


def _doubled(
    scene: SceneEstimate, views: Sequence[View], pictures: Sequence[_Picture], operations: Operations
) -> tuple[SceneEstimate, list[View]]:
    """Scene and views of twice the working size; `pictures` have that size. Depth edges stay sharp."""
    larger = []
    for view, picture in zip(views, pictures, strict=True):
        maps = torch.stack([view.confidences, view.reliable.to(view.confidences)])
        confidences, reliable = F.interpolate(maps[None], scale_factor=2, mode="nearest")[0]
        inverse = operations.inverse_depth_at(view.inverse, picture.x, picture.y)
        known = inverse > 0
        finer = replace(view, confidences=confidences * known, reliable=(reliable > 0) & known, camera=picture.camera)
        larger.append(_with_inverse(finer, inverse))
    return (
        replace(
            scene,
            images=torch.stack([picture.colors.clamp(0, 1) for picture in pictures]).to(scene.images),
            cameras=Cameras.cat([picture.camera for picture in pictures]),
            depths=torch.stack([view.depths for view in larger]),
            confidences=torch.stack([view.confidences for view in larger]),
        ),
        larger,
    )


def _partners(views: Sequence[View]) -> list[list[int]]:
    """The indices of the nearest other views, for each view."""
    centers = torch.cat([view.camera.centers for view in views]).double()
    order = torch.cdist(centers, centers).argsort(dim=1, stable=True).tolist()
    return [[other for other in row if other != index][:PARTNERS] for index, row in enumerate(order)]


def _with_inverse(view: View, inverse: Tensor) -> View:
    depths = torch.where(inverse > 0, 1 / inverse.clamp(min=1e-12), 0.0).to(view.depths.dtype)
    return replace(view, inverse=inverse, depths=depths)


@dataclass(frozen=True)
class _Look:
    """Another reference, sampled at an enlarged reference's surface.

    Attributes:
        shown: [H, W] gray values; the reference's own where the other sees nothing.
        colors: [3, H, W] RGB.
        seen: [H, W] in [0, 1], how well the other's depth agrees.
        along: [2, H, W] shift of the other's picture, in enlarged pixels, per unit of log(1 / z).
    """

    shown: Tensor
    colors: Tensor
    seen: Tensor
    along: Tensor


def _look(picture: _Picture, inverse: Tensor, other: View, operations: Operations) -> _Look:
    """Sample another view at the surface of a reference with 1 / z [h, w]."""
    place = Placement.between(other.camera, picture.camera)
    if picture.enlargement > 1:
        inverse = operations.inverse_depth_at(inverse, picture.x, picture.y)
    layer = operations.look_up(other, place, inverse.to(picture.colors.dtype))
    z = 1 / inverse.clamp(min=1e-12)
    M, v = place.M_back.to(z.device), place.v_back.to(z.device)
    far = z * (picture.enlargement * (M[2, 0] * picture.x + M[2, 1] * picture.y) + M[2, 2]) + v[2]
    along = torch.stack([v[0] - layer.x * v[2], v[1] - layer.y * v[2]]) / far.clamp(min=1e-9)
    # Number of the other view's working-size pixels that an enlarged pixel covers.
    scale_x, scale_y = other.photo_scale
    footprint = layer.footprint / math.sqrt(scale_x * scale_y)
    shown = torch.where(layer.footprint > 0, gray(layer.colors), gray(picture.colors))
    return _Look(shown, layer.colors, layer.seen, along / footprint.clamp(min=1e-6))


def _refined(
    picture: _Picture, inverse: Tensor, others: Sequence[View], sigma: float, operations: Operations
) -> Tensor:
    """[h, w] 1 / z of a reference after one round."""
    before = [_look(picture, inverse, other, operations) for other in others]
    correction = _correction(picture, before, sigma, operations)
    refined = inverse * (1 + F.avg_pool2d(correction[None].to(inverse), picture.enlargement)[0])
    after = [_look(picture, refined, other, operations) for other in others]
    differences = [_difference(picture, looks, before, operations) for looks in (before, after)]
    share = torch.where(differences[0] > DIFFERENT, NO_WORSE, BETTER)
    better = _most(differences[1] < share * differences[0], picture.enlargement)
    return torch.where(better, refined, inverse)


def _flattened(picture: _Picture, view: View, others: Sequence[View], operations: Operations) -> Tensor:
    """[h, w] 1 / z of a reference on planes, wherever the pictures do not object."""
    before = [_look(picture, view.inverse, other, operations) for other in others]
    information = _information(picture, before, operations) * view.confidences.double()
    colors = F.interpolate(picture.colors[None], view.inverse.shape, mode="area")[0]
    planes = operations.regressed(view.inverse, information, colors)
    after = [_look(picture, planes, other, operations) for other in others]
    differences = [_difference(picture, looks, before, operations) for looks in (before, after)]
    fine = _most(BETTER * differences[1] <= differences[0] + HALF_LEVEL, picture.enlargement)
    return torch.where(fine, planes, view.inverse)


def _information(picture: _Picture, looks: Sequence[_Look], operations: Operations) -> Tensor:
    """[h, w] float64 squared change of gray values along the epipolar lines per change of ln(1 / z).

    Summed over the pixels and the looks; mismatches count for less.
    """
    own = gray(picture.colors)
    right, down = (torch.gradient(own, dim=axis)[0] for axis in (1, 0))
    total = torch.zeros_like(own)
    for look in looks:
        along, seen = look.along.to(own), look.seen.to(own)
        both = operations.blur(torch.stack([(own - look.shown) * (seen + 1e-3), seen + 1e-3]), 2 * ACCEPTANCE_SIGMA)
        error = own - look.shown.to(own) - both[0] / both[1]
        mismatch = operations.blur(error.square(), MISMATCH_SIGMA) / MISMATCH**2
        total += seen * (right * along[0] + down * along[1]).square() / (1 + mismatch).square()
    information = operations.blur(total, GRADIENT_SIGMA)
    return picture.enlargement**2 * F.avg_pool2d(information[None], picture.enlargement)[0].double()


def _correction(picture: _Picture, looks: Sequence[_Look], sigma: float, operations: Operations) -> Tensor:
    """[H, W] relative change that 1 / z needs, from the optical flow between a reference and what the others show."""
    own = gray(picture.colors)
    total, weight, seen = torch.zeros_like(own), torch.zeros_like(own), torch.zeros_like(own)
    for look in looks:
        along = look.along.to(own)
        squared = along.square().sum(dim=0).clamp(min=1e-6)
        step = (along * _flow(own, look.shown, picture.enlargement).to(own)).sum(dim=0) / squared
        longest = LONGEST_STEP / squared.sqrt()
        step = torch.maximum(torch.minimum(step, longest), -longest)
        total += step * look.seen * squared
        weight += look.seen * squared
        seen = torch.maximum(seen, look.seen.to(own))
    trust = seen + _UNSEEN
    both = operations.blur(torch.stack([total / weight.clamp(min=1e-12) * trust, trust]), sigma)
    return both[0] / both[1] * (4 * seen).clamp(max=1)


def _difference(picture: _Picture, looks: Sequence[_Look], weights: Sequence[_Look], operations: Operations) -> Tensor:
    """[H, W] mean square difference to what the others show around each pixel, local brightness removed."""
    own = gray(picture.colors)
    total = torch.zeros_like(own)
    for look, weighing in zip(looks, weights, strict=True):
        seen = weighing.seen.to(own) + 1e-3
        both = operations.blur(torch.stack([(own - look.shown) * seen, seen]), 2 * ACCEPTANCE_SIGMA)
        error = own - look.shown.to(own) - both[0] / both[1]
        total += seen * error.square()
    return operations.blur(total, ACCEPTANCE_SIGMA)


def _most(true: Tensor, enlargement: int) -> Tensor:
    """[h, w] bool, whether more than half of a pixel's enlarged ones [H, W] are true."""
    return F.avg_pool2d(true.float()[None], enlargement)[0] > 0.5


def _flow(first: Tensor, second: Tensor, enlargement: int) -> Tensor:
    """[2, H, W] dense flow f between two gray pictures in [0, 1]: first(p) matches second(p + f).

    Without enlargement the flow is measured at half size: as good on large pictures, in half the time.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setPatchSize(PATCH)
    search.setFinestScale(0 if enlargement > 1 else 1)
    a, b = ((255 * picture.clamp(0, 1)).round().to(torch.uint8).cpu().numpy() for picture in (first, second))
    flow = search.calc(a, b, np.zeros((*first.shape, 2), np.float32))
    return torch.from_numpy(flow).permute(2, 0, 1)


def _gains(
    views: Sequence[View], pictures: Sequence[_Picture], partners: Sequence[Sequence[int]], operations: Operations
) -> Tensor:
    """[V, 3] gains that give all references a common exposure; their geometric mean is 1."""
    count = len(views)
    rows, values = [torch.ones(count, dtype=torch.float64)], [torch.zeros(3, dtype=torch.float64)]
    for index in range(count):
        for other in partners[index]:
            own = pictures[index].colors
            layer = _look(pictures[index], views[index].inverse, views[other], operations)
            shared = layer.seen * ((own > 0.02) & (own < 0.98)).all(dim=0) * (layer.colors < 0.98).all(dim=0)
            if float(shared.mean()) < 0.01:
                continue
            sums = torch.stack([(own * shared).sum(dim=(1, 2)), (layer.colors * shared).sum(dim=(1, 2))]).double()
            row = torch.zeros(count, dtype=torch.float64)
            row[index], row[other] = 1.0, -1.0
            weight = float(shared.mean())
            rows.append(row * weight)
            values.append((sums[1] / sums[0].clamp(min=1e-6)).clamp(min=1e-6).log().cpu() * weight)
    logarithms = torch.linalg.lstsq(torch.stack(rows), torch.stack(values)).solution
    return logarithms.exp().float().to(views[0].depths.device)
