"""Adds points where a cloud leaves pixels of the pictures empty.

The fused cloud holds what many views agree on. It lacks what only few views see (the outer parts of the references, in
a zoom), and a fit cannot grow surfaces where there are none: such pixels would stay black.
"""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from cus.cameras import Cameras

# Coverage is measured on a grid coarser than the pictures by this factor; each point also covers adjacent cells.
_CELL = 2
# A point covers a pixel of known depth if it lies within this fraction of it; others belong to other surfaces.
_SAME_SURFACE = 0.03


def complete_cloud(
    points: Tensor,
    colors: Tensor,
    images: Tensor,
    cameras: Cameras,
    depths: Tensor | None = None,
    usable: Tensor | None = None,
    priorities: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the pixels that no point covers, one view after another.

    Args:
        points: World points [N, 3].
        colors: RGB in [0, 1] [N, 3].
        images: RGB in [0, 1] [M, 3, H, W].
        cameras: M cameras of H x W pixels.
        depths: z-depths [M, H, W], 0 = none. Pixels without a depth take the depth of the nearest pixel that has one
            (from the cloud or the depths): a guess that the fit can move is better than a hole.
        usable: Pixels that may become points [M, H, W] bool, e.g. not the padding of a smaller photograph; default all.
        priorities: Views with larger values come first [M]; ties, and None, keep the given order.

    Returns:
        points [N', 3] and colors [N', 3], the given ones first.
    """
    order = range(len(cameras)) if priorities is None else priorities.argsort(descending=True, stable=True).tolist()
    for i in order:
        depth = None if depths is None else depths[i]
        empty, filled = _empty_pixels(points, cameras[i], depth)
        if usable is not None:
            empty = empty & usable[i]
        if not bool(empty.any()) or not bool((filled > 0).any()):
            continue
        added = cameras[i].backproject(filled[None])[0][empty]
        points = torch.cat([points, added])
        colors = torch.cat([colors, images[i].permute(1, 2, 0)[empty]])
    return points, colors


def _empty_pixels(points: Tensor, camera: Cameras, depth: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pixels of one camera that need a point [H, W] bool, and the depths at which to put them [H, W]."""
    pixels, depths = camera.project(points)
    pixels, depths = pixels[0], depths[0]
    inside = (depths > 0) & ((pixels >= 0) & (pixels < pixels.new_tensor([camera.width, camera.height]))).all(dim=1)
    pixels, depths = pixels[inside].long(), depths[inside]
    nearest = _spread(pixels, depths, camera)
    known = torch.where(torch.isfinite(nearest), nearest, torch.zeros_like(nearest))
    empty = known == 0
    if depth is not None:
        here = depth[pixels[:, 1], pixels[:, 0]]
        on_surface = (depths - here).abs() <= _SAME_SURFACE * here
        pixels, depths = pixels[on_surface], depths[on_surface]
        # Across an edge of the foreground the neighbouring cells hold other depths: a pixel needs one similar to its
        # own.
        low, high = _spread(pixels, depths, camera), -_spread(pixels, -depths, camera)
        covered = (low <= depth * (1 + _SAME_SURFACE)) & (high >= depth * (1 - _SAME_SURFACE))
        empty = torch.where(depth > 0, ~covered, empty)
        known = torch.where(depth > 0, depth, known)
    return empty, _nearest_known(known)


def _spread(pixels: Tensor, values: Tensor, camera: Cameras) -> Tensor:
    """Smallest value of the points in and around the cell of each pixel [H, W]; infinite if there are none."""
    columns, rows = -(-camera.width // _CELL), -(-camera.height // _CELL)
    cells = torch.div(pixels, _CELL, rounding_mode="floor")
    grid = values.new_full((rows * columns,), float("inf"))
    grid.scatter_reduce_(0, cells[:, 1] * columns + cells[:, 0], values, reduce="amin")
    reach = -max_pool2d(-grid.reshape(1, 1, rows, columns), 3, stride=1, padding=1)
    return interpolate(reach, scale_factor=_CELL, mode="nearest")[0, 0, : camera.height, : camera.width]


def _nearest_known(depths: Tensor) -> Tensor:
    """Replace zeros by the nearest non-zero value [H, W]; all zeros stay."""
    values = depths.detach().cpu().numpy()
    if not (values > 0).any():
        return depths
    indices = np.zeros((2, *values.shape), dtype=np.int32)
    distance_transform_edt(values <= 0, return_distances=False, return_indices=True, indices=indices)
    return torch.from_numpy(values[indices[0], indices[1]]).to(depths)
