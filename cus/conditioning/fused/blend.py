"""Every reference sampled backwards through the fused depth, and their angle-weighted mean."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.conditioning.fused.mesh import CELL_OVERLAP
from cus.conditioning.fused.sampling import inverse_depth_at, sample_levels
from cus.conditioning.fused.views import Placement, View

# A reference sees a point if its own depth there agrees: a Gaussian of this relative deviation, or of this many pixels
# of parallax at its working size, whichever is more tolerant: from where a photograph was taken, any depth shows the
# same.
DEPTH_DEVIATION, PARALLAX_DEVIATION = 0.04, 0.5
# Weight of a reference that does not see the point by its depth: it matters only where none does.
UNSEEN = 1e-3
# Degrees added to the angle between the rays, so that the nearest reference does not get all the weight.
LEAST_ANGLE = 0.5


@dataclass(frozen=True)
class Layer:
    """One reference sampled at the pixels of a target.

    Attributes:
        colors: [3, H, W] RGB, not clamped.
        x, y: [H, W] position of each target pixel in the reference, in pixels of its working size.
        seen: [H, W] in [0, 1], how well the reference's own depth agrees; 0 outside its picture.
        weights: [H, W] weights before normalisation over the references.
        footprint: [H, W] side length in the photograph's pixels that a target pixel covers; 0 where unseen.
    """

    colors: Tensor
    x: Tensor
    y: Tensor
    seen: Tensor
    weights: Tensor
    footprint: Tensor


def look_up(view: View, place: Placement, inverse: Tensor) -> Layer:
    """Sample a reference at the surface of a target; as far beyond its rim as its mesh reaches, the rim itself.

    Args:
        view: the reference.
        place: its position relative to the target.
        inverse: [H, W] float64, 1 / z of the target, 0 in holes.
    """
    height, width = inverse.shape
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    pixels = torch.stack([xs, ys, torch.ones_like(xs)], dim=-1).to(inverse.device)
    known = inverse > 0
    z = torch.where(known, 1 / inverse.clamp(min=1e-12), 1.0)
    M, v = place.M_back.to(inverse.device), place.v_back.to(inverse.device)
    points = z[..., None] * (pixels @ M.T) + v
    far = points[..., 2]
    front = known & (far > 1e-9)
    safe = torch.where(front, far, 1.0)
    x, y = points[..., 0] / safe, points[..., 1] / safe
    w, h = view.camera.width, view.camera.height
    inside = front & (x >= -CELL_OVERLAP) & (x <= w + CELL_OVERLAP) & (y >= -CELL_OVERLAP) & (y <= h + CELL_OVERLAP)
    x, y = torch.where(inside, x, 0.0).clamp(0, w), torch.where(inside, y, 0.0).clamp(0, h)
    own = inverse_depth_at(view.inverse, x, y)
    error = torch.where(own > 0, (1 / safe - own) / own.clamp(min=1e-12), 1.0)
    # Pixels by which the point moves in the reference when the logarithm of its 1 / z grows by 1.
    along = torch.stack([v[0] - x * v[2], v[1] - y * v[2]]).norm(dim=0) / safe
    deviations = error.abs() * (along / PARALLAX_DEVIATION).clamp(max=1 / DEPTH_DEVIATION)
    seen = torch.where(inside, torch.exp(-0.5 * deviations.square()), 0.0)
    degrees = _angles(pixels @ place.rays.to(inverse.device).T * z[..., None], place.center.to(inverse.device))
    weights = inside * (seen + UNSEEN) / (degrees + LEAST_ANGLE)
    scale_x, scale_y = view.photo_scale
    footprint = _footprint(M, z, x, y, safe) * math.sqrt(scale_x * scale_y)
    colors = sample_levels(view.levels, x * scale_x, y * scale_y, footprint)
    colors = torch.where(inside, colors * place.gain.to(colors)[:, None, None], 0.0)
    return Layer(colors, x, y, seen, weights, footprint * inside)


def _angles(points: Tensor, center: Tensor) -> Tensor:
    """Degrees between the rays from points [H, W, 3] to the origin and to `center`."""
    here, there = -points, center - points
    cosine = (here * there).sum(-1) / (here.norm(dim=-1) * there.norm(dim=-1)).clamp(min=1e-12)
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))


def _footprint(M: Tensor, z: Tensor, x: Tensor, y: Tensor, far: Tensor) -> Tensor:
    """Side length in the reference's pixels of the area a target pixel covers on a surface facing the target."""
    du_dx, du_dy = M[0, 0] - x * M[2, 0], M[0, 1] - x * M[2, 1]
    dv_dx, dv_dy = M[1, 0] - y * M[2, 0], M[1, 1] - y * M[2, 1]
    return (du_dx * dv_dy - du_dy * dv_dx).abs().sqrt() * z / far


def normalised(weights: Tensor) -> Tensor:
    """[V, H, W] weights that sum to 1 over the references; 0 where no reference sees anything."""
    total = weights.sum(dim=0)
    return torch.where(total > 0, weights / total.clamp(min=1e-30), 0.0)
