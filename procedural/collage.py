"""Collage scenes: textured boards, boxes and ellipsoids, ray cast in a fraction of a second.

The scenes of `procedural.tracer` look better and cost a hundred times more: those are for examples and
evaluation, these for training clips in volume. World and cameras follow docs/conventions.md; lengths are in metres,
and the viewer is near the origin and looks along +z.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cus.cameras import Cameras
from procedural.textures import random_texture

TEXELS_PER_METRE = 700.0
FAR = 1e9


@dataclass(frozen=True)
class Solid:
    """A flat board or an ellipsoid.

    Attributes:
        flat: whether it is a board (its third axis is the normal) or an ellipsoid.
        center: [3] world position of the centre.
        axes: [3, 3] orthonormal, rows are the axes in the world.
        radii: [3] half extents along the axes.
        texture: index of its texture in the scene.
        offset: [2] origin of its surface coordinates in the texture, in metres.
        density: texture resolution in texels per metre.
        round: for boards: an ellipse instead of a rectangle.
    """

    flat: bool
    center: Tensor
    axes: Tensor
    radii: Tensor
    texture: int
    offset: Tensor
    density: float = TEXELS_PER_METRE
    round: bool = False

    def intersect(self, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hits of rays [N, 3] from `origin` [3]: t [N] (`FAR`: none), coordinates [N, 2] in metres, normals [N, 3]."""
        start = self.axes @ (origin - self.center)
        slopes = directions @ self.axes.T
        if self.flat:
            t = -start[2] / torch.where(slopes[:, 2].abs() < 1e-9, 1e-9, slopes[:, 2])
            uv = start[:2] + t[:, None] * slopes[:, :2]
            inside = (uv / self.radii[:2]).square().sum(-1) < 1 if self.round else (uv.abs() < self.radii[:2]).all(-1)
            facing = -torch.sign(slopes[:, 2:]) * self.axes[2]
            return torch.where(inside & (t > 1e-3), t, FAR), uv, facing
        a, b = slopes / self.radii, start / self.radii
        squared, half, rest = a.square().sum(-1), a @ b, b @ b - 1
        root = half.square() - squared * rest
        t = (-half - root.clamp(min=0).sqrt()) / squared
        hit = b + t[:, None] * a
        uv = torch.stack([torch.atan2(hit[:, 0], -hit[:, 2]), hit[:, 1].clamp(-1, 1).asin()], -1) * self.radii[:2]
        normals = F.normalize(hit / self.radii, dim=-1) @ self.axes
        return torch.where((root > 0) & (t > 1e-3), t, FAR), uv, normals


@dataclass(frozen=True)
class Collage:
    """A scene of solids.

    Attributes:
        solids: solids in the scene.
        textures: mip pyramids, each a list of [3, h, w], halved in both directions.
        sun: [3] unit vector towards the light.
        ambient: fraction of light that comes from all directions.
        exposure: factor on all colours.
    """

    solids: Sequence[Solid]
    textures: Sequence[Sequence[Tensor]]
    sun: Tensor
    ambient: float
    exposure: float

    @staticmethod
    def random(seed: int) -> "Collage":
        """A random scene, deterministic for a seed: ground, back wall, side boards, and things at several depths."""
        rng = np.random.default_rng([seed, 77])
        count = int(rng.integers(5, 9))
        textures = [pyramid(torch.from_numpy(random_texture(rng)).permute(2, 0, 1)) for _ in range(count)]
        back, floor = float(rng.uniform(4, 8)), float(rng.uniform(0.6, 1.4))
        solids = [
            _solid(rng, count, True, (0, -1, back), (9, 6, 1), float(rng.normal(0, 0.2)), 0.0),
            _solid(rng, count, True, (0, floor, 4), (9, 9, 1), 0.0, math.pi / 2),
        ]
        for side in (-1, 1):
            if rng.random() < 0.4:
                at = (side * float(rng.uniform(1.5, 3)), -1, 4)
                solids.append(_solid(rng, count, True, at, (5, 3.5, 1), math.pi / 2 + float(rng.normal(0, 0.2)), 0.0))
        for _ in range(int(rng.integers(5, 15))):
            solids += _thing(rng, count, back, floor)
        sun = F.normalize(torch.from_numpy(rng.normal([0, -1, -0.8], [1, 0.4, 0.4])).float(), dim=0)
        return Collage(solids, textures, sun, float(rng.uniform(0.45, 0.85)), float(rng.uniform(0.95, 1.4)))


def reference_cameras(seed: int, width: int, height: int, views: int = 2) -> Cameras:
    """`views` cameras near the origin, spaced by 5 to 18 % of their distance from the scene, looking at one point."""
    rng = np.random.default_rng([seed, 78])
    focal = 0.5 * max(width, height) / math.tan(math.radians(float(rng.uniform(45, 65))) / 2)
    focus = np.array([rng.normal(0, 0.2), rng.normal(0, 0.15), rng.uniform(2.6, 4.0)])
    step = float(rng.uniform(0.05, 0.18)) * focus[2] * float(rng.choice([-1, 1]))
    viewmats = []
    for view in range(views):
        center = np.array([step * (view - (views - 1) / 2), 0, 0]) + rng.normal(0, 0.05, 3)
        viewmats.append(_look_at(center, focus + rng.normal(0, 0.05, 3)))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    return Cameras(torch.stack(viewmats), K.repeat(views, 1, 1), width, height)


def render(scene: Collage, cameras: Cameras, supersample: int = 2) -> tuple[Tensor, Tensor]:
    """Images [N, 3, H, W] in [0, 1] and exact z-depths [N, H, W] at the pixel centres (0: nothing).

    Args:
        scene: scene to render.
        cameras: N cameras of the pictures.
        supersample: number of samples per pixel along each axis.
    """
    return pictures(scene, cameras, supersample), exact_depths(scene, cameras)


def pictures(scene: Collage, cameras: Cameras, supersample: int = 2) -> Tensor:
    """Images [N, 3, H, W] in [0, 1]: means of `supersample` x `supersample` samples per pixel."""
    images = []
    for index in range(len(cameras)):
        camera = cameras[index]
        fine, _ = _cast(scene, camera.resized(camera.width * supersample, camera.height * supersample))
        images.append(F.avg_pool2d(fine[None], supersample)[0])
    return torch.stack(images)


def exact_depths(scene: Collage, cameras: Cameras) -> Tensor:
    """z-depths [N, H, W] at the pixel centres; 0: nothing."""
    return torch.stack([_cast(scene, cameras[index], shade=False)[1] for index in range(len(cameras))])


def _cast(scene: Collage, camera: Cameras, shade: bool = True) -> tuple[Tensor, Tensor]:
    """Colours [3, H, W] and z-depths [H, W], one ray per pixel; rays have z = 1 in the camera, so t is the z-depth."""
    pixels = F.pad(camera.pixel_centers(), (0, 1), value=1.0).reshape(-1, 3)
    rotation = camera.c2w[0, :3, :3]
    directions = pixels @ torch.linalg.inv(camera.Ks[0]).T @ rotation.T
    nearest = torch.full((len(directions),), FAR)
    owner = torch.full((len(directions),), -1)
    for index, solid in enumerate(scene.solids):
        t, _, _ = solid.intersect(camera.centers[0], directions)
        closer = t < nearest
        nearest = torch.where(closer, t, nearest)
        owner[closer] = index
    size = (camera.height, camera.width)
    depths = torch.where(nearest < FAR, nearest, 0.0).view(size)
    colors = torch.full((3, len(directions)), 0.7)
    for index, solid in enumerate(scene.solids if shade else ()):
        rows = (owner == index).nonzero()[:, 0]
        if len(rows):
            t, uv, normals = solid.intersect(camera.centers[0], directions[rows])
            # A slanted surface is foreshortened: use half a level finer than the slanted axis requires.
            cosine = (normals * F.normalize(directions[rows], dim=-1)).sum(-1).abs().clamp(min=0.05)
            footprint = t / camera.Ks[0, 0, 0] / cosine.sqrt() * solid.density
            albedo = _look_up(scene.textures[solid.texture], (uv + solid.offset) * solid.density, footprint)
            light = scene.ambient + (1 - scene.ambient) * (normals @ scene.sun).clamp(min=0)
            colors[:, rows] = albedo * light * scene.exposure
    return colors.clamp(0, 1).view(3, *size), depths


def _look_up(levels: Sequence[Tensor], texels: Tensor, footprint: Tensor) -> Tensor:
    """Colours [3, N] at positions [N, 2] in finest texels (mirrored outside), each from the level of its footprint."""
    level = footprint.log2().round().clamp(0, len(levels) - 1).long()
    colors = torch.empty(3, len(texels))
    size = torch.tensor(levels[0].shape[:0:-1])
    grid = (texels / size) % 2
    grid = torch.where(grid > 1, 2 - grid, grid) * 2 - 1
    for index in level.unique().tolist():
        rows = (level == index).nonzero()[:, 0]
        found = F.grid_sample(levels[index][None], grid[None, None, rows], padding_mode="border", align_corners=False)
        colors[:, rows] = found[0, :, 0]
    return colors


def pyramid(texture: Tensor) -> list[Tensor]:
    """Mip levels of a texture [3, h, w], each half the size of the previous one, until a side has 8 texels."""
    levels = [texture]
    while min(levels[-1].shape[1:]) > 8:
        levels.append(F.avg_pool2d(levels[-1][None], 2)[0])
    return levels


def axes_turned(yaw: float, pitch: float) -> Tensor:
    """[3, 3] axes as rows for a board facing the viewer, rotated about y, then about its own x."""
    c, s, k, m = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    turn = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return torch.tensor([[1, 0, 0], [0, k, m], [0, -m, k]]) @ turn


def _solid(
    rng: np.random.Generator, textures: int, flat: bool, center, radii, yaw: float, pitch: float, is_round: bool = False
) -> Solid:  # noqa: ANN001
    return Solid(
        flat,
        torch.tensor([float(c) for c in center]),
        axes_turned(yaw, pitch).float(),
        torch.tensor([float(r) for r in radii]),
        int(rng.integers(textures)),
        torch.from_numpy(rng.uniform(0, 3, 2)).float(),
        TEXELS_PER_METRE * float(rng.uniform(0.6, 1.4)),
        is_round,
    )


def _thing(rng: np.random.Generator, textures: int, back: float, floor: float) -> list[Solid]:
    """A board, an ellipsoid or a box somewhere between the viewer and the back wall."""
    z = float(rng.uniform(1.9, back))
    x, y = float(rng.normal(0, 0.3)) * z, float(rng.normal(0, 0.16)) * z
    size = float(np.exp(rng.uniform(math.log(0.05), math.log(0.6))))
    yaw, pitch = float(rng.normal(0, 0.6)), float(rng.normal(0, 0.3))
    kind = rng.choice(["board", "ellipsoid", "box", "post"])
    y = min(y, floor - size)
    radii = size * rng.uniform(0.4, 1.0, 3)
    if kind == "board":
        return [_solid(rng, textures, True, (x, y, z), radii, yaw, pitch, bool(rng.random() < 0.3))]
    if kind == "ellipsoid":
        return [_solid(rng, textures, False, (x, y, z), radii, yaw, pitch)]
    if kind == "post":
        thin = (0.02 + 0.06 * rng.random(), 1.5, 1)
        return [_solid(rng, textures, True, (x, y, z), thin, yaw, float(rng.normal(0, 0.05)))]
    axes = axes_turned(yaw, 0.0).float()
    faces = []
    for axis, (u, v) in ((2, (0, 1)), (0, (2, 1)), (1, (0, 2))):
        for side in (-1, 1):
            rows = torch.stack([axes[u], axes[v], axes[axis]])
            center = torch.tensor([x, y, z]) + side * float(radii[axis]) * axes[axis]
            face = _solid(rng, textures, True, center, (radii[u], radii[v], 1), 0, 0)
            faces.append(Solid(True, face.center, rows, face.radii, face.texture, face.offset, face.density))
    return faces


def _look_at(center: np.ndarray, target: np.ndarray) -> Tensor:
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ center
    return torch.from_numpy(viewmat).float()
