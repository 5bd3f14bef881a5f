"""Renders the example scene: two photographs of a courtyard table, and the views of a camera that comes closer.

    python examples/render.py FOLDER        # examples/courtyard holds the result; about seven minutes on one core

Writes a.jpg and b.jpg (the photographs), close_*.jpg (ground truth that no method sees) and transforms.json; existing
files with these names are never replaced.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `procedural` is not installed

from cus.cameras import Cameras, save_transforms, trajectories
from cus.cameras.conversions import focal_from_35mm
from procedural.tracer import Light, Scene, Sky, Solid, look_at, render
from procedural.tracer.crafts import Cloth, Glaze, Granite, Marble, Metal
from procedural.tracer.materials import Bricks, Material, Plaster, Stones, Wood
from procedural.tracer.picture import draw_print
from procedural.tracer.revolved import Revolved
from procedural.tracer.scene import turn_z
from procedural.tracer.shapes import Box, Cylinder, Plane, Shape, Sphere

WIDTH, HEIGHT, FOCAL_35MM = 1280, 720, 35
OAK = ((0.46, 0.28, 0.14), (0.19, 0.09, 0.04))
PINE = ((0.52, 0.36, 0.20), (0.27, 0.15, 0.07))
FACING = -math.pi / 2  # turns the seam of round textures to the wall


class Builder:
    """Collects solids."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.solids: list[Solid] = []

    def put(self, shape: Shape, material: Material, at: tuple[float, float, float], yaw: float = 0.0) -> None:
        """Place a shape."""
        self.solids.append(Solid(shape, material, torch.tensor(at), turn_z(yaw)))

    def lean(self, shape: Shape, material: Material, at: tuple[float, float, float], pitch: float, yaw: float) -> None:
        """Place a shape tilted back by `pitch`, then rotated by `yaw`."""
        c, s = math.cos(pitch), math.sin(pitch)
        tilt = torch.tensor([[1.0, 0, 0], [0, c, -s], [0, s, c]])
        self.solids.append(Solid(shape, material, torch.tensor(at), turn_z(yaw) @ tilt))

    def book(self, at: tuple[float, float, float], half: tuple[float, float, float], yaw: float) -> float:
        """Place a closed book lying at `at`; returns the height of its top."""
        x, y, z = at
        a, b, c = half
        cover = draw_print(self.rng, 2 * a, 2 * b, 768, "poster")
        pages = Wood((0.66, 0.60, 0.48), (0.45, 0.38, 0.27), 0.0, gloss=0.0, seed=4)
        self.put(Box(a - 0.004, b - 0.004, c - 0.003, 0.001), pages, (x, y, z + c), yaw)
        for level in (0.002, 2 * c - 0.002):
            self.put(Box(a, b, 0.002, 0.001), cover, (x, y, z + level), yaw)
        spine = (x + b * math.sin(yaw), y - b * math.cos(yaw), z + c)
        self.put(Box(a, 0.002, c, 0.0015), draw_print(self.rng, 2 * a, 2 * c, 512, "label"), spine, yaw)
        return z + 2 * c


def walls_and_ground(build: Builder) -> None:
    """The courtyard: cobbles, a brick wall with a door and prints, a rubble wall, beams that cast shadows."""
    build.put(Plane(30, 30), Stones((0.42, 0.38, 0.33), (0.22, 0.21, 0.21), size=0.11, seed=3), (0, 0, 0), 0.3)
    bricks = Bricks((0.40, 0.17, 0.10), (0.52, 0.30, 0.19), (0.50, 0.47, 0.42), 0.23, 0.072, 0.012, seed=5)
    build.put(Box(4.0, 0.15, 1.6), bricks, (0.0, 1.55, 1.6))
    build.put(Box(4.0, 0.19, 0.15, 0.02), Granite((0.42, 0.40, 0.37), size=0.012, seed=2), (0.0, 1.55, 0.15))
    rubble = Stones((0.52, 0.47, 0.40), (0.30, 0.27, 0.24), (0.24, 0.21, 0.17), 0.24, seed=9)
    build.put(Box(0.2, 3.0, 0.62), rubble, (2.15, -0.9, 0.62))
    build.put(Box(0.24, 3.0, 0.04, 0.01), Granite((0.50, 0.47, 0.43), size=0.015, seed=8), (2.15, -0.9, 1.28))
    for plank in range(5):
        door = Metal((0.06, 0.17, 0.20), wear=0.42, gloss=0.25, seed=21 + plank)
        build.put(Box(0.088, 0.02, 0.98, 0.006), door, (-1.62 + 0.18 * plank, 1.385, 0.98))
    for x in (-1.78, -0.82):
        build.put(Box(0.06, 0.05, 1.02), Wood(*PINE, 0.0, upright=True, seed=6), (x, 1.38, 1.02))
    build.put(Box(0.6, 0.06, 0.07), Wood(*PINE, 0.0, seed=7), (-1.30, 1.37, 2.08))
    build.put(Box(0.30, 0.006, 0.40), draw_print(build.rng, 0.6, 0.8, 1400, "poster"), (0.95, 1.392, 1.32))
    build.put(Box(0.21, 0.004, 0.28), draw_print(build.rng, 0.42, 0.56, 1200, "text"), (1.62, 1.394, 1.30))
    build.put(Box(0.26, 0.005, 0.11), draw_print(build.rng, 0.52, 0.22, 900, "label"), (-0.25, 1.393, 1.55))
    for beam in range(7):  # a pergola above the picture
        build.put(Box(2.5, 0.045, 0.06), Wood(*PINE, 0.0, seed=beam), (0.3, -2.3 + 0.62 * beam, 2.75), 0.12)


def table(build: Builder) -> None:
    """An oak table with a cloth and objects on it."""
    top = 0.62
    build.put(Box(0.80, 0.36, 0.018, 0.005), Wood(*OAK, 0.12, 2.4, 0.3, seed=11), (0.0, 0.0, top - 0.018))
    build.put(Box(0.72, 0.30, 0.04), Wood(*OAK, 0.0, seed=12), (0.0, 0.0, top - 0.075))
    for x in (-0.70, 0.70):
        for y in (-0.28, 0.28):
            build.put(Box(0.035, 0.035, top / 2 - 0.02), Wood(*OAK, 0.0, upright=True, seed=13), (x, y, top / 2 - 0.02))
    cloth = Cloth((0.36, 0.05, 0.05), (0.62, 0.56, 0.44), 0.13, 0.0035, seed=14)
    build.put(Box(0.30, 0.362, 0.002, 0.001), cloth, (0.04, 0.0, top + 0.002))
    build.put(Box(0.30, 0.002, 0.09, 0.001), cloth, (0.04, -0.363, top - 0.086))
    vase = Glaze((0.58, 0.55, 0.48), (0.04, 0.11, 0.30), 0.10, 0.055, 0.9, seed=15)
    build.put(Revolved((0.075, 0.12, 0.155, 0.15, 0.09, 0.055, 0.085), 0.20), vase, (0.02, 0.06, top + 0.204), FACING)
    jug = Plaster((0.52, 0.23, 0.12), (0.30, 0.11, 0.06), 0.6, 0.8, seed=16)
    build.put(Revolved((0.06, 0.10, 0.115, 0.09, 0.05, 0.06), 0.135, even=True), jug, (0.44, 0.10, top + 0.135), FACING)
    height = build.book((-0.45, 0.02, top), (0.16, 0.11, 0.019), 0.28)
    height = build.book((-0.44, 0.03, height), (0.145, 0.10, 0.014), -0.12)
    height = build.book((-0.46, 0.02, height), (0.12, 0.085, 0.022), 0.45)
    apple = Marble((0.42, 0.07, 0.04), (0.50, 0.30, 0.08), 9.0, 0.6, seed=17)
    build.put(Sphere(0.042), apple, (-0.47, 0.0, height + 0.041), FACING)
    build.put(
        Sphere(0.045),
        Marble((0.40, 0.36, 0.08), (0.20, 0.24, 0.05), 11.0, 0.5, seed=18),
        (0.26, -0.20, top + 0.048),
        0.4,
    )
    build.put(Sphere(0.041), apple, (0.34, -0.14, top + 0.044), -2.2)
    label = draw_print(build.rng, 2 * math.pi * 0.052, 0.15, 1536, "label")
    build.put(Cylinder(0.052, 0.075, 0.003), label, (0.60, -0.12, top + 0.075), FACING)
    build.put(Cylinder(0.0535, 0.003), Metal((0.5, 0.5, 0.5), wear=0.2, gloss=0.9), (0.60, -0.12, top + 0.149))
    jar = Revolved((0.055, 0.085, 0.098, 0.085, 0.035, 0.014, 0.022, 0.012), 0.068, even=True)
    build.put(jar, Granite((0.30, 0.29, 0.28), size=0.006, gloss=0.5, seed=19), (-0.16, -0.20, top + 0.07), FACING)


def around(build: Builder) -> None:
    """A barrel, crates, a column, a ball, a pot and a leaning sign."""
    staves = Wood((0.36, 0.22, 0.12), (0.14, 0.08, 0.04), 0.085, 3.0, 0.1, upright=True, seed=23)
    build.put(Revolved((0.235, 0.272, 0.285, 0.272, 0.235), 0.40), staves, (-1.22, 0.62, 0.40), FACING)
    for z, r in ((0.13, 0.268), (0.67, 0.268), (0.02, 0.244), (0.78, 0.244)):
        build.put(Cylinder(r, 0.018, 0.003), Metal((0.16, 0.15, 0.14), wear=0.75, gloss=0.3, seed=24), (-1.22, 0.62, z))
    pot = Plaster((0.50, 0.22, 0.12), (0.36, 0.20, 0.14), 0.8, 0.9, seed=25)
    build.put(Revolved((0.10, 0.13, 0.16, 0.165), 0.13), pot, (-1.20, 0.60, 0.93), FACING)
    build.put(
        Revolved((0.09, 0.16, 0.12, 0.02), 0.11, even=True),
        Stones((0.10, 0.19, 0.05), (0.05, 0.10, 0.03), (0.02, 0.03, 0.01), 0.03),
        (-1.20, 0.60, 1.13),
    )
    build.put(
        Cylinder(0.16, 0.85),
        Marble((0.58, 0.55, 0.50), (0.30, 0.28, 0.27), 4.0, 0.3, seed=26),
        (1.42, 0.85, 0.95),
        FACING,
    )
    build.put(Box(0.23, 0.23, 0.06, 0.015), Granite((0.5, 0.47, 0.44), size=0.01, seed=27), (1.42, 0.85, 0.06))
    crate = Wood(*PINE, 0.105, 0.9, 0.05, seed=28)
    build.put(Box(0.26, 0.22, 0.20), crate, (1.12, 0.20, 0.20), -0.35)
    build.put(Box(0.20, 0.17, 0.15), Wood(*PINE, 0.1, 0.7, 0.05, seed=29), (1.14, 0.22, 0.55), 0.15)
    build.put(
        Revolved((0.05, 0.06, 0.055, 0.02, 0.018), 0.15),
        Metal((0.05, 0.16, 0.07), wear=0.05, gloss=0.9),
        (1.06, 0.20, 0.85),
    )
    build.put(Sphere(0.17), Granite((0.46, 0.44, 0.41), size=0.014, gloss=0.15, seed=30), (-0.78, -0.42, 0.17), FACING)
    build.put(Box(0.12, 0.09, 0.075), draw_print(build.rng, 0.24, 0.15, 768, "label"), (0.16, -0.50, 0.075), 0.5)
    build.lean(
        Box(0.26, 0.012, 0.34), draw_print(build.rng, 0.52, 0.68, 1200, "poster"), (0.20, 1.22, 0.34), -0.22, 0.0
    )
    build.put(Revolved((0.08, 0.105, 0.13, 0.135), 0.10), pot, (-0.34, 0.75, 0.10), FACING)


def courtyard() -> Scene:
    """The example scene."""
    build = Builder(7)
    walls_and_ground(build)
    table(build)
    around(build)
    light = Light((-0.56, -0.60, 0.57), (2.9, 2.5, 1.95), (0.52, 0.62, 0.82), (0.30, 0.25, 0.20), 0.012, 0.004)
    return Scene(tuple(build.solids), light, Sky(clouds=0.6), torch.tensor([0.0, 0.2, 0.6]), 0.5)


def photograph_cameras() -> Cameras:
    """Cameras of the two photographs: 24 cm apart, handheld."""
    focal = focal_from_35mm(FOCAL_35MM, WIDTH, HEIGHT)
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    a = look_at(torch.tensor([-0.42, -2.55, 1.36]), torch.tensor([0.02, 0.15, 0.66]))
    b = look_at(torch.tensor([-0.12, -2.61, 1.40]), torch.tensor([0.06, 0.15, 0.65]))
    return Cameras(torch.stack([a, b]), K.expand(2, 3, 3).clone(), WIDTH, HEIGHT)


def close_up_cameras(photographs: Cameras) -> tuple[list[str], Cameras]:
    """File names and cameras of the close-ups."""
    middle = trajectories.interpolate(photographs, zoom=4.0, frames=3)[1]
    distance = float((photographs.centers[0] - torch.tensor([0.02, 0.06, 0.82])).norm())
    views = {
        "close_zoom2.jpg": trajectories.zoom(photographs, zoom=2.0, frames=1),
        "close_zoom4.jpg": trajectories.zoom(photographs, zoom=4.0, frames=1),
        "close_between4.jpg": middle,
        "close_dolly2.jpg": trajectories.dolly(photographs, zoom=2.2, frames=1, depth=distance),
    }
    return list(views), Cameras.cat(list(views.values()))


def save_photo(path: Path, image: torch.Tensor) -> None:
    """Write a JPEG with a camera's EXIF tags: make, model, focal length, its 35 mm equivalent."""
    pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    photo = Image.fromarray(pixels)
    exif = photo.getexif()
    exif[0x010F], exif[0x0110] = "CloseUpShot", "Procedural camera"
    exif.get_ifd(0x8769).update({0x920A: float(FOCAL_35MM), 0xA405: FOCAL_35MM})
    photo.save(path, quality=92, exif=exif)


def main() -> None:
    """Render everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write; made where it is not there")
    parser.add_argument("--supersample", type=int, default=4, help="samples per pixel along each axis")
    parser.add_argument("--scale", type=float, default=1.0, help="smaller pictures for a quick look")
    arguments = parser.parse_args()
    photographs = photograph_cameras()
    names, close_ups = close_up_cameras(photographs)
    names = ["a.jpg", "b.jpg", *names]
    for name in (*names, "transforms.json"):
        if (arguments.folder / name).exists():
            parser.error(f"{arguments.folder / name} exists; name a new folder")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cameras = Cameras.cat([photographs, close_ups])
    cameras = cameras.resized(round(WIDTH * arguments.scale), round(HEIGHT * arguments.scale))
    scene = courtyard()
    for index, name in enumerate(names):
        images, _ = render(scene, cameras[index], arguments.supersample)
        save_photo(arguments.folder / name, images[0])
        print(f"{arguments.folder / name}")
    save_transforms(arguments.folder / "transforms.json", cameras, names)


if __name__ == "__main__":
    main()
