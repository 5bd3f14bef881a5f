"""Projection of a point cloud into target cameras: the picture I_g of the structure guidance (Section III-D)."""

from collections.abc import Callable, Sequence

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.canvas import Canvas
from cus.conditioning.conditioning import Conditioning, blank_conditioning
from cus.conditioning.options import LARGEST_SCALE, check_scales
from cus.conditioning.warp import EMPTY, coarsen, project_points, splat
from cus.errors import InputError

# A coarser level that covers less than this much more than the previous one only widens outlines.
WORTHWHILE_GROWTH = 1.1


def render_points(
    points: Tensor,
    colors: Tensor,
    target_cameras: Cameras,
    *,
    scales: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """Render a cloud as z-buffered one-pixel splats at several resolutions, the finer over the coarser.

    Args:
        points: [N, 3] world points.
        colors: [N, 3] RGB in [0, 1].
        target_cameras: T cameras.
        scales: divisors of the resolution, ascending. None continues through 1, 2, 4, ... for each target while
            doubling the scale adds a tenth to the covered area, that is, while there are gaps between the points.
        on_progress: called with (targets done, T).

    Returns:
        Conditioning on the points' device; pixels that nothing covers are black and masked False.

    Raises:
        InputError: an empty cloud, or no point lands in any target.
        ValueError: inconsistent shapes, or scales that are not ascending positive whole numbers.
    """
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape:
        raise ValueError(f"expected points and colors [N, 3], got {tuple(points.shape)} and {tuple(colors.shape)}")
    if len(target_cameras) < 1:
        raise ValueError("expected at least one target camera")
    if scales is not None:
        scales = check_scales(scales)
    if len(points) == 0:
        raise InputError("the point cloud is empty; fuse more views, or lower the number of views that must agree")
    targets = target_cameras.to(points.device)
    conditioning = blank_conditioning(targets)
    for index in range(len(targets)):
        projection = project_points(points, targets[index])
        keys = splat(projection)
        canvas = Canvas.blank(targets.width, targets.height, points.device)
        canvas.paint(colors, projection, keys, scales or _scales_for_cloud(keys))
        canvas.copy_to(conditioning, index)
        if on_progress is not None:
            on_progress(index + 1, len(targets))
    if not bool(conditioning.masks.any()):
        raise InputError(
            f"the target sees nothing of the scene: none of the {len(points)} points lands in any of the "
            f"{len(targets)} target cameras; aim the path at the scene, or move it closer"
        )
    return conditioning


def _scales_for_cloud(keys: Tensor) -> tuple[int, ...]:
    """1, 2, 4, ... while the area covered by a z-buffer [H, W] still grows because gaps close."""
    scales = [1]
    level = keys
    covered = float((level != EMPTY).float().mean())
    while 0 < covered < 1 and scales[-1] < LARGEST_SCALE:
        level = coarsen(level, 2)
        wider = float((level != EMPTY).float().mean())
        if wider < WORTHWHILE_GROWTH * covered:
            break
        covered = wider
        scales.append(scales[-1] * 2)
    return tuple(scales)
