"""Turned shapes: vases, bowls, bottles, columns, cones. A profile of radii over height, revolved about z."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from procedural.tracer.shapes import NEAR, NEVER, Cylinder, Patch, length

_ROWS = 65  # number of samples of the profile
_BLOCK = 8  # number of positions along the ray evaluated at once
_BLOCKS = 6
_BISECTIONS = 14


@dataclass(frozen=True)
class Revolved:
    """A solid of revolution of half height `z` whose radius interpolates `radii` smoothly, bottom to top.

    Attributes:
        radii: At least two radii at equal steps of height.
        z: Half height in scene units.
        even: Whether u measures true lengths at every height, as speckles and grain need, rather than angles times
            the widest radius, as motifs around the body need.
    """

    radii: tuple[float, ...]
    z: float
    even: bool = False
    _profile: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.radii) < 2:
            raise ValueError(f"a profile needs at least two radii, got {self.radii}")
        object.__setattr__(self, "_profile", _through(torch.tensor(self.radii)))

    @property
    def radius(self) -> float:
        """Radius of a ball about the origin that contains the shape."""
        return math.hypot(float(self._profile.max()), self.z)

    def intersect(self, origins: Tensor, directions: Tensor) -> Tensor:
        """The first sign change of (distance from axis - radius), then bisection; the lids are exact."""
        count = max(origins.shape[1], directions.shape[1])
        origins, directions = origins.expand(3, count), directions.expand(3, count)
        enter, leave = self._interval(origins, directions)
        best = torch.full_like(enter, NEVER)
        active = (enter < leave).nonzero()[:, 0]
        step = (leave - enter) / (_BLOCK * _BLOCKS)
        starts_inside = torch.zeros_like(enter, dtype=torch.bool)
        starts_inside[active] = self._field(origins[:, active] + directions[:, active] * enter[active]) < 0
        # A ray that enters through a lid is already inside the profile where it reaches the slab between the lids.
        best = torch.where(starts_inside & (enter > NEAR), enter, best)
        active = active[~starts_inside[active]]
        offsets = torch.arange(1, _BLOCK + 1, device=enter.device, dtype=enter.dtype)[:, None]
        found, ends = [], []
        for block in range(_BLOCKS):
            if not len(active):
                break
            t = enter[active] + step[active] * (offsets + block * _BLOCK)
            inside = self._field(origins[:, None, active] + directions[:, None, active] * t) < 0
            first = torch.where(inside, t, NEVER).amin(0)
            hit = first < NEVER
            found.append(active[hit])
            ends.append(first[hit])
            active = active[~hit]
        if found:
            rays, high = torch.cat(found), torch.cat(ends)
            best[rays] = self._bisect(origins[:, rays], directions[:, rays], high - step[rays], high)
        return torch.where(best > NEAR, best, NEVER)

    def patch(self, points: Tensor) -> Patch:
        """Surface coordinates: u around (its seam towards -x), v along the profile; on the lids u is x and v is y."""
        distance = length(points[:2]).clamp(min=1e-6)
        zero, one = torch.zeros_like(distance), torch.ones_like(distance)
        radial = torch.stack([points[0] / distance, points[1] / distance, zero])
        radii, slopes = self._look_up(points[2])
        lid = (self.z - points[2].abs()) < (radii - distance).clamp(min=1e-4)
        along = torch.stack([radial[0] * slopes, radial[1] * slopes, one])
        along = along / length(along)
        around = torch.stack([-radial[1], radial[0], zero])
        up = torch.stack([zero, zero, torch.sign(points[2])])
        normals = torch.where(lid, up, torch.linalg.cross(around, along, dim=0))
        unroll = distance if self.even else float(self._profile.max())
        u = torch.where(lid, points[0], torch.atan2(points[1], points[0]) * unroll)
        v = torch.where(lid, points[1], self._along(points[2]))
        tangents_u = torch.where(lid, torch.stack([one, zero, zero]), around)
        tangents_v = torch.where(lid, torch.stack([zero, one, zero]), along)
        return Patch(points, normals, u, v, tangents_u, tangents_v)

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the profile sideways, divided by its steepest slope so that it is a lower bound."""
        steepest = float((self._profile[1:] - self._profile[:-1]).abs().max()) * (_ROWS - 1) / (2 * self.z)
        across = self._field(points) / math.sqrt(1 + steepest**2)
        up = points[2].abs() - self.z
        outside = length(torch.stack([across, up]).clamp(min=0))
        return outside + torch.maximum(across, up).clamp(max=0)

    def _interval(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """First and last t [N] in the enclosing cylinder and beyond the near limit; first > last if there is none."""
        squared = (directions[:2] * directions[:2]).sum(0).clamp(min=1e-12)
        nearest = -(origins[:2] * directions[:2]).sum(0) / squared
        foot = origins[:2] + nearest * directions[:2]
        inside = float(self._profile.max()) ** 2 * 1.0001 - (foot * foot).sum(0)
        half = (inside.clamp(min=0) / squared).sqrt()
        inverse = 1 / directions[2]
        middle, reach = -origins[2] * inverse, inverse.abs() * self.z
        enter = torch.maximum(nearest - half, middle - reach).clamp(min=NEAR)
        leave = torch.minimum(nearest + half, middle + reach)
        return enter, torch.where(inside > 0, leave, -1.0)

    def _field(self, points: Tensor) -> Tensor:
        return (points[0] * points[0] + points[1] * points[1]).sqrt() - self._look_up(points[2], slopes=False)[0]

    def _look_up(self, z: Tensor, slopes: bool = True) -> tuple[Tensor, Tensor]:
        """Radius and its slope over height at heights `z` of any shape."""
        profile = self._profile.to(z.device)
        position = ((z / self.z + 1) * (0.5 * (_ROWS - 1))).clamp(0, _ROWS - 1 - 1e-4)
        row = position.floor()
        index, part = row.to(torch.int32).flatten(), position - row
        low = profile.index_select(0, index).view(z.shape)
        rise = profile.index_select(0, index + 1).view(z.shape) - low
        radii = low + rise * part
        if not slopes:
            return radii, radii
        table = torch.gradient(profile, spacing=2 * self.z / (_ROWS - 1))[0]
        low = table.index_select(0, index).view(z.shape)
        return radii, low + (table.index_select(0, index + 1).view(z.shape) - low) * part

    def _along(self, z: Tensor) -> Tensor:
        """[N] length of the profile from its bottom up to heights `z` [N]."""
        step = 2 * self.z / (_ROWS - 1)
        profile = self._profile.to(z.device)
        lengths = ((profile[1:] - profile[:-1]).square() + step * step).sqrt().cumsum(0)
        lengths = torch.cat([lengths.new_zeros(1), lengths])
        position = ((z + self.z) / step).clamp(0, _ROWS - 1 - 1e-4)
        index = position.to(torch.int32)
        low = lengths.index_select(0, index)
        return low + (lengths.index_select(0, index + 1) - low) * (position - index)

    def _bisect(self, origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> Tensor:
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            inside = self._field(origins + directions * middle) < 0
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        return 0.5 * (low + high)


def bounding_cylinder(shape: Revolved) -> Cylinder:
    """The upright cylinder around a turned shape."""
    return Cylinder(float(shape._profile.max()), shape.z)


def _through(radii: Tensor) -> Tensor:
    """Catmull-Rom curve through `radii` at equal steps, sampled at `_ROWS` heights, never below a millimetre."""
    padded = torch.cat([2 * radii[:1] - radii[1:2], radii, 2 * radii[-1:] - radii[-2:-1]])
    position = torch.linspace(0, len(radii) - 1, _ROWS)
    index = position.floor().long().clamp(max=len(radii) - 2)
    t = position - index
    a, b, c, d = (padded[index + k] for k in range(4))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.clamp(min=1e-3)
