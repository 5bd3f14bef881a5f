"""Lattice noise with analytic slopes, for textures that have detail at every octave.

Everything depends only on the position, so a surface point has the same colour from every camera. Octaves
whose cells are smaller than the sample spacing (`footprint`) fade out: their mean is zero, so a distant view sees the
average of what a close-up resolves. Arrays are component first: coordinates are separate contiguous tensors [N].
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_BITS = 8
_PERIOD = 1 << _BITS
_MASK = _PERIOD - 1
_TURN = 0.6435  # radians between octaves (a 3-4-5 triangle): the lattices of two octaves never align
_LACUNARITY = 2.03  # not 2: cells of successive octaves must not share corners


class Noise(NamedTuple):
    """A scalar field and its slopes along the two coordinates, each [N]."""

    value: Tensor
    du: Tensor
    dv: Tensor


class Cells(NamedTuple):
    """Nearest feature points of a jittered lattice.

    Attributes:
        nearest: [N] distance to the nearest point, in cells.
        border: [N] second smallest minus smallest distance: 0 on the border between two cells.
        identity: [N] random number in [0, 1) that identifies the nearest point's cell.
        du: [N] first component of the offset from the nearest point, in cells.
        dv: [N] second component of the offset from the nearest point, in cells.
    """

    nearest: Tensor
    border: Tensor
    identity: Tensor
    du: Tensor
    dv: Tensor


@lru_cache(maxsize=8)
def _lattice(device: torch.device, channel: int) -> Tensor:
    """Random numbers in [-1, 1) at the corners of a periodic 256 x 256 lattice, flattened."""
    generator = torch.Generator().manual_seed(7919 + channel)
    return (torch.rand(_PERIOD * _PERIOD, generator=generator) * 2 - 1).to(device)


def smoothstep(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, a cubic between."""
    t = ((x - low) / (high - low)).clamp_(0, 1)
    return t * t * (3 - 2 * t)


def random_at(u: Tensor, v: Tensor, seed: int = 0) -> Tensor:
    """Random numbers [N] in [0, 1) for the integer positions (floor u, floor v)."""
    row = (u.floor() + seed * 37 % 256).to(torch.int32) & _MASK
    column = (v.floor() + seed * 101 % 256).to(torch.int32) & _MASK
    return _lattice(u.device, 1 + seed % 3).index_select(0, row * _PERIOD + column) * 0.5 + 0.5


def noise(u: Tensor, v: Tensor) -> Noise:
    """Value noise of one octave: in [-1, 1], cells of size 1, cubic interpolation; [N] each."""
    u0, v0 = u.floor(), v.floor()
    u, v = u - u0, v - v0
    row = (u0.to(torch.int32) & _MASK) * _PERIOD
    column = v0.to(torch.int32) & _MASK
    next_row = (row + _PERIOD) & (_MASK * _PERIOD)
    next_column = (column + 1) & _MASK
    table = _lattice(u.device, 0)
    corner = table.index_select(0, row + column)
    right = table.index_select(0, next_row + column) - corner
    below = table.index_select(0, row + next_column)
    twist = table.index_select(0, next_row + next_column) - below - right
    below = below - corner
    fade_u, fade_v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    slope_u = right + twist * fade_v
    value = corner + slope_u * fade_u + below * fade_v
    du = slope_u * (6 * u * (1 - u))
    dv = (below + twist * fade_u) * (6 * v * (1 - v))
    return Noise(value, du, dv)


def fbm(
    u: Tensor,
    v: Tensor,
    frequency: float,
    footprint: Tensor,
    octaves: int = 8,
    gain: float = 0.5,
    stretch: float = 1.0,
    seed: int = 0,
) -> Noise:
    """Fractional Brownian motion: a sum of octaves of `noise`, about in [-1, 1], with slopes per unit of u and v.

    Args:
        u: [N] coordinate in scene units.
        v: [N] coordinate in scene units.
        frequency: Cells per unit of the first octave.
        footprint: [N] distance between neighbouring samples on the surface, in scene units.
        octaves: Maximum number of octaves, each 2.03 times finer than the previous one.
        gain: Amplitude of an octave relative to the previous one.
        stretch: Frequency along v relative to u; octaves are rotated against each other only if it is 1.
        seed: Selects independent fields.
    """
    total: Noise | None = None
    norm = (1 - gain**octaves) / (1 - gain) if gain != 1 else octaves
    amplitude, cells = 1 / norm * 1.4, frequency
    finest = float(footprint.min()) if footprint.numel() else 1.0
    angle = 0.0 if stretch != 1 else 0.3 + seed
    for octave in range(octaves):
        shortest = 1 / (cells * max(1.0, stretch))
        if octave and finest >= shortest:
            break
        c, s = math.cos(angle) * cells, math.sin(angle) * cells
        offset = 17.3 * seed + 5.7 * octave
        cv, sv = c * stretch, s * stretch
        octave_noise = noise(u * c - v * sv + offset, u * s + v * cv + offset * 1.7)
        fade = (2 - footprint * (2 / shortest)).clamp_(0, 1) * amplitude
        value = octave_noise.value * fade
        du = (octave_noise.du * c + octave_noise.dv * s) * fade
        dv = (octave_noise.dv * cv - octave_noise.du * sv) * fade
        total = Noise(value, du, dv) if total is None else Noise(total.value + value, total.du + du, total.dv + dv)
        amplitude *= gain
        cells *= _LACUNARITY
        if stretch == 1:
            angle += _TURN
    assert total is not None
    return total


def cells(u: Tensor, v: Tensor, jitter: float = 0.8, seed: int = 0) -> Cells:
    """Worley noise with cells of size 1: nearest jittered lattice point, its identity, distance to the border."""
    u0, v0 = u.floor(), v.floor()
    fu, fv = u - u0, v - v0
    row0, column0 = u0.to(torch.int32) + seed * 13, v0.to(torch.int32) + seed * 29
    table_u, table_v, table_id = (_lattice(u.device, channel) for channel in (1, 2, 3))
    first = torch.full_like(u, 9.0)
    second = first.clone()
    best_u, best_v = torch.zeros_like(u), torch.zeros_like(u)
    best = torch.zeros_like(row0)
    for i in (-1, 0, 1):
        row = ((row0 + i) & _MASK) * _PERIOD
        for j in (-1, 0, 1):
            index = row + ((column0 + j) & _MASK)
            du = fu - (i + 0.5) - table_u.index_select(0, index) * (0.5 * jitter)
            dv = fv - (j + 0.5) - table_v.index_select(0, index) * (0.5 * jitter)
            squared = du * du + dv * dv
            closer = squared < first
            second = torch.minimum(second, torch.maximum(first, squared))
            first = torch.minimum(first, squared)
            best_u, best_v = torch.where(closer, du, best_u), torch.where(closer, dv, best_v)
            best = torch.where(closer, index, best)
    nearest = first.sqrt()
    identity = table_id.index_select(0, best) * 0.5 + 0.5
    return Cells(nearest, second.sqrt() - nearest, identity, best_u, best_v)
