"""The reference views as ViewCrafter shows them to its network: discs at half resolution, enlarged twofold.

The facts, from its published pipeline: a cloud with one point per pixel of DUSt3R's 512x288 maps, rendered at 512x288
with discs of radius 0.01 (1.44 pixels) and ten points per pixel over black, enlarged bilinearly to 1024x576. With two
views all points are used; with more, those that are confident or far, where far means a depth above a fifth of the sum
of the view's smallest and largest depths (away from its upper and lower borders). A frame at the position of a
photograph is that photograph.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning, blank_conditioning
from cus.conditioning.discs import POINTS_PER_PIXEL, RADIUS, DiscOptions, check_discs, draw_discs
from cus.conditioning.options import LARGEST_SCALE, Backend
from cus.conditioning.references import focal
from cus.errors import InputError
from cus.scene import SceneEstimate

# ViewCrafter's radius is stated for this many pixels of the shorter side.
_STATED_SIDE = 288
_FAR = 0.2
# ViewCrafter leaves out 40 of 288 rows at the top and at the bottom, where depths are worst.
_BORDER = 40 / 288
# Tolerances for a target that repeats the camera of a photograph: in radians and in scene scales; in pixels.
_SAME_POSE, _SAME_PIXELS = 1e-3, 1.0
# Stride in rows and columns for measuring how far apart a view's points lie in a target.
_SAMPLED = 8


def render_scene_points(
    scene: SceneEstimate,
    target_cameras: Cameras,
    *,
    radius: float | None = None,
    points_per_pixel: int = POINTS_PER_PIXEL,
    shrink_references: bool = False,
    photographs: bool = True,
    backend: Backend = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """Render the reference views as discs into target cameras, as ViewCrafter does.

    Discs are rendered at half the targets' size, odd sizes rounded up, and enlarged bilinearly. At 1024x576 all values
    are ViewCrafter's; at other sizes a disc keeps its radius of 1.44 pixels, so that it spans the same gaps.

    Args:
        scene: reference images with cameras, depths (0 = none) and confidences.
        target_cameras: T cameras of any size, on any device.
        radius: radius of the discs in normalised coordinates, as for `render_discs`; None: 0.01 at 1024x576.
        points_per_pixel: number of nearest discs that a pixel blends, 1 to 150.
        shrink_references: shrink references once, to the size at which the discs are rendered, as ViewCrafter does: an
            x4 close-up then shows dots on black. False shrinks them for each target just enough that the points are at
            most a pixel of the render apart: the look of ViewCrafter's own views, as far as the photographs' resolution
            allows.
        photographs: whether a target at the position of a reference that shows all of it becomes the photograph
            itself.
        backend: "auto", "cpu" or "torch", as for `render_discs`.
        on_progress: called with (targets done, T).

    Returns:
        Conditioning of the target cameras' size, on the scene's device. Masks are True wherever the picture is not
        black, which reaches a pixel or two around the discs; depths are those of the nearest points and 0 outside them.

    Raises:
        InputError: no depth in any view, no point of the scene in any target, or backend="cpu" on another device.
        ValueError: no target, or a radius or number out of range.
    """
    if len(target_cameras) < 1:
        raise ValueError("expected at least one target camera")
    targets = target_cameras.to(scene.images.device)
    width, height = -(-targets.width // 2), -(-targets.height // 2)
    halved = targets.cropped(0, 0, 2 * width, 2 * height).resized(width, height)
    if radius is None:
        radius = min(RADIUS * _STATED_SIDE / min(width, height), 1.0)
    check_discs(radius, points_per_pixel, backend)
    kept = kept_points(scene)
    if not bool(kept.any()):
        raise InputError("the scene has no depth at all; take photographs with more overlap and parallax")
    clouds = _Clouds(scene, kept, max(width, height) if shrink_references else None)
    options = DiscOptions(radius, points_per_pixel, backend)
    conditioning = blank_conditioning(targets)
    done = 0
    for divisors, indices in clouds.divisors_of(halved).items():

        def report(of_these: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + of_these, len(targets))

        discs = draw_discs(*clouds.of(divisors), halved[indices], options, report)
        _enlarge(discs, conditioning, indices)
        done += len(indices)
    if photographs:
        tolerance = _SAME_POSE * scene.scale
        for index in range(len(targets)):
            found = same_view(scene, targets[index], tolerance)
            if found is not None:
                _show_photograph(scene, *found, conditioning, index)
    if not bool(conditioning.masks.any()):
        raise InputError(
            f"the target sees nothing of the scene: no point of the {len(scene)} reference views lands in any of the "
            f"{len(targets)} target cameras; aim the path at what the photographs show, or move it closer to them"
        )
    return conditioning


def kept_points(scene: SceneEstimate) -> Tensor:
    """[V, H, W] bool: the pixels whose points are rendered.

    With one or two views all pixels that have a depth; with more, those that are reliable (the top 90 % of each view by
    confidence) or far.
    """
    known = scene.depths > 0
    if len(scene) <= 2:
        return known
    border = round(_BORDER * scene.depths.shape[1])
    inner = scene.depths[:, border : scene.depths.shape[1] - border]
    far = torch.zeros_like(known)
    for view, depths in enumerate(inner):
        depths = depths[depths > 0]
        if len(depths):
            far[view] = scene.depths[view] > _FAR * (depths.min() + depths.max())
    return known & (scene.reliable | far)


class _Clouds:
    """Points of the references at several densities, each computed on first use.

    Args:
        scene: the reference views.
        kept: [V, H, W] bool, the pixels that give points.
        longest_side: size in pixels to which references are shrunk once; None shrinks them to suit each target.
    """

    def __init__(self, scene: SceneEstimate, kept: Tensor, longest_side: int | None) -> None:
        self.scene, self.depths, self.longest_side = scene, scene.depths * kept, longest_side
        self._made: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        sampled = slice(_SAMPLED // 2, None, _SAMPLED)
        self._samples = scene.cameras.backproject(self.depths)[:, sampled, sampled]
        focals = torch.linalg.det(scene.cameras.Ks[:, :2, :2]).abs().sqrt()
        # Width that a pixel covers on a surface facing it.
        self._spans = self.depths[:, sampled, sampled] / focals[:, None, None]

    def divisors_of(self, targets: Cameras) -> dict[tuple[int, ...], list[int]]:
        """Divisors of the references' resolution, one per view, and the targets that each combination suits."""
        chosen: dict[tuple[int, ...], list[int]] = {}
        for index in range(len(targets)):
            views = range(len(self.scene))
            divisors = tuple(1 if self.longest_side else self._divisor(view, targets[index]) for view in views)
            chosen.setdefault(divisors, []).append(index)
        return chosen

    def _divisor(self, view: int, target: Cameras) -> int:
        """The largest power of two at which points of a view typically lie at most a target pixel apart."""
        spans = self._spans[view]
        known = spans > 0
        pixels, z = target.project(self._samples[view][known])
        inside = ((pixels >= 0) & (pixels < pixels.new_tensor([target.width, target.height]))).all(-1) & (z > 0)
        if not bool(inside.any()):
            return 1
        spacing = float((spans[known] / z[0])[inside[0]].median()) * focal(target)
        # A view seen from its own position at half its size has a spacing of exactly one pixel, up to rounding.
        return 2 ** int(min(max(math.log2(1.01 / spacing), 0.0), math.log2(LARGEST_SCALE)))

    def of(self, divisors: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Points and colours [N, 3] of all views, each at its divisor."""
        points, colors = zip(*(self._view(view, divisor) for view, divisor in enumerate(divisors)), strict=True)
        return torch.cat(points), torch.cat(colors)

    def _view(self, view: int, divisor: int) -> tuple[Tensor, Tensor]:
        if (view, divisor) not in self._made:
            self._made[view, divisor] = self._points(view, divisor)
        return self._made[view, divisor]

    def _points(self, view: int, divisor: int) -> tuple[Tensor, Tensor]:
        image, depths = self.scene.images[view : view + 1], self.depths[view : view + 1]
        camera = self.scene.cameras[view]
        scale = 1 / divisor
        if self.longest_side is not None:
            scale = min(1.0, self.longest_side / max(camera.width, camera.height))
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in (camera.width, camera.height))
            image = F.interpolate(image, (height, width), mode="area")
            depths = F.interpolate(depths[:, None], (height, width), mode="nearest-exact")[:, 0]
            camera = camera.resized(width, height)
        known = depths > 0
        return camera.backproject(depths)[known], image.permute(0, 2, 3, 1)[known]


def _enlarge(discs: Conditioning, conditioning: Conditioning, indices: Sequence[int]) -> None:
    """Write half-size discs to the targets `indices`, cropped: pictures enlarged bilinearly, depths repeated."""
    height, width = conditioning.depths.shape[1:]
    for place, index in enumerate(indices):
        lit = discs.masks[place : place + 1].to(discs.images)
        planes = torch.cat([discs.images[place], lit])[None]
        planes = F.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)[0, :, :height, :width]
        conditioning.images[index], conditioning.masks[index] = planes[:3], planes[3] > 0
        depths = discs.depths[place].repeat_interleave(2, 0).repeat_interleave(2, 1)
        conditioning.depths[index] = depths[:height, :width]


def same_view(scene: SceneEstimate, target: Cameras, tolerance: float) -> tuple[int, int, int] | None:
    """The reference that a target camera repeats, if any: view, and width and height in pixels of the part it shows.

    The pose is the same, the intrinsics are those of the resampled photograph, and the target reaches its last column
    or
    row, if not both: photographs of other sizes than the scene's are padded on the right and bottom. Centres may be as
    far apart as `tolerance`, in scene units.
    """
    for view in range(len(scene)):
        camera = scene.cameras[view]
        turn = target.viewmats[0, :3, :3] @ camera.viewmats[0, :3, :3].T - torch.eye(3, device=target.viewmats.device)
        away = (target.centers[0] - camera.centers[0]).norm()
        if float(turn.norm()) > _SAME_POSE or float(away) > tolerance:
            continue
        scale = target.Ks[0].diagonal()[:2] / camera.Ks[0].diagonal()[:2]
        resampled = camera.Ks[0, :2] * scale[:, None]
        if float((target.Ks[0, :2] - resampled).abs().max()) > _SAME_PIXELS:
            continue
        shown = (target.width / float(scale[0]), target.height / float(scale[1]))
        whole = (camera.width, camera.height)
        rest = [side - part for side, part in zip(whole, shown, strict=True)]
        if min(rest) >= -_SAME_PIXELS and min(rest) <= _SAME_PIXELS:
            width, height = (min(side, max(1, round(part))) for side, part in zip(whole, shown, strict=True))
            return view, width, height
    return None


def _show_photograph(
    scene: SceneEstimate, view: int, width: int, height: int, conditioning: Conditioning, index: int
) -> None:
    """Replace one target by the top left part of a reference."""
    size = conditioning.depths.shape[1:]
    part = scene.images[view : view + 1, :, :height, :width]
    image = F.interpolate(part, size, mode="bilinear", align_corners=False, antialias=True)
    depths = F.interpolate(scene.depths[view : view + 1, None, :height, :width], size, mode="nearest-exact")
    conditioning.images[index] = image[0].clamp(0, 1)
    conditioning.depths[index] = depths[0, 0]
    conditioning.masks[index] = True
