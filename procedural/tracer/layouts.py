"""Random arrangements: rooms and yards with walls, furniture and things at several depths that hide one another."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from procedural.tracer import palette
from procedural.tracer.crafts import Glaze, Metal
from procedural.tracer.materials import Color, Material, Wood
from procedural.tracer.picture import draw_print
from procedural.tracer.revolved import Revolved
from procedural.tracer.scene import Light, Scene, Sky, Solid, turn_z
from procedural.tracer.shapes import Box, Cylinder, Plane, Shape, Sphere

_PROFILES = (
    (0.5, 0.8, 1.0, 0.75, 0.35, 0.3, 0.5),  # vase
    (0.6, 0.75, 0.9, 1.0, 1.05),  # pot
    (0.35, 0.9, 1.0, 0.9, 0.4, 0.2, 0.22),  # jug
    (0.9, 1.0, 0.95, 0.6, 0.28, 0.25, 0.25),  # bottle
    (0.82, 0.95, 1.0, 0.95, 0.82),  # barrel
    (0.9, 0.5, 0.35, 0.3, 0.35, 0.6, 0.7),  # stand
    (1.0, 0.75, 0.5, 0.25, 0.02),  # cone
)


@dataclass
class Arrangement:
    """Solids being assembled, with the occupied places on the floor."""

    rng: np.random.Generator
    solids: list[Solid] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def add(self, shape: Shape, material: Material, at: tuple[float, float, float], yaw: float = 0.0) -> None:
        """Place a shape with its origin at `at`, rotated by `yaw` radians about the vertical."""
        self.solids.append(Solid(shape, material, torch.tensor(at, dtype=torch.float32), turn_z(yaw)))

    def free_place(self, radius: float, reach: tuple[float, float], tries: int = 40) -> tuple[float, float] | None:
        """A free disc of `radius` within |x| <= reach[0], |y| <= reach[1]; None if there is no space."""
        for _ in range(tries):
            x, y = self.rng.uniform(-reach[0], reach[0]), self.rng.uniform(-reach[1], reach[1])
            if all(math.hypot(x - a, y - b) > radius + r for a, b, r in self.taken):
                self.taken.append((x, y, radius))
                return float(x), float(y)
        return None


def random_scene(seed: int) -> Scene:
    """A random room or yard, deterministic for a seed. Sizes are realistic, in metres."""
    rng = np.random.default_rng([seed, 20251])
    indoor = bool(rng.random() < 0.55)
    scene = Arrangement(rng)
    depth = float(rng.uniform(1.2, 2.4))
    _enclose(scene, indoor, depth)
    if rng.random() < 0.7:
        _table(scene, (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.2, 0.5))))
    for _ in range(int(rng.integers(1, 3))):
        _furniture(scene, (1.7, depth - 0.4))
    for _ in range(int(rng.integers(4, 9))):
        size = float(rng.uniform(0.10, 0.34))
        place = scene.free_place(size, (1.5, min(1.2, depth - 0.3)))
        if place:
            _thing(scene, (*place, 0.0), size)
    distance = float(rng.uniform(2.6, 4.2))
    middle = float(rng.uniform(-2.0, -1.1))
    focus = torch.tensor([float(rng.uniform(-0.3, 0.3)), float(rng.uniform(0.0, 0.4)), float(rng.uniform(0.3, 0.6))])
    return Scene(
        tuple(scene.solids),
        _light(rng, indoor),
        _sky(rng),
        focus,
        float(rng.uniform(0.36, 0.6)),
        (distance, middle - 0.35, middle + 0.35, float(rng.uniform(1.0, 2.0))),
    )


def _light(rng: np.random.Generator, indoor: bool) -> Light:
    azimuth, elevation = rng.uniform(-2.9, -0.2), rng.uniform(0.45, 1.2)
    flat = math.cos(elevation)
    sun_direction = (math.cos(azimuth) * flat, math.sin(azimuth) * flat, math.sin(elevation))
    warmth, strength = rng.uniform(0, 1), rng.uniform(1.2, 3.0)
    sun = _scaled((1.08, 1.0 - 0.12 * warmth, 0.95 - 0.35 * warmth), strength)
    level = rng.uniform(0.45, 0.9)
    blue = rng.uniform(0.0, 0.4) * (0.4 if indoor else 1.0)
    sky = _scaled((1 - 0.5 * blue, 1 - 0.2 * blue, 1 + 0.35 * blue), level)
    ground = _scaled((1.1, 1.0, 0.85), level * rng.uniform(0.35, 0.6))
    softness = float(rng.uniform(0.02, 0.06) if indoor else rng.uniform(0.005, 0.03))
    return Light(sun_direction, sun, sky, ground, softness, 0.0 if indoor else 0.006)


def _scaled(color: Color, factor: float) -> Color:
    r, g, b = (float(c * factor) for c in color)
    return r, g, b


def _sky(rng: np.random.Generator) -> Sky:
    grey = float(rng.uniform(0, 0.6))
    r, g, b = (c + (0.6 - c) * grey for c in (0.16, 0.33, 0.75))
    return Sky((r, g, b), clouds=float(rng.uniform(0.2, 0.9)), seed=int(rng.integers(100)))


def _enclose(scene: Arrangement, indoor: bool, depth: float) -> None:
    """Add ground, and a room's two walls with prints and skirting, or a yard's facade and low walls."""
    rng = scene.rng
    turn = float(rng.uniform(-0.4, 0.4))
    scene.add(Plane(60.0, 60.0), palette.floor(rng, indoor), (0.0, 0.0, 0.0), turn if not indoor else 0.0)
    material = palette.wall(rng)
    tall = 3.2 if indoor else float(rng.uniform(1.2, 4.5))
    wide = 6.0 if indoor else float(rng.uniform(2.0, 6.0))
    scene.add(Box(wide, 0.1, tall / 2), material, (0.0, depth + 0.1, tall / 2))
    if indoor:
        side = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(1.9, 2.8))
        scene.add(
            Box(0.1, 4.0, tall / 2),
            palette.wall(rng) if rng.random() < 0.4 else material,
            (side * 1.04, depth - 4, tall / 2),
        )
        skirting = palette.wood(rng, board=0.0)
        scene.add(Box(wide, 0.012, 0.06), skirting, (0.0, depth - 0.012, 0.06))
    else:
        for _ in range(int(rng.integers(1, 4))):
            far = float(rng.uniform(5, 14))
            size = (float(rng.uniform(1.5, 4)), float(rng.uniform(1, 2)), float(rng.uniform(1.2, 4)))
            scene.add(
                Box(*size),
                palette.wall(rng),
                (float(rng.uniform(-9, 9)), depth + far, size[2]),
                float(rng.uniform(-0.5, 0.5)),
            )
    for k in range(int(rng.integers(1, 4))):
        w, h = float(rng.uniform(0.35, 0.8)), float(rng.uniform(0.35, 0.9))
        x, z = float(rng.uniform(-0.5, 0.5)) + (k - 1) * 1.15, float(rng.uniform(0.9, 1.5))
        if z + h / 2 > tall or abs(x) + w / 2 > wide:
            continue
        style = str(rng.choice(["poster", "poster", "text", "label"]))
        scene.add(Box(w / 2, 0.012, h / 2), draw_print(rng, w, h, 640, style), (x, depth - 0.012, z))
        if rng.random() < 0.6:
            scene.add(Box(w / 2 + 0.03, 0.01, h / 2 + 0.03), palette.wood(rng, board=0.0), (x, depth - 0.006, z))
    if indoor and rng.random() < 0.5:
        size = (float(rng.uniform(0.8, 1.4)), float(rng.uniform(0.6, 1.0)), 0.006)
        scene.add(
            Box(*size), palette.cloth(rng), (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.3, 0.3)), 0.006), turn
        )


def _table(scene: Arrangement, at: tuple[float, float]) -> None:
    rng = scene.rng
    x, y = at
    a, b, height = float(rng.uniform(0.4, 0.75)), float(rng.uniform(0.3, 0.5)), float(rng.uniform(0.35, 0.75))
    yaw = float(rng.uniform(-0.5, 0.5))
    timber = palette.wood(rng)
    scene.add(Box(a, b, 0.02), timber, (x, y, height - 0.02), yaw)
    c, s = math.cos(yaw), math.sin(yaw)
    leg = float(rng.uniform(0.02, 0.035))
    for i in (-1, 1):
        for j in (-1, 1):
            px, py = i * (a - 2 * leg), j * (b - 2 * leg)
            upright = Wood(timber.color, timber.dark, 0.0, upright=True, seed=timber.seed)
            scene.add(
                Box(leg, leg, height / 2 - 0.02),
                upright,
                (x + c * px - s * py, y + s * px + c * py, height / 2 - 0.02),
                yaw,
            )
    scene.taken.append((x, y, math.hypot(a, b) * 0.9))
    spots: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(3, 6))):
        size = float(rng.uniform(0.06, 0.16))
        for _ in range(20):
            px, py = rng.uniform(-a + size, a - size), rng.uniform(-b + size, b - size)
            if all(math.hypot(px - q, py - r) > size + t for q, r, t in spots):
                spots.append((px, py, size))
                _thing(scene, (float(x + c * px - s * py), float(y + s * px + c * py), height), size)
                break


def _furniture(scene: Arrangement, reach: tuple[float, float]) -> None:
    """Add a chest, crate, column or hedge."""
    rng = scene.rng
    place = scene.free_place(0.4, reach)
    if place is None:
        return
    x, y = place
    yaw = float(rng.uniform(-0.6, 0.6))
    kind = rng.choice(["chest", "crates", "column", "shelf"])
    if kind == "column":
        height, radius = float(rng.uniform(0.8, 2.6)), float(rng.uniform(0.1, 0.22))
        scene.add(Cylinder(radius, height / 2), palette.thing(rng), (x, y, height / 2), 1.57 + yaw)
        scene.add(Box(radius * 1.4, radius * 1.4, 0.05), palette.granite(rng), (x, y, 0.05), yaw)
    elif kind == "crates":
        base = 0.0
        for _ in range(int(rng.integers(1, 4))):
            half = float(rng.uniform(0.12, 0.24))
            scene.add(
                Box(half, half * 0.9, half * 0.8),
                palette.wood(rng),
                (x, y, base + half * 0.8),
                yaw + float(rng.normal(0, 0.2)),
            )
            base += 1.6 * half
        _thing(scene, (x, y, base), 0.1)
    elif kind == "chest":
        size = (float(rng.uniform(0.25, 0.45)), float(rng.uniform(0.18, 0.28)), float(rng.uniform(0.15, 0.4)))
        scene.add(Box(*size), palette.thing(rng), (x, y, size[2]), yaw)
        _thing(scene, (x, y, 2 * size[2]), float(rng.uniform(0.08, 0.16)))
    else:
        timber = palette.wood(rng, board=0.0)
        wide, deep = 0.4, 0.15
        for level in range(3):
            z = 0.02 + 0.36 * level
            scene.add(Box(wide, deep, 0.015), timber, (x, y, z), yaw)
            if level < 2:
                _books(scene, (x, y, z + 0.015), wide, yaw)
        for side in (-1, 1):
            at = (x + side * wide * math.cos(yaw), y + side * wide * math.sin(yaw), 0.39)
            scene.add(Box(0.012, deep, 0.39), timber, at, yaw)
        _thing(scene, (x, y, 0.755), 0.1)


def _books(scene: Arrangement, at: tuple[float, float, float], wide: float, yaw: float) -> None:
    rng = scene.rng
    along = -wide + 0.04
    while along < wide - 0.12:
        thick, tall, deep = float(rng.uniform(0.05, 0.13)), float(rng.uniform(0.2, 0.3)), 0.11
        along += thick / 2
        position = (at[0] + along * math.cos(yaw), at[1] + along * math.sin(yaw), at[2] + tall / 2)
        spine = draw_print(rng, thick, tall, 160, str(rng.choice(["label", "poster", "text"])))
        scene.add(Box(thick / 2, deep, tall / 2), spine, position, yaw)
        along += thick / 2 + 0.004


def _thing(scene: Arrangement, at: tuple[float, float, float], size: float) -> None:
    """Add an object of about `size` in radius standing at `at`."""
    rng = scene.rng
    x, y, z = at
    # The seam of round textures points away from the cameras, which are on the -y side.
    yaw = -math.pi / 2 + float(rng.uniform(-0.5, 0.5))
    kind = rng.choice(["turned", "turned", "turned", "ball", "box", "tin", "books"])
    if kind == "turned":
        profile = _PROFILES[int(rng.integers(len(_PROFILES)))]
        height = size * float(rng.uniform(1.0, 1.8))
        width = size * float(rng.uniform(0.6, 0.95))
        scale = width / max(profile)
        material = palette.glaze(rng) if rng.random() < 0.4 else palette.thing(rng)
        if isinstance(material, Glaze):
            material = Glaze(material.color, material.band, height * 0.5, width * 0.4, material.gloss, material.seed)
        turned = Revolved(tuple(r * scale for r in profile), height, even=not isinstance(material, Glaze))
        scene.add(turned, material, (x, y, z + height), yaw)
    elif kind == "ball":
        scene.add(Sphere(size * 0.8), palette.thing(rng), (x, y, z + size * 0.8), yaw)
    elif kind == "tin":
        height, radius = size * float(rng.uniform(0.6, 1.1)), size * 0.6
        label = draw_print(rng, 2 * math.pi * radius, 2 * height, 768, "label")
        scene.add(Cylinder(radius, height), label, (x, y, z + height), yaw)
        rim = Metal((0.45, 0.45, 0.46), wear=0.1, gloss=0.8)
        scene.add(Cylinder(radius * 1.02, height * 0.03), rim, (x, y, z + 2 * height), yaw)
    elif kind == "books":
        base, turn = z, float(rng.uniform(-0.6, 0.6))
        for _ in range(int(rng.integers(2, 5))):
            half, thick = size * float(rng.uniform(0.6, 0.8)), size * float(rng.uniform(0.08, 0.2))
            cover = draw_print(rng, 2 * half, max(1.4 * half, 2 * thick), 384, "poster")
            scene.add(Box(half, half * 0.7, thick), cover, (x, y, base + thick), turn + float(rng.normal(0, 0.25)))
            base += 2 * thick
    else:
        half = (
            size * float(rng.uniform(0.4, 0.7)),
            size * float(rng.uniform(0.4, 0.7)),
            size * float(rng.uniform(0.4, 0.9)),
        )
        side = draw_print(rng, 2 * half[0], 2 * half[2], 384, "poster") if rng.random() < 0.4 else palette.thing(rng)
        scene.add(Box(*half), side, (x, y, z + half[2]), float(rng.uniform(-0.8, 0.8)))
