"""Procedural materials: colour, relief and gloss as functions of the position on a surface, detailed at every octave.

A material is a frozen dataclass whose `appearance` depends only on the given surface points. Colours are linear light
in [0, 1]. Lengths are in scene units, interpreted as metres.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from procedural.tracer.noise import Noise, cells, fbm, random_at, smoothstep

Color = tuple[float, float, float]


class Texels(NamedTuple):
    """Surface points to be coloured.

    Attributes:
        u: [N] surface coordinate in scene units.
        v: [N] surface coordinate in scene units.
        footprint: [N] spacing of the samples on the surface, in scene units.
    """

    u: Tensor
    v: Tensor
    footprint: Tensor


class Appearance(NamedTuple):
    """Surface properties for shading.

    Attributes:
        albedo: [3, N] linear reflectance.
        du: [N] slope of the relief along u.
        dv: [N] slope of the relief along v.
        gloss: [N] strength of the highlight, 0 = matt, 1 = glazed.
    """

    albedo: Tensor
    du: Tensor
    dv: Tensor
    gloss: Tensor


class Material(Protocol):
    """A material that colours texels."""

    def appearance(self, texels: Texels) -> Appearance:
        """The appearance at each texel."""
        ...


def column(color: Color, like: Tensor) -> Tensor:
    """A colour as [3, 1] with the device and dtype of `like`."""
    return torch.tensor(color, dtype=like.dtype, device=like.device)[:, None]


def mix(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Interpolate from a (t = 0) to b (t = 1); colours [3, 1] or [3, N], t [N]."""
    return a + (b - a) * t


def grain_of(texels: Texels, seed: int, frequency: float = 90.0, amplitude: float = 1.0) -> Noise:
    """Fine isotropic roughness from a centimetre to a tenth of a millimetre."""
    grain = fbm(texels.u, texels.v, frequency, texels.footprint, octaves=7, gain=0.75, seed=seed + 40)
    return Noise(grain.value * amplitude, grain.du * amplitude, grain.dv * amplitude)


@dataclass(frozen=True)
class Plaster:
    """Painted or rough wall: stains at the scale of metres, trowel marks, fine grain."""

    color: Color = (0.62, 0.56, 0.48)
    stain: Color = (0.34, 0.28, 0.22)
    roughness: float = 1.0
    dirt: float = 0.5
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """A stained wall with trowel marks and grain."""
        u, v, footprint = texels
        broad = fbm(u, v, 0.9, footprint, octaves=9, gain=0.62, seed=self.seed)
        grain = grain_of(texels, self.seed, 60.0)
        blotch = smoothstep(-0.15, 0.55, broad.value + 0.25 * grain.value) * self.dirt
        albedo = mix(column(self.color, u), column(self.stain, u), blotch) * (1 + 0.28 * grain.value)
        relief = 0.003 * self.roughness
        du, dv = relief * (broad.du + 0.5 * grain.du), relief * (broad.dv + 0.5 * grain.dv)
        return Appearance(albedo, du, dv, torch.full_like(u, 0.05))


@dataclass(frozen=True)
class Bricks:
    """Running bond with mortar, a different tone for each brick, pitted faces."""

    color: Color = (0.42, 0.16, 0.09)
    other: Color = (0.55, 0.30, 0.18)
    mortar: Color = (0.55, 0.52, 0.47)
    length: float = 0.24
    height: float = 0.08
    joint: float = 0.012
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Bricks and mortar by the distance to the brick's edges."""
        u, v, footprint = texels
        warp = fbm(u, v, 6.0, footprint, octaves=6, gain=0.6, seed=self.seed + 1)
        course = v / self.height
        row = course.floor()
        along = u / self.length + 0.5 * (row % 2) + 0.13 * random_at(row, row, self.seed)
        # Signed distances to the edges of the brick, in metres.
        x = (along - along.floor() - 0.5) * self.length
        y = (course - row - 0.5) * self.height
        edge_u, edge_v = 0.5 * self.length - x.abs(), 0.5 * self.height - y.abs()
        nearest = torch.minimum(edge_u, edge_v) + 0.004 * warp.value
        soft = 0.004 + footprint
        face = smoothstep(0.5 * self.joint - 0.5 * soft, 0.5 * self.joint + 0.5 * soft, nearest)
        identity = random_at(along, row, self.seed)
        second = random_at(along, row, self.seed + 1)
        grain = grain_of(texels, self.seed)
        stain = fbm(u, v, 0.8, footprint, octaves=8, gain=0.6, seed=self.seed + 2)
        brick = mix(column(self.color, u), column(self.other, u), (identity + 0.5 * warp.value).clamp(0, 1))
        brick = brick * (0.65 + 0.6 * second + 0.35 * grain.value + 0.3 * warp.value)
        mortar = column(self.mortar, u) * (0.9 + 0.35 * grain.value)
        albedo = mix(mortar, brick, face) * (1 + 0.35 * stain.value)
        ramp = 0.9 * (1 - (2 * face - 1).square()) * (0.004 / soft)
        horizontal = edge_u < edge_v
        du = -torch.sign(x) * ramp * horizontal + 0.0028 * grain.du + 0.006 * warp.du
        dv = -torch.sign(y) * ramp * ~horizontal + 0.0028 * grain.dv + 0.006 * warp.dv
        return Appearance(albedo.clamp_(0.01, 0.95), du, dv, 0.04 + 0.04 * face)


@dataclass(frozen=True)
class Tiles:
    """Square tiles with grout; glazed or stone; an inlaid pattern in some; chequered if `other` differs."""

    color: Color = (0.62, 0.60, 0.55)
    other: Color = (0.25, 0.28, 0.32)
    grout: Color = (0.30, 0.28, 0.26)
    size: float = 0.3
    joint: float = 0.006
    gloss: float = 0.5
    ornament: float = 0.0
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Tiles, their inlays and grout."""
        u, v, footprint = texels
        a, b = u / self.size, v / self.size
        column_index, row = a.floor(), b.floor()
        x, y = (a - column_index - 0.5) * self.size, (b - row - 0.5) * self.size
        edge_u, edge_v = 0.5 * self.size - x.abs(), 0.5 * self.size - y.abs()
        nearest = torch.minimum(edge_u, edge_v)
        soft = 0.003 + footprint
        face = smoothstep(0.5 * self.joint - 0.5 * soft, 0.5 * self.joint + 0.5 * soft, nearest)
        identity = random_at(a, b, self.seed)
        chequer = (column_index + row) % 2
        # Stone patterns continue within a tile and jump between tiles.
        figure = fbm(u + 7.3 * identity, v - 5.1 * identity, 5.0, footprint, octaves=9, gain=0.62, seed=self.seed)
        veins = 1 - smoothstep(0.0, 0.05, figure.value.abs())
        base = mix(column(self.color, u), column(self.other, u), chequer)
        base = base * (0.82 + 0.36 * identity + 0.30 * figure.value) * (1 - 0.25 * veins)
        if self.ornament > 0:
            ring = torch.sqrt(x * x + y * y) / self.size
            petals = torch.cos(torch.atan2(y, x) * 8) * 0.06
            width = 0.015 + footprint / self.size
            inlay = smoothstep(-width, width, 0.30 + petals - ring) * smoothstep(-width, width, ring - 0.17 + petals)
            base = mix(base, column(self.grout, u) * (0.8 + 0.5 * figure.value), inlay * self.ornament)
        dust = fbm(u, v, 1.1, footprint, octaves=9, gain=0.65, seed=self.seed + 3)
        grain = grain_of(texels, self.seed, 120.0)
        albedo = mix(column(self.grout, u) * (1 + 0.4 * grain.value), base * (1 + 0.12 * grain.value), face)
        albedo = albedo * (1 + 0.22 * dust.value)
        ramp = 0.6 * (1 - (2 * face - 1).square()) * (0.003 / soft)
        horizontal = edge_u < edge_v
        tilt_u, tilt_v = (identity - 0.5) * 0.02, (random_at(a, b, self.seed + 1) - 0.5) * 0.02
        du = -torch.sign(x) * ramp * horizontal + tilt_u * face + 0.0008 * grain.du
        dv = -torch.sign(y) * ramp * ~horizontal + tilt_v * face + 0.0008 * grain.dv
        gloss = self.gloss * face * (0.75 - 0.5 * dust.value).clamp(0.1, 1)
        return Appearance(albedo.clamp_(0.01, 0.95), du, dv, gloss)


@dataclass(frozen=True)
class Wood:
    """Boards along u with grain, pores, knots and gaps (`board` = width; one piece if it is 0)."""

    color: Color = (0.44, 0.26, 0.13)
    dark: Color = (0.18, 0.09, 0.04)
    board: float = 0.14
    length: float = 1.6
    gloss: float = 0.25
    upright: bool = False
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Grain, pores and knots of each board, and the gaps between boards."""
        u, v, footprint = texels
        if self.upright:
            u, v = v, -u
        if self.board > 0:
            row = (v / self.board).floor()
            shift = random_at(row, row + 3, self.seed)
            across = v - (row + 0.5) * self.board
            piece = (u / self.length + shift).floor()
            along = u - (piece + 0.5 - shift) * self.length
            identity = random_at(piece, row, self.seed)
            edge_v, edge_u = 0.5 * self.board - across.abs(), 0.5 * self.length - along.abs()
            soft = 0.002 + footprint
            face = smoothstep(0.0, 0.0025 + soft, torch.minimum(edge_u, edge_v))
            ramp = 0.7 * (1 - (2 * face - 1).square()) * (0.0025 / (0.0025 + soft))
        else:
            identity, face, ramp = torch.zeros_like(u), torch.ones_like(u), torch.zeros_like(u)
            across, edge_v, edge_u = v, ramp, ramp + 1
        # Each board is cut from a different part of the trunk.
        a, b = u + 13.7 * identity, v + 9.1 * identity
        bend = fbm(a, b, 1.3, footprint, octaves=3, stretch=4.0, seed=self.seed)
        rings = fbm(a, b + 0.05 * bend.value, 0.7, footprint, octaves=7, gain=0.68, stretch=28.0, seed=self.seed + 1)
        pores = fbm(a, b, 9.0, footprint, octaves=6, gain=0.8, stretch=45.0, seed=self.seed + 2)
        tone = (0.35 + 0.75 * rings.value + 0.25 * bend.value + 0.30 * pores.value).clamp(0, 1)
        wear = fbm(u, v, 2.0, footprint, octaves=8, gain=0.66, seed=self.seed + 3)
        albedo = mix(column(self.color, u), column(self.dark, u), tone)
        albedo = albedo * (0.72 + 0.56 * identity) * (1 + 0.20 * wear.value + 0.15 * pores.value)
        albedo = albedo * (0.18 + 0.82 * face)
        across_gap = edge_v <= edge_u
        dv = -torch.sign(across) * ramp * across_gap + 0.0012 * rings.dv + 0.0006 * pores.dv
        du = 0.0012 * rings.du + 0.0006 * pores.du
        if self.upright:
            du, dv = -dv, du
        gloss = self.gloss * face * (0.8 - 0.5 * wear.value).clamp(0.1, 1)
        return Appearance(albedo.clamp_(0.005, 0.95), du, dv, gloss)


@dataclass(frozen=True)
class Stones:
    """Cobbles or gravel: rounded stones of many tones with dirt in the joints."""

    color: Color = (0.40, 0.37, 0.33)
    other: Color = (0.24, 0.22, 0.21)
    joint: Color = (0.13, 0.11, 0.08)
    size: float = 0.12
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Rounded stones, and dirt in the joints."""
        u, v, footprint = texels
        bend = fbm(u, v, 2.0 / self.size * 0.25, footprint, octaves=4, gain=0.5, seed=self.seed)
        cell = cells((u + 0.15 * self.size * bend.value) / self.size, v / self.size, 0.7, self.seed)
        visible = (2 - 3 * footprint / self.size).clamp(0, 1)
        face = smoothstep(0.03, 0.22, cell.border)
        grain = grain_of(texels, self.seed, 50.0)
        broad = fbm(u, v, 0.7, footprint, octaves=8, gain=0.65, seed=self.seed + 1)
        face = 0.75 + (face - 0.75) * visible
        tone = 0.5 + (cell.identity - 0.5) * visible
        stone = mix(column(self.color, u), column(self.other, u), (tone + 0.5 * grain.value).clamp(0, 1))
        joint = column(self.joint, u) * (1 + 0.6 * grain.value)
        albedo = mix(joint, stone * (1 + 0.4 * grain.value), face) * (1 + 0.3 * broad.value)
        dome = -0.9 * visible
        du, dv = dome * cell.du + 0.005 * grain.du, dome * cell.dv + 0.005 * grain.dv
        return Appearance(albedo.clamp_(0.01, 0.95), du, dv, torch.full_like(u, 0.08))


@dataclass(frozen=True)
class Soil:
    """Grass, earth and leaf litter: patches of two colours with blades and crumbs at every scale."""

    color: Color = (0.13, 0.19, 0.05)
    other: Color = (0.27, 0.20, 0.12)
    seed: int = 0

    def appearance(self, texels: Texels) -> Appearance:
        """Patches of two colours with fine relief."""
        u, v, footprint = texels
        patches = fbm(u, v, 0.7, footprint, octaves=10, gain=0.68, seed=self.seed)
        blades = fbm(u, v, 12.0, footprint, octaves=6, gain=0.8, stretch=2.5, seed=self.seed + 1)
        crumbs = fbm(u, v, 25.0, footprint, octaves=8, gain=0.85, seed=self.seed + 2)
        albedo = mix(
            column(self.color, u), column(self.other, u), smoothstep(-0.3, 0.4, patches.value + 0.3 * crumbs.value)
        )
        albedo = albedo * (1 + 0.8 * crumbs.value) * (1 + 0.5 * blades.value)
        du, dv = 0.02 * blades.du + 0.012 * crumbs.du, 0.02 * blades.dv + 0.012 * crumbs.dv
        return Appearance(albedo.clamp_(0.005, 0.9), du, dv, torch.full_like(u, 0.02))
