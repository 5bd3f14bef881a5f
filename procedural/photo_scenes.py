"""Scenes textured with photographs: relief, ragged boards, posts and print with the detail of real pictures.

They are collages (`procedural.collage`) with two additional kinds of board. A close-up's target is rendered at about
one texel per pixel, so that it is as sharp as a photograph; its references have a quarter of this resolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from procedural.collage import FAR, Collage, Solid, axes_turned, pyramid
from procedural.photographs import Photograph, random_part
from procedural.textures import fractal_noise, lettering

STEPS = 10  # steps of the march through a relief, before five bisections
PIXELS_ACROSS = 384 * 4.0  # of a whole picture at the magnification that targets are made for


@dataclass(frozen=True)
class ReliefBoard(Solid):
    """A board whose surface protrudes from its plane towards the viewer.

    Attributes:
        heights: [S, S] heights in [0, 1] over `extent` metres, mirrored beyond.
        extent: size in metres of the height map along each axis.
        amplitude: protrusion in metres for a height of 1.
    """

    heights: Tensor = field(default_factory=lambda: torch.zeros(2, 2))
    extent: float = 1.0
    amplitude: float = 0.0

    def intersect(self, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hits as for `Solid`: the first crossing of the relief, by steps of equal height and then bisection."""
        start = self.axes @ (origin - self.center)
        slopes = directions @ self.axes.T
        side = 1.0 if float(start[2]) > 0 else -1.0
        slope = torch.where(slopes[:, 2].abs() < 1e-9, 1e-9, slopes[:, 2])
        top, bottom = (side * self.amplitude - start[2]) / slope, -start[2] / slope
        first, last = (start[:2] + t[:, None] * slopes[:, :2] for t in (top, bottom))
        near = (torch.minimum(first, last) < self.radii[:2]) & (torch.maximum(first, last) > -self.radii[:2])
        near = near.all(-1)
        high = torch.full_like(top, FAR)
        high[near] = self._first_crossing(start, slopes[near], top[near], bottom[near], side)
        uv = start[:2] + high[:, None] * slopes[:, :2]
        inside = near & (uv.abs() < self.radii[:2]).all(-1) & (high > 1e-3) & (top > 0)
        facing = -torch.sign(slopes[:, 2:]) * self.axes[2]
        return torch.where(inside, high, FAR), uv, facing

    def _first_crossing(self, start: Tensor, slopes: Tensor, top: Tensor, bottom: Tensor, side: float) -> Tensor:
        """Parameter t [N] where rays first cross the relief, between the planes of its highest and lowest points."""
        if self.amplitude == 0:
            return bottom
        low, high = top, bottom
        found = torch.zeros_like(top, dtype=torch.bool)
        for step in range(1, STEPS + 1):
            t = top + (bottom - top) * (step / STEPS)
            below = self._above(start, slopes, t, side) <= 0
            low = torch.where(found | below, low, t)
            high = torch.where(below & ~found, t, high)
            found |= below
        for _ in range(5):
            middle = (low + high) / 2
            below = self._above(start, slopes, middle, side) <= 0
            low, high = torch.where(below, low, middle), torch.where(below, middle, high)
        return high

    def _above(self, start: Tensor, slopes: Tensor, t: Tensor, side: float) -> Tensor:
        """Height in metres of the ray's points above the surface."""
        uv = start[:2] + t[:, None] * slopes[:, :2]
        heights = _mirrored(self.heights, (uv + self.offset) / self.extent)
        return side * (start[2] + t * slopes[:, 2]) - self.amplitude * heights


@dataclass(frozen=True)
class RaggedBoard(Solid):
    """A flat board that exists only where its mask is set: foliage, fences, silhouettes.

    Attributes:
        mask: [S, S], above 0.5 where the board exists, over `extent` metres.
        extent: size in metres of the mask along each axis.
    """

    mask: Tensor = field(default_factory=lambda: torch.ones(2, 2))
    extent: float = 1.0

    def intersect(self, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hits as for `Solid`, only where the mask is set."""
        t, uv, normals = super().intersect(origin, directions)
        there = _mirrored(self.mask, (uv + self.offset) / self.extent) > 0.5
        return torch.where(there, t, FAR), uv, normals


def _mirrored(values: Tensor, places: Tensor) -> Tensor:
    """Bilinear look-up [N] in a map [S, S] at positions [N, 2] in units of its side, mirrored beyond."""
    grid = places % 2
    grid = torch.where(grid > 1, 2 - grid, grid) * 2 - 1
    found = F.grid_sample(values[None, None], grid[None, None], padding_mode="border", align_corners=False)
    return found[0, 0, 0]


def random_photo_scene(photographs: Sequence[Photograph], seed: int, plane: bool = False) -> tuple[Collage, list[int]]:
    """A scene with random photographs; the same seed and photographs give the same scene.

    Args:
        photographs: photographs to choose from.
        seed: seed of all random draws.
        plane: use a single photograph on one board, sometimes with a faint relief: exact pairs under homographies.

    Returns:
        The scene, and the indices of the photographs in it.
    """
    rng = np.random.default_rng([seed, 81])
    count = 1 if plane else int(rng.integers(4, 8))
    used = [int(i) for i in rng.choice(len(photographs), size=min(count, len(photographs)), replace=False)]
    textures = [pyramid(random_part(photographs[i], rng)) for i in used]
    if not plane and rng.random() < 0.7:
        textures.append(pyramid(torch.from_numpy(lettering(rng)).permute(2, 0, 1).contiguous()))
    makers = _Makers(rng, len(textures))
    back = float(rng.uniform(3.0, 5.5))
    tilt = float(rng.normal(0, 0.35))
    if plane:
        relief = float(rng.choice([0.0, 0.0, 0.005]))
        solids: list[Solid] = [makers.relief((0, 0, back), (30, 30), tilt, float(rng.normal(0, 0.2)), relief)]
    else:
        depth = float(np.exp(rng.uniform(math.log(0.02), math.log(0.3))))
        solids = [makers.relief((0, 0, back), (12, 9), 0.6 * tilt, float(rng.normal(0, 0.1)), depth)]
        floor = float(rng.uniform(0.5, 1.3))
        if rng.random() < 0.6:
            solids.append(makers.relief((0, floor, 4), (9, 9), 0.0, math.pi / 2, 0.02))
        for _ in range(int(rng.integers(2, 9))):
            solids.append(makers.thing(back))
    sun = F.normalize(torch.from_numpy(rng.normal([0, -1, -0.8], [1, 0.4, 0.4])).float(), dim=0)
    # Photographs already contain light: add only a little.
    return Collage(solids, textures, sun, float(rng.uniform(0.8, 1.0)), float(rng.uniform(0.85, 1.15))), used


@dataclass
class _Makers:
    """Makes random solids."""

    rng: np.random.Generator
    textures: int

    def thing(self, back: float) -> Solid:
        """A random object between the viewer and the back wall."""
        rng = self.rng
        z = float(rng.uniform(0.5, 0.95)) * back
        x, y = float(rng.normal(0, 0.28)) * z, float(rng.normal(0, 0.18)) * z
        size = float(np.exp(rng.uniform(math.log(0.08), math.log(0.7))))
        yaw, pitch = float(rng.normal(0, 0.5)), float(rng.normal(0, 0.25))
        kind = str(rng.choice(["relief", "ragged", "ragged", "post", "ellipsoid", "board"]))
        if kind == "relief":
            return self.relief((x, y, z), (size, size), yaw, pitch, size * float(rng.uniform(0.05, 0.5)))
        if kind == "ragged":
            return self._ragged((x, y, z), 1.5 * size, yaw, pitch)
        if kind == "post":
            width = float(np.exp(rng.uniform(math.log(0.008), math.log(0.06))))
            return Solid(True, *self._placed((x, 0, z), (width, 2.0, 1), yaw, float(rng.normal(0, 0.1))))
        radii = (size * rng.uniform(0.4, 1.0, 3)).tolist()
        return Solid(kind == "board", *self._placed((x, y, z), radii, yaw, pitch))

    def relief(
        self, center: tuple[float, float, float], radii: tuple[float, float], yaw: float, pitch: float, amplitude: float
    ) -> ReliefBoard:
        """A board in relief, textured with a photograph."""
        rng = self.rng
        rough = fractal_noise(rng, float(rng.uniform(1.4, 2.6)), 256)
        low, high = np.quantile(rough, [0.02, 0.98])
        heights = np.clip((rough - low) / (high - low), 0, 1)
        if rng.random() < 0.4:  # carved: two levels with slopes between
            heights = np.clip((heights - 0.5) * float(rng.uniform(3, 12)) + 0.5, 0, 1)
        extent = float(rng.uniform(0.8, 2.5)) if radii[0] > 2 else 2 * radii[0]
        placed = self._placed(center, (*radii, 1), yaw, pitch)
        return ReliefBoard(True, *placed, False, torch.from_numpy(heights).float(), extent, amplitude)

    def _ragged(self, center: tuple[float, float, float], size: float, yaw: float, pitch: float) -> RaggedBoard:
        rng = self.rng
        if rng.random() < 0.5:  # leaves and twigs
            canvas = np.zeros((512, 512), np.float32)
            for _ in range(int(rng.integers(15, 90))):
                middle = rng.integers(0, 512, 2).tolist()
                length = float(np.exp(rng.uniform(math.log(10), math.log(90))))
                axes = (int(length), max(1, int(length * rng.uniform(0.05, 0.5))))
                cv2.ellipse(canvas, middle, axes, float(rng.uniform(0, 360)), 0, 360, 1.0, -1, cv2.LINE_AA)
        else:
            canvas = (fractal_noise(rng, float(rng.uniform(1.0, 2.0)), 512) > float(rng.uniform(-0.5, 0.8))) * 1.0
        placed = self._placed(center, (size, size, 1), yaw, pitch)
        return RaggedBoard(True, *placed, bool(rng.random() < 0.5), torch.from_numpy(canvas).float(), 2 * size)

    def _placed(
        self, center: Sequence[float], radii: Sequence[float], yaw: float, pitch: float
    ) -> tuple[Tensor, Tensor, Tensor, int, Tensor, float]:
        """Centre, axes, radii, texture, offset and density of a solid."""
        rng = self.rng
        depth = max(1.0, float(center[2]))
        # Texels per metre such that a pixel of a close-up covers about one texel.
        density = float(rng.uniform(0.9, 1.7)) * PIXELS_ACROSS / depth
        return (
            torch.tensor([float(c) for c in center]),
            axes_turned(yaw, pitch).float(),
            torch.tensor([float(r) for r in radii]),
            int(rng.integers(self.textures)),
            torch.from_numpy(rng.uniform(0, 3, 2)).float(),
            density,
        )
