"""A depth map as a triangle mesh, drawn into another camera.

Between pixels of one surface the map is a continuous mesh, so a close-up finds a depth at each of its pixels, not only
at the few where a reference pixel lands. Nothing is stretched over a depth edge: there each pixel keeps its own half of
the gap, a quarter cell per corner, on the plane suggested by its neighbours on the same surface.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.conditioning.reliability import EDGE_THRESHOLD

# Barycentric slack, so that no pixel centre on a shared edge falls between two triangles.
SLACK = 1e-6
# Cells reach a little beyond their half of the gap, so that two triangles meeting at a T-junction leave no crack.
CELL_REACH, CELL_OVERLAP = 0.5, 0.04
# Surfaces nearer to the target than this fraction of their distance from the reference are left out.
NEAR = 1e-3
# Number of (triangle, pixel) pairs tested at a time: about 100 MiB.
_PAIRS = 1 << 20
# (row, column) steps to the four corners of a pixel.
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


@dataclass(frozen=True)
class Surface:
    """A reference's mesh as a target sees it.

    Attributes:
        inverse: [H, W] 1 / z in the target; 0 where there is no surface.
        confidences: [H, W] confidence of the reference's depth there.
        reliable: [H, W] bool, whether the surface is reliable.
    """

    inverse: Tensor
    confidences: Tensor
    reliable: Tensor


def rasterise(
    depths: Tensor,
    confidences: Tensor,
    reliable: Tensor,
    slopes: tuple[Tensor, Tensor],
    M: Tensor,
    v: Tensor,
    size: tuple[int, int],
    limits: Tensor | None = None,
) -> Surface:
    """Draw a depth map into a target: the nearest reliable surface first; unreliable ones fill the rest.

    Args:
        depths: [h, w] z-depths of the reference, 0 = none.
        confidences: [h, w] confidences of the depths.
        reliable: [h, w] bool; a triangle is reliable where all its corners are.
        slopes: slopes of 1 / z, from `inverse_slopes(depths)`.
        M: [3, 3] float64; the reference's pixel p at depth z lands at the target's homogeneous pixel z M p + v
            (`pixel_map`).
        v: [3] float64, see M.
        size: (H, W) of the target in pixels.
        limits: [H, W] largest depth of a reliable surface at each pixel; None accepts all.
    """
    triangles, trusted = mesh_triangles(depths, confidences, reliable, slopes)
    corners = project_vertices(triangles, M.to(triangles.device), v.to(triangles.device))
    first = _draw(corners[trusted], triangles[trusted], size, limits)
    rest = _draw(corners[~trusted], triangles[~trusted], size, None)
    use = first[0] > 0
    inverse, confidence = (torch.where(use, a, b) for a, b in zip(first, rest, strict=True))
    return Surface(inverse, confidence, use)


def inverse_slopes(depths: Tensor) -> tuple[Tensor, Tensor]:
    """Change of 1 / z per pixel to the right and down, [h, w] each, from neighbours with no depth edge between them.

    The mean of the differences to both sides; one of them if the other side is an edge, 0 if both are.
    """
    slopes = []
    inverse = torch.where(depths > 0, 1 / depths.clamp(min=1e-12), 0.0)
    for axis in (1, 0):
        length = depths.shape[axis]
        here, there = depths.narrow(axis, 0, length - 1), depths.narrow(axis, 1, length - 1)
        nearer = torch.minimum(here, there)
        joined = (nearer > 0) & ((here - there).abs() <= EDGE_THRESHOLD * nearer)
        step = torch.where(joined, inverse.narrow(axis, 1, length - 1) - inverse.narrow(axis, 0, length - 1), 0.0)
        pad = (0, 0, 1, 0) if axis == 0 else (1, 0)
        after = (0, 0, 0, 1) if axis == 0 else (0, 1)
        total = F.pad(step, pad) + F.pad(step, after)
        count = F.pad(joined.to(step.dtype), pad) + F.pad(joined.to(step.dtype), after)
        slopes.append(total / count.clamp(min=1))
    return slopes[0], slopes[1]


def mesh_triangles(
    depths: Tensor, confidences: Tensor, reliable: Tensor, slopes: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The mesh of a depth map.

    Args:
        depths: [h, w] z-depths, 0 = none.
        confidences: [h, w] confidences of the depths.
        reliable: [h, w] bool, whether the pixel is reliable.
        slopes: slopes of 1 / z, from `inverse_slopes(depths)`.

    Returns:
        triangles [N, 3 corners, (x, y, 1 / z, confidence)] float64 in the reference's pixels, and [N] bool, True for
        reliable ones.
    """
    depths = depths.double()
    h, w = depths.shape
    inverse = torch.where(depths > 0, 1 / depths.clamp(min=1e-12), 0.0)
    ys, xs = torch.meshgrid(torch.arange(h).double() + 0.5, torch.arange(w).double() + 0.5, indexing="ij")
    vertices = torch.stack([xs.to(depths.device), ys.to(depths.device), inverse, confidences.double()], dim=-1)
    quads = torch.stack([vertices[:-1, :-1], vertices[:-1, 1:], vertices[1:, :-1], vertices[1:, 1:]], dim=2)
    z = torch.stack([depths[:-1, :-1], depths[:-1, 1:], depths[1:, :-1], depths[1:, 1:]], dim=2)
    trust = reliable[:-1, :-1] & reliable[:-1, 1:] & reliable[1:, :-1] & reliable[1:, 1:]
    least, most = z.amin(dim=2), z.amax(dim=2)
    smooth = (least > 0) & (most - least <= EDGE_THRESHOLD * least)
    q = quads[..., 2]
    # Split along the flatter diagonal, so that no ridge or groove is cut across.
    falling = (q[..., 0] - q[..., 3]).abs() <= (q[..., 1] - q[..., 2]).abs()
    parts, trusted = [], []
    for chosen, corners in (
        (smooth & falling, ((0, 1, 3), (0, 3, 2))),
        (smooth & ~falling, ((0, 1, 2), (1, 3, 2))),
    ):
        for three in corners:
            parts.append(quads[chosen][:, list(three)])
            trusted.append(trust[chosen])
    cells, cells_trusted = _cells(vertices, smooth, reliable, slopes)
    return torch.cat([*parts, cells]), torch.cat([*trusted, cells_trusted])


def _cells(vertices: Tensor, smooth: Tensor, reliable: Tensor, slopes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Quarter cells at the corners of pixels that no smooth quad covers, as two triangles each."""
    right, down = slopes
    covered = F.pad(smooth, (1, 1, 1, 1), value=False)
    h, w = reliable.shape
    parts, trusted = [], []
    for dy, dx in CORNERS:
        quad = covered[(1 + dy) // 2 : (1 + dy) // 2 + h, (1 + dx) // 2 : (1 + dx) // 2 + w]
        chosen = (vertices[..., 2] > 0) & ~quad
        center = vertices[chosen]
        out_x, out_y = dx * (CELL_REACH + CELL_OVERLAP), dy * (CELL_REACH + CELL_OVERLAP)
        in_x, in_y = -dx * CELL_OVERLAP, -dy * CELL_OVERLAP
        own = right[chosen], down[chosen]
        a, b, c, d = (
            _moved(center, own, *step) for step in ((in_x, in_y), (out_x, in_y), (in_x, out_y), (out_x, out_y))
        )
        parts += [torch.stack([a, b, d], dim=1), torch.stack([a, d, c], dim=1)]
        trusted += [reliable[chosen]] * 2
    return torch.cat(parts), torch.cat(trusted)


def _moved(center: Tensor, slopes: tuple[Tensor, Tensor], dx: float, dy: float) -> Tensor:
    """Vertices [N, 4] moved by (dx, dy) pixels along their planes; 1 / z changes by at most half."""
    q = center[:, 2]
    moved = q + slopes[0] * dx + slopes[1] * dy
    return torch.stack([center[:, 0] + dx, center[:, 1] + dy, torch.maximum(moved, 0.5 * q), center[:, 3]], dim=1)


def project_vertices(triangles: Tensor, M: Tensor, v: Tensor) -> Tensor:
    """Reference vertices [N, 3, (x, y, 1 / z, ...)] -> (x, y, 1 / z) in the target; 1 / z is 0 behind the target."""
    x, y, q = triangles[..., :3].unbind(-1)
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    # Homogeneous coordinates, divided by the reference's depth.
    points = pixels @ M.T + v * q[..., None]
    s = points[..., 2]
    front = (s > NEAR) & (q > 0)
    safe = torch.where(front, s, 1.0)
    return torch.stack([points[..., 0] / safe, points[..., 1] / safe, torch.where(front, q / safe, 0.0)], dim=-1)


def _draw(corners: Tensor, sources: Tensor, size: tuple[int, int], limits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Z-buffer of triangles [N, 3, (x, y, 1 / z)]: 1 / z and the reference's confidence, [H, W] each."""
    height, width = size
    buffer = torch.zeros(height * width, dtype=torch.float64, device=corners.device)
    winner = torch.full((height * width,), -1, dtype=torch.long, device=corners.device)
    low = torch.ceil(corners[..., :2].amin(dim=1) - 0.5).clamp(min=0).long()
    size_limit = torch.tensor([width - 1, height - 1], device=corners.device)
    high = torch.minimum(torch.floor(corners[..., :2].amax(dim=1) - 0.5).clamp(min=-1).long(), size_limit)
    boxes = (high - low + 1).clamp(min=0)
    usable = (corners[..., 2] > 0).all(dim=1)
    counts = boxes[:, 0] * boxes[:, 1] * usable
    order = counts.nonzero().squeeze(1)
    # Two rounds over the same pairs: first find each pixel's nearest 1 / z, then the triangle that has it.
    for taking in (False, True):
        for some in _batches(order, counts):
            triangle = some.repeat_interleave(counts[some])
            start = counts[some].cumsum(0) - counts[some]
            place = torch.arange(len(triangle), device=corners.device) - start.repeat_interleave(counts[some])
            columns = low[triangle, 0] + place % boxes[triangle, 0]
            rows = low[triangle, 1] + place // boxes[triangle, 0]
            weights, inside = _barycentric(corners[triangle], columns + 0.5, rows + 0.5)
            q = (weights * corners[triangle][..., 2]).sum(dim=1)
            pixels = rows * width + columns
            if limits is not None:
                inside &= q * limits.flatten().double()[pixels] >= 1
            if not taking:
                buffer.scatter_reduce_(0, pixels[inside], q[inside], "amax")
            else:
                hit = inside & (q == buffer[pixels]) & (q > 0)
                winner[pixels[hit]] = triangle[hit]
    return _attributes(buffer, winner, corners, sources, size)


def _batches(order: Tensor, counts: Tensor) -> list[Tensor]:
    """Split triangles into batches of about `_PAIRS` (triangle, pixel) pairs."""
    if len(order) == 0:
        return []
    group = counts[order].cumsum(0) // _PAIRS
    _, sizes = group.unique_consecutive(return_counts=True)
    return list(order.split(sizes.tolist()))


def _barycentric(corners: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [N, 3] of the corners at points, and whether the points lie inside the triangles."""
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = (corners[:, k].unbind(-1) for k in range(3))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    solid = area.abs() >= 1e-9
    area = torch.where(solid, area, 1.0)
    b1 = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) / area
    b2 = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) / area
    weights = torch.stack([1 - b1 - b2, b1, b2], dim=1)
    return weights, solid & (weights >= -SLACK).all(dim=1)


def _attributes(
    buffer: Tensor, winner: Tensor, corners: Tensor, sources: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """1 / z and confidence of the winning triangles."""
    height, width = size
    pixels = (winner >= 0).nonzero().squeeze(1)
    chosen = winner[pixels]
    weights, _ = _barycentric(corners[chosen], pixels % width + 0.5, pixels // width + 0.5)
    confidence = torch.zeros_like(buffer)
    confidence[pixels] = (weights * sources[chosen][..., 3]).sum(dim=1)
    return buffer.view(height, width), confidence.view(height, width)
