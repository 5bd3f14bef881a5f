"""Shapes with exact ray intersections. Every shape is defined in its own frame (z up).

Rays are `origins + t * directions` with directions of any length; arrays are component first, [3, N], and either of
the two may be [3, 1]. `distance` is a signed distance (or a lower bound) for ambient occlusion and for keeping
cameras out of walls.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

NEVER = math.inf
NEAR = 1e-3


class Patch(NamedTuple):
    """Surface points hit by rays, in the shape's frame.

    Attributes:
        points: [3, N] positions.
        normals: [3, N] unit normals for shading (edges may be rounded off).
        u: [N] surface coordinate in scene units.
        v: [N] surface coordinate in scene units.
        tangents_u: [3, N] direction in which u increases.
        tangents_v: [3, N] direction in which v increases.
    """

    points: Tensor
    normals: Tensor
    u: Tensor
    v: Tensor
    tangents_u: Tensor
    tangents_v: Tensor


class Shape(Protocol):
    """The interface of shapes for the renderer."""

    @property
    def radius(self) -> float:
        """Radius of a ball about the origin that contains the shape (inf if none does)."""
        ...

    def intersect(self, origins: Tensor, directions: Tensor) -> Tensor:
        """[N] smallest t > 0 at which the ray enters the shape from outside, inf if it does not."""
        ...

    def patch(self, points: Tensor) -> Patch:
        """Normals and surface coordinates at points [3, N] on the surface."""
        ...

    def distance(self, points: Tensor) -> Tensor:
        """[N] signed distance from points [3, N], negative inside."""
        ...


def length(vectors: Tensor) -> Tensor:
    """[N] lengths of vectors [D, N]: `torch.norm` over the first axis is ten times slower."""
    total = vectors[0] * vectors[0]
    for component in vectors[1:]:
        total = torch.addcmul(total, component, component)
    return total.sqrt()


def _constant(vector: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(vector, dtype=like.dtype, device=like.device)[:, None].expand(3, like.shape[1])


@dataclass(frozen=True)
class Plane:
    """The plane z = 0 seen from above; a rectangle of half sizes `half_x`, `half_y` if these are finite."""

    half_x: float = NEVER
    half_y: float = NEVER

    @property
    def radius(self) -> float:
        """Half diagonal of the rectangle, or infinite."""
        return math.hypot(self.half_x, self.half_y)

    def intersect(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Intersection with the plane z = 0 from above, within the rectangle."""
        t = -origins[2] / directions[2]
        t = torch.where((t > NEAR) & (directions[2] < 0), t, NEVER)
        if math.isfinite(self.half_x):
            x, y = origins[0] + t * directions[0], origins[1] + t * directions[1]
            t = torch.where((x.abs() <= self.half_x) & (y.abs() <= self.half_y), t, NEVER)
        return t

    def patch(self, points: Tensor) -> Patch:
        """Points with upward normals; u is x and v is y."""
        normals, east, north = (_constant(axis, points) for axis in ((0, 0, 1), (1, 0, 0), (0, 1, 0)))
        return Patch(points, normals, points[0], points[1], east, north)

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the plane or rectangle."""
        if not math.isfinite(self.half_x):
            return points[2]
        x, y = (points[0].abs() - self.half_x).clamp(min=0), (points[1].abs() - self.half_y).clamp(min=0)
        return (x * x + y * y + points[2] * points[2]).sqrt()


@dataclass(frozen=True)
class Box:
    """A box of half sizes `x`, `y`, `z`; normals, not the surface, are rounded off within `bevel` of an edge."""

    x: float
    y: float
    z: float
    bevel: float = 0.004

    @property
    def radius(self) -> float:
        """Half diagonal of the box."""
        return math.sqrt(self.x**2 + self.y**2 + self.z**2)

    def intersect(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Intersection by the slab method."""
        inverse = 1 / directions
        enter: Tensor | None = None
        leave: Tensor | None = None
        for axis, half in enumerate((self.x, self.y, self.z)):
            middle = -origins[axis] * inverse[axis]
            reach = inverse[axis].abs() * half
            low, high = middle - reach, middle + reach
            enter = low if enter is None else torch.maximum(enter, low)
            leave = high if leave is None else torch.minimum(leave, high)
        assert enter is not None and leave is not None
        return torch.where((enter <= leave) & (enter > NEAR), enter, NEVER)

    def patch(self, points: Tensor) -> Patch:
        """Surface coordinates: seen from outside, u runs right and v up; on top and bottom u is x and v is y."""
        half = points.new_tensor([self.x, self.y, self.z])[:, None]
        bevel = min(self.bevel, 0.9 * min(self.x, self.y, self.z))
        offset = points - points.clamp(-(half - bevel), half - bevel)
        normals = offset / length(offset).clamp(min=1e-9)
        # The face is the one with the nearest plane, whatever the rounded normal.
        x, y, z = (points.abs() - half).unbind(0)
        on_x = (x > y) & (x > z)
        on_z = (z >= y) & ~on_x
        sign = torch.sign(points)
        u = torch.where(on_x, points[1] * sign[0], points[0] * torch.where(on_z, 1.0, -sign[1]))
        v = torch.where(on_z, points[1], points[2])
        zero, one = torch.zeros_like(u), torch.ones_like(u)
        tangent_x = torch.where(on_x, zero, torch.where(on_z, one, -sign[1]))
        tangents_u = torch.stack([tangent_x, torch.where(on_x, sign[0], zero), zero])
        tangents_v = torch.stack([zero, torch.where(on_z, one, zero), torch.where(on_z, zero, one)])
        return Patch(points, normals, u, v, tangents_u, tangents_v)

    def distance(self, points: Tensor) -> Tensor:
        """Exact signed distance to the box."""
        half = points.new_tensor([self.x, self.y, self.z])[:, None]
        q = points.abs() - half
        inside = torch.maximum(torch.maximum(q[0], q[1]), q[2]).clamp(max=0)
        return length(q.clamp(min=0)) + inside


@dataclass(frozen=True)
class Sphere:
    """A ball of radius `r`."""

    r: float

    @property
    def radius(self) -> float:
        """Radius of the ball itself."""
        return self.r

    def intersect(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Intersection from the foot of the perpendicular, which keeps float32 accurate far away."""
        squared = (directions * directions).sum(0)
        nearest = -(origins * directions).sum(0) / squared
        foot = origins + nearest * directions
        inside = self.r**2 - (foot * foot).sum(0)
        t = nearest - (inside.clamp(min=0) / squared).sqrt()
        return torch.where((inside > 0) & (t > NEAR), t, NEVER)

    def patch(self, points: Tensor) -> Patch:
        """Surface coordinates by the sinusoidal projection (true areas, no pinched pole), with the seam towards -x."""
        normals = points / self.r
        longitude = torch.atan2(points[1], points[0])
        latitude = torch.asin(normals[2].clamp(-1, 1))
        flat = length(normals[:2]).clamp(min=1e-6)
        east = torch.stack([-normals[1] / flat, normals[0] / flat, torch.zeros_like(flat)])
        north = torch.linalg.cross(normals, east, dim=0)
        return Patch(points, normals, longitude * flat * self.r, latitude * self.r, east, north)

    def distance(self, points: Tensor) -> Tensor:
        """Exact signed distance to the sphere."""
        return length(points) - self.r


@dataclass(frozen=True)
class Cylinder:
    """A closed upright cylinder of radius `r` and half height `z`; rims are rounded off within `bevel` in shading."""

    r: float
    z: float
    bevel: float = 0.004

    @property
    def radius(self) -> float:
        """Radius of the ball through both rims."""
        return math.hypot(self.r, self.z)

    def intersect(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Intersection with the side and the lids."""
        squared = (directions[:2] * directions[:2]).sum(0).clamp(min=1e-12)
        nearest = -(origins[:2] * directions[:2]).sum(0) / squared
        foot = origins[:2] + nearest * directions[:2]
        inside = self.r**2 - (foot * foot).sum(0)
        half = (inside.clamp(min=0) / squared).sqrt()
        inverse = 1 / directions[2]
        middle, reach = -origins[2] * inverse, inverse.abs() * self.z
        enter = torch.maximum(nearest - half, middle - reach)
        leave = torch.minimum(nearest + half, middle + reach)
        return torch.where((inside > 0) & (enter <= leave) & (enter > NEAR), enter, NEVER)

    def patch(self, points: Tensor) -> Patch:
        """Surface coordinates: u runs around (its seam towards -x), v up; on the lids u is x and v is y."""
        distance = length(points[:2]).clamp(min=1e-6)
        radial = torch.stack([points[0] / distance, points[1] / distance, torch.zeros_like(distance)])
        lid = (points[2].abs() - self.z) > (distance - self.r)
        bevel = min(self.bevel, 0.9 * min(self.r, self.z))
        across = (distance - (self.r - bevel)).clamp(min=0)
        up = points[2] - points[2].clamp(-(self.z - bevel), self.z - bevel)
        normals = radial * across
        normals[2] = up
        normals = normals / length(normals).clamp(min=1e-9)
        u = torch.where(lid, points[0], torch.atan2(points[1], points[0]) * self.r)
        v = torch.where(lid, points[1], points[2])
        zero, one = torch.zeros_like(u), torch.ones_like(u)
        around = torch.stack([-radial[1], radial[0], zero])
        tangents_u = torch.where(lid, torch.stack([one, zero, zero]), around)
        tangents_v = torch.where(lid, torch.stack([zero, one, zero]), torch.stack([zero, zero, one]))
        return Patch(points, normals, u, v, tangents_u, tangents_v)

    def distance(self, points: Tensor) -> Tensor:
        """Exact signed distance to the closed cylinder."""
        across, up = length(points[:2]) - self.r, points[2].abs() - self.z
        outside = length(torch.stack([across, up]).clamp(min=0))
        return outside + torch.maximum(across, up).clamp(max=0)
