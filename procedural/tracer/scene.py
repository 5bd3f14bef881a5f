"""The parts of a procedural scene: solids, a sun, a sky."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from procedural.tracer.materials import Color, Material
from procedural.tracer.noise import fbm, smoothstep
from procedural.tracer.shapes import Shape


def turn_z(angle: float) -> Tensor:
    """[3, 3] rotation by `angle` radians about z."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


@dataclass(frozen=True)
class Solid:
    """A shape with a material, placed in the world by `world_from_shape` = (rotation [3, 3], position [3])."""

    shape: Shape
    material: Material
    position: Tensor
    rotation: Tensor = field(default_factory=lambda: torch.eye(3))

    def to_shape(self, points: Tensor) -> Tensor:
        """Transform world points [3, N] to the shape's frame."""
        return self.rotation.to(points.device).T @ (points - self.position.to(points.device)[:, None])

    def turn_to_shape(self, directions: Tensor) -> Tensor:
        """Rotate world directions [3, N] to the shape's frame."""
        return self.rotation.to(directions.device).T @ directions


@dataclass(frozen=True)
class Light:
    """Light of the sun and the sky.

    Attributes:
        sun_direction: Unit vector towards the sun.
        sun: Colour and strength of direct light.
        sky: Colour and strength of light from above.
        ground: Colour and strength of light from below.
        softness: Radius of the sun's disc in radians; wider is softer.
        haze: Fraction of the horizon's colour mixed in per unit of distance.
    """

    sun_direction: tuple[float, float, float]
    sun: Color = (2.6, 2.35, 2.0)
    sky: Color = (0.55, 0.65, 0.85)
    ground: Color = (0.28, 0.24, 0.20)
    softness: float = 0.03
    haze: float = 0.002


@dataclass(frozen=True)
class Sky:
    """A dome at infinity with clouds; it has no depth."""

    zenith: Color = (0.16, 0.33, 0.75)
    horizon: Color = (0.75, 0.82, 0.92)
    clouds: float = 0.5
    seed: int = 0

    def radiance(self, directions: Tensor, footprint: Tensor) -> Tensor:
        """Light [3, N] from unit world directions [3, N]; `footprint` [N] is the angle between samples."""
        up = directions[2].clamp(min=0.0)
        zenith, horizon = (directions.new_tensor(c)[:, None] for c in (self.zenith, self.horizon))
        clear = horizon + (zenith - horizon) * (1 - (1 - up) ** 3)
        lift = 1 / (up + 0.12)
        cover = fbm(
            directions[0] * lift, directions[1] * lift, 0.8, footprint * lift, octaves=8, gain=0.55, seed=self.seed
        )
        cloud = smoothstep(0.15, 0.6, cover.value + self.clouds - 0.5) * smoothstep(0.0, 0.15, up)
        shade = 0.95 + 0.3 * cover.value
        return clear + (shade - clear) * (cloud * 0.85)


@dataclass(frozen=True)
class Scene:
    """Solids under a sky. The world's z axis points up; lengths are interpreted as metres.

    Attributes:
        solids: Visible solids.
        light: Light of the sun and the sky.
        sky: Background where rays hit nothing.
        focus: World point [3] at the centre of the layout.
        exposure: Factor on the light before the tone curve.
        stage: Range of camera positions: (distance to `focus`, first and last azimuth in radians, largest height).
    """

    solids: tuple[Solid, ...]
    light: Light
    sky: Sky = field(default_factory=Sky)
    focus: Tensor = field(default_factory=lambda: torch.zeros(3))
    exposure: float = 1.0
    stage: tuple[float, float, float, float] = (4.0, -2.2, -0.9, 1.8)

    def distance(self, points: Tensor) -> Tensor:
        """[N] distance (or a lower bound) from world points [3, N] to the nearest surface, negative inside."""
        nearest = torch.full_like(points[0], math.inf)
        for solid in self.solids:
            nearest = torch.minimum(nearest, solid.shape.distance(solid.to_shape(points)))
        return nearest
