"""Random materials in plausible colours for walls, floors and things."""

import colorsys

import numpy as np

from procedural.tracer.crafts import Cloth, Glaze, Granite, Marble, Metal
from procedural.tracer.materials import Bricks, Color, Material, Plaster, Soil, Stones, Tiles, Wood


def tint(rng: np.random.Generator, value: tuple[float, float], saturation: tuple[float, float] = (0.1, 0.6)) -> Color:
    """A random linear colour of given brightness and saturation; warm hues are more frequent, as in real scenes."""
    hue = rng.normal(0.08, 0.07) % 1 if rng.random() < 0.55 else rng.random()
    r, g, b = colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value))
    return float(r), float(g), float(b)


def _jitter(rng: np.random.Generator, color: Color, amount: float = 0.25) -> Color:
    scale = np.exp(rng.normal(0, amount)) * np.exp(rng.normal(0, 0.4 * amount, 3))
    r, g, b = np.clip(np.asarray(color) * scale, 0.01, 0.9)
    return float(r), float(g), float(b)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(0, 100))


def wood(rng: np.random.Generator, board: float | None = None, upright: bool = False) -> Wood:
    """Timber from pale pine to dark walnut."""
    tones = [
        ((0.50, 0.31, 0.16), (0.22, 0.11, 0.05)),
        ((0.30, 0.15, 0.07), (0.09, 0.04, 0.02)),
        ((0.58, 0.42, 0.25), (0.33, 0.20, 0.10)),
        ((0.33, 0.30, 0.27), (0.13, 0.11, 0.10)),
    ]
    color, dark = tones[int(rng.integers(len(tones)))]
    width = float(rng.uniform(0.07, 0.2)) if board is None else board
    gloss = float(rng.uniform(0.05, 0.45))
    return Wood(_jitter(rng, color), _jitter(rng, dark), width, float(rng.uniform(0.8, 2)), gloss, upright, _seed(rng))


def wall(rng: np.random.Generator) -> Material:
    """Plaster, brick, panelling, tiles or rubble."""
    kind = rng.choice(["plaster", "plaster", "bricks", "bricks", "wood", "tiles", "stones"])
    if kind == "bricks":
        base = tint(rng, (0.25, 0.6), (0.15, 0.75))
        height = float(rng.uniform(0.06, 0.14))
        return Bricks(
            base, _jitter(rng, base, 0.4), tint(rng, (0.3, 0.65), (0.02, 0.15)), 3 * height, height, seed=_seed(rng)
        )
    if kind == "wood":
        return wood(rng, upright=bool(rng.random() < 0.5))
    if kind == "tiles":
        return tiles(rng, size=float(rng.uniform(0.1, 0.25)))
    if kind == "stones":
        return Stones(
            tint(rng, (0.3, 0.6), (0.05, 0.3)),
            tint(rng, (0.15, 0.4), (0.05, 0.3)),
            size=float(rng.uniform(0.15, 0.4)),
            seed=_seed(rng),
        )
    return Plaster(
        tint(rng, (0.4, 0.8), (0.05, 0.5)),
        tint(rng, (0.12, 0.4), (0.1, 0.5)),
        dirt=float(rng.uniform(0.3, 0.9)),
        seed=_seed(rng),
    )


def tiles(rng: np.random.Generator, size: float) -> Tiles:
    """Plain, chequered or ornamented tiles."""
    color = tint(rng, (0.3, 0.75), (0.05, 0.5))
    other = tint(rng, (0.08, 0.5), (0.05, 0.6)) if rng.random() < 0.5 else _jitter(rng, color, 0.1)
    ornament = float(rng.uniform(0.5, 0.9)) if rng.random() < 0.4 else 0.0
    gloss = float(rng.uniform(0.1, 0.8))
    return Tiles(color, other, tint(rng, (0.1, 0.4), (0.05, 0.3)), size, size * 0.03, gloss, ornament, _seed(rng))


def floor(rng: np.random.Generator, indoor: bool) -> Material:
    """Boards, tiles or carpet indoors; cobbles, gravel, grass or paving outdoors."""
    if indoor:
        kind = rng.choice(["wood", "wood", "tiles", "tiles", "granite", "cloth"])
        if kind == "wood":
            return wood(rng)
        if kind == "tiles":
            return tiles(rng, size=float(rng.uniform(0.15, 0.5)))
        return granite(rng, (0.02, 0.05)) if kind == "granite" else cloth(rng)
    kind = rng.choice(["cobbles", "cobbles", "gravel", "grass", "paving"])
    if kind == "grass":
        return Soil(_jitter(rng, (0.13, 0.19, 0.05)), _jitter(rng, (0.30, 0.22, 0.12)), seed=_seed(rng))
    if kind == "paving":
        color = tint(rng, (0.3, 0.6), (0.03, 0.25))
        return Tiles(
            color,
            _jitter(rng, color, 0.2),
            (0.12, 0.11, 0.09),
            float(rng.uniform(0.3, 0.7)),
            0.015,
            0.1,
            0.0,
            _seed(rng),
        )
    size = float(rng.uniform(0.08, 0.18)) if kind == "cobbles" else float(rng.uniform(0.02, 0.05))
    return Stones(
        tint(rng, (0.25, 0.6), (0.03, 0.25)), tint(rng, (0.12, 0.35), (0.03, 0.3)), size=size, seed=_seed(rng)
    )


def granite(rng: np.random.Generator, sizes: tuple[float, float] = (0.006, 0.025)) -> Granite:
    """Speckled stone."""
    color = tint(rng, (0.25, 0.6), (0.03, 0.35))
    chip, dark = tint(rng, (0.5, 0.8), (0.02, 0.3)), tint(rng, (0.04, 0.15), (0.05, 0.5))
    return Granite(color, chip, dark, float(rng.uniform(*sizes)), float(rng.uniform(0.1, 0.6)), _seed(rng))


def cloth(rng: np.random.Generator) -> Cloth:
    """Plaid or striped weave."""
    color, other = tint(rng, (0.15, 0.55), (0.3, 0.9)), tint(rng, (0.4, 0.8), (0.05, 0.5))
    return Cloth(color, other, float(rng.uniform(0.08, 0.3)), float(rng.uniform(0.003, 0.008)), seed=_seed(rng))


def glaze(rng: np.random.Generator) -> Glaze:
    """Painted pottery."""
    color, band = tint(rng, (0.4, 0.8), (0.05, 0.5)), tint(rng, (0.05, 0.35), (0.4, 0.95))
    return Glaze(
        color,
        band,
        float(rng.uniform(0.08, 0.2)),
        float(rng.uniform(0.03, 0.09)),
        float(rng.uniform(0.3, 0.9)),
        _seed(rng),
    )


def thing(rng: np.random.Generator) -> Material:
    """A material for an object."""
    kind = rng.choice(["wood", "marble", "granite", "metal", "glaze", "cloth", "stone"])
    if kind == "wood":
        return wood(rng, board=0.0, upright=bool(rng.random() < 0.5))
    if kind == "marble":
        return Marble(
            tint(rng, (0.4, 0.8), (0.02, 0.4)),
            tint(rng, (0.05, 0.35), (0.05, 0.5)),
            float(rng.uniform(2, 6)),
            seed=_seed(rng),
        )
    if kind == "granite":
        return granite(rng)
    if kind == "metal":
        return Metal(tint(rng, (0.15, 0.6), (0.2, 0.9)), wear=float(rng.uniform(0.2, 0.8)), seed=_seed(rng))
    if kind == "glaze":
        return glaze(rng)
    if kind == "cloth":
        return cloth(rng)
    return Plaster(tint(rng, (0.3, 0.7), (0.03, 0.4)), tint(rng, (0.12, 0.4), (0.1, 0.5)), 1.5, 0.9, _seed(rng))
