"""The ray tracer: renders a procedural scene from cameras, with exact depth.

Directions are not normalised but have z = 1 in the camera, so the parameter of a hit along its ray is its z-depth.
A pixel is the mean of `supersample`^2 samples in linear light; the tone curve is applied afterwards, as in a camera.
Each sample uses a different point of the sun's disc, which makes shadows soft without noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras
from procedural.tracer.materials import Texels
from procedural.tracer.scene import Scene, Solid
from procedural.tracer.shapes import NEVER, length

_SAMPLES = 1 << 16  # rays in flight: bounds the memory, and keeps arrays in the processor's cache
_LIFT = 2e-3  # offset of shadow rays from the surface
_OCCLUSION_TAPS = (0.06, 0.18, 0.5)
_OCCLUSION_WEIGHTS = (0.45, 0.40, 0.35)


@dataclass(frozen=True)
class _Hits:
    """First hits of N rays: t [N] (inf: none) and index of the solid [N]."""

    t: Tensor
    solids: Tensor


def render(
    scene: Scene,
    cameras: Cameras,
    supersample: int = 2,
    exposures: Tensor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Render photographs of a scene and their exact depths.

    Args:
        scene: Scene to render.
        cameras: N cameras; the result is on their device.
        supersample: Samples per pixel along each axis, at least 1.
        exposures: Factors [N] on the light of each photograph; None: 1.
        on_progress: Called with (cameras done, total cameras).

    Returns:
        Images [N, 3, H, W] in [0, 1] (sRGB) and z-depths [N, H, W] at the pixel centres, 0 where only the sky is
        visible.
    """
    if supersample < 1:
        raise ValueError(f"supersample is {supersample}; it must be at least 1")
    if exposures is not None and exposures.shape != (len(cameras),):
        raise ValueError(f"exposures has shape {tuple(exposures.shape)}; expected ({len(cameras)},)")
    images, depths = [], []
    for index in range(len(cameras)):
        camera = cameras[index]
        light = _linear_image(scene, camera, supersample)
        gain = scene.exposure * (1.0 if exposures is None else float(exposures[index]))
        images.append(develop(light * gain))
        depths.append(_depth(scene, camera))
        if on_progress:
            on_progress(index + 1, len(cameras))
    return torch.stack(images), torch.stack(depths)


def develop(light: Tensor) -> Tensor:
    """Linear light to sRGB in [0, 1] through a filmic tone curve (Narkowicz's fit of ACES)."""
    toned = (light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)).clamp(0, 1)
    return torch.where(toned <= 0.0031308, 12.92 * toned, 1.055 * toned.clamp(min=1e-6) ** (1 / 2.4) - 0.055)


def _depth(scene: Scene, camera: Cameras) -> Tensor:
    rows = []
    step = max(1, _SAMPLES // camera.width)
    for top in range(0, camera.height, step):
        bottom = min(camera.height, top + step)
        y, x = torch.meshgrid(
            torch.arange(top, bottom, device=camera.Ks.device) + 0.5,
            torch.arange(camera.width, device=camera.Ks.device) + 0.5,
            indexing="ij",
        )
        origin, directions = _rays(camera, x.flatten(), y.flatten())
        t = _trace(scene, origin, directions).t
        rows.append(torch.where(t < NEVER, t, 0.0).view(bottom - top, camera.width))
    return torch.cat(rows)


def _linear_image(scene: Scene, camera: Cameras, supersample: int) -> Tensor:
    """Linear light [3, H, W] of one picture."""
    device, count = camera.Ks.device, supersample * supersample
    step = max(1, _SAMPLES // (camera.width * count))
    offsets = (torch.arange(supersample, device=device) + 0.5) / supersample
    suns = _sun_directions(scene, count, device)
    rows = []
    for top in range(0, camera.height, step):
        bottom = min(camera.height, top + step)
        pixels = (bottom - top) * camera.width
        y, x = torch.meshgrid(
            torch.arange(top, bottom, device=device),
            torch.arange(camera.width, device=device),
            indexing="ij",
        )
        # [samples, pixels]: neighbours in memory are neighbours in the picture.
        xs = x.flatten() + offsets.repeat(supersample)[:, None]
        ys = y.flatten() + offsets.repeat_interleave(supersample)[:, None]
        origin, directions = _rays(camera, xs.flatten(), ys.flatten())
        spacing = 1 / (float(camera.Ks[0, 0, 0]) * supersample)
        sun = suns.repeat_interleave(pixels, dim=1)
        light = _shade(scene, origin, directions, sun, spacing)
        rows.append(light.view(3, count, bottom - top, camera.width).mean(1))
    return torch.cat(rows, dim=1)


def _rays(camera: Cameras, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Origin [3, 1] and directions [3, N] in the world of rays through pixel positions x, y [N]."""
    K, c2w = camera.Ks[0], camera.c2w[0]
    b = (y - K[1, 2]) / K[1, 1]
    a = (x - K[0, 2] - K[0, 1] * b) / K[0, 0]
    return c2w[:3, 3:], c2w[:3, :3] @ torch.stack([a, b, torch.ones_like(a)])


def _sun_directions(scene: Scene, count: int, device: torch.device) -> Tensor:
    """[3, count] unit vectors spread over the sun's disc (a sunflower pattern)."""
    sun = torch.tensor(scene.light.sun_direction)
    helper = torch.tensor([1.0, 0, 0]) if abs(sun[2]) > 0.9 else torch.tensor([0, 0, 1.0])
    side = torch.nn.functional.normalize(torch.linalg.cross(sun, helper), dim=0)
    other = torch.linalg.cross(sun, side)
    k = torch.arange(count)
    radius = scene.light.softness * ((k + 0.5) / count).sqrt()
    angle = k * math.pi * (3 - math.sqrt(5))
    spread = side[:, None] * (radius * angle.cos()) + other[:, None] * (radius * angle.sin())
    return torch.nn.functional.normalize(sun[:, None] + spread, dim=0).to(device)


def _balls(scene: Scene, origins: Tensor, slack: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the origins [3, 1], centres of the bounding balls relative to it [K, 3], and for each ball and origin the
    squared distance to the centre minus the squared radius widened by `slack` [K, N]: negative inside.
    """
    # Relative to the mean, because float32 would lose the difference of two large squares.
    mean = origins.mean(dim=1, keepdim=True)
    origins = origins - mean
    centers = torch.stack([solid.position for solid in scene.solids]).to(origins.device) - mean.T
    radii = torch.tensor([solid.shape.radius for solid in scene.solids], device=origins.device)
    reach = (radii * 1.001 + 1e-3 + slack).square()
    constant = (centers * centers).sum(1) - reach
    quadratic = torch.cat([origins, (origins * origins).sum(0, keepdim=True), torch.ones_like(origins[:1])])
    coefficients = torch.cat([-2 * centers, torch.ones_like(constant)[:, None], constant[:, None]], dim=1)
    return mean, centers, coefficients @ quadratic


def _candidates(scene: Scene, origins: Tensor, directions: Tensor) -> Tensor:
    """[K, N] bool: which rays with unit directions hit which solid's bounding ball ahead of their origin."""
    mean, centers, outside = _balls(scene, origins, 0.0)
    along = centers @ directions - ((origins - mean) * directions).sum(0)
    return along.clamp_(min=0).square_() >= outside


def _trace(scene: Scene, origins: Tensor, directions: Tensor) -> _Hits:
    count = max(origins.shape[1], directions.shape[1])
    best = torch.full((count,), NEVER, device=directions.device)
    index = torch.full((count,), -1, dtype=torch.int32, device=directions.device)
    candidates = _candidates(scene, origins, directions / length(directions))
    for k, solid in enumerate(scene.solids):
        rays = candidates[k].nonzero()[:, 0]
        if not len(rays):
            continue
        t = _intersect(solid, origins, directions, rays)
        before = best.index_select(0, rays)
        best.index_copy_(0, rays, torch.minimum(t, before))
        index.index_copy_(0, rays, torch.where(t < before, k, index.index_select(0, rays)))
    return _Hits(best, index)


def _intersect(solid: Solid, origins: Tensor, directions: Tensor, rays: Tensor) -> Tensor:
    origins = origins if origins.shape[1] == 1 else origins.index_select(1, rays)
    directions = directions if directions.shape[1] == 1 else directions.index_select(1, rays)
    return solid.shape.intersect(solid.to_shape(origins), solid.turn_to_shape(directions))


def _shadowed(scene: Scene, points: Tensor, suns: Tensor) -> Tensor:
    """[N] bool: whether anything is between the points [3, N] and the sun."""
    dark = torch.zeros(points.shape[1], dtype=torch.bool, device=points.device)
    candidates = _candidates(scene, points, suns)
    for k, solid in enumerate(scene.solids):
        rays = (candidates[k] & ~dark).nonzero()[:, 0]
        if len(rays):
            dark[rays] |= _intersect(solid, points, suns, rays) < NEVER
    return dark


def _occlusion(scene: Scene, points: Tensor, normals: Tensor) -> Tensor:
    """[N] fraction of the sky that surrounding surfaces leave open, from distances at a few steps along the normal."""
    taps = points.new_tensor(_OCCLUSION_TAPS)[:, None]
    free = taps.expand(-1, points.shape[1]).clone()
    _, _, outside = _balls(scene, points, 2 * _OCCLUSION_TAPS[-1])
    for k, solid in enumerate(scene.solids):
        rows = (outside[k] <= 0).nonzero()[:, 0]
        if len(rows):
            away = normals.index_select(1, rows)[:, None] * taps
            ahead = (points.index_select(1, rows)[:, None] + away).flatten(1)
            distance = solid.shape.distance(solid.to_shape(ahead)).view(len(taps), -1)
            free.index_copy_(1, rows, torch.minimum(free.index_select(1, rows), distance))
    gaps = (1 - free / taps).clamp(min=0, max=1)
    return (1 - gaps * points.new_tensor(_OCCLUSION_WEIGHTS)[:, None]).prod(0)


def _shade(scene: Scene, origin: Tensor, directions: Tensor, suns: Tensor, spacing: float) -> Tensor:
    """[3, N] linear light along the rays; `spacing` is the distance of samples at depth 1."""
    hits = _trace(scene, origin, directions)
    lengths = length(directions)
    views = directions / lengths
    light = torch.empty_like(directions)
    seen = hits.t < NEVER
    rays = (~seen).nonzero()[:, 0]
    if len(rays):
        footprint = torch.full_like(lengths[rays], spacing)
        light[:, rays] = scene.sky.radiance(views[:, rays], footprint)
    rays = seen.nonzero()[:, 0]
    if len(rays):
        hit = _Hits(hits.t[rays], hits.solids[rays])
        toward, view, sun = (values.index_select(1, rays) for values in (directions, views, suns))
        light.index_copy_(1, rays, _shade_hits(scene, origin, toward, view, sun, hit, spacing))
    return light


def _shade_hits(
    scene: Scene, origin: Tensor, directions: Tensor, views: Tensor, suns: Tensor, hits: _Hits, spacing: float
) -> Tensor:
    points = origin + directions * hits.t
    albedo, normals, geometric = (torch.empty_like(points) for _ in range(3))
    gloss = torch.empty_like(hits.t)
    footprint = hits.t * spacing
    for k in torch.unique(hits.solids).tolist():
        rays = (hits.solids == k).nonzero()[:, 0]
        solid = scene.solids[k]
        patch = solid.shape.patch(solid.to_shape(points.index_select(1, rays)))
        rotation = solid.rotation.to(points.device)
        base = rotation @ patch.normals
        # A slanted surface is sampled more sparsely along the slant: use the geometric mean of the two spacings.
        cosine = (base * views.index_select(1, rays)).sum(0).abs().clamp(min=0.08)
        look = solid.material.appearance(Texels(patch.u, patch.v, footprint[rays] / cosine.sqrt()))
        bent = patch.normals - patch.tangents_u * look.du - patch.tangents_v * look.dv
        albedo.index_copy_(1, rays, look.albedo)
        gloss.index_copy_(0, rays, look.gloss)
        geometric.index_copy_(1, rays, base)
        normals.index_copy_(1, rays, rotation @ (bent / length(bent)))
    lifted = points + geometric * (_LIFT + 2e-4 * hits.t)
    facing = (normals * suns).sum(0).clamp(min=0)
    lit = ((geometric * suns).sum(0) > 0) & (facing > 0)
    direct = torch.zeros_like(facing)
    rays = lit.nonzero()[:, 0]
    if len(rays):
        dark = _shadowed(scene, lifted.index_select(1, rays), suns.index_select(1, rays))
        direct.index_copy_(0, rays, facing.index_select(0, rays) * ~dark)
    return _combine(scene, views, hits.t, albedo, normals, gloss, direct, suns, _occlusion(scene, lifted, geometric))


def _combine(scene, views, t, albedo, normals, gloss, direct, suns, openness) -> Tensor:
    """Combine sun, sky, light from the ground, highlights and haze: [3, N]."""
    sun, sky, ground = (views.new_tensor(c)[:, None] for c in (scene.light.sun, scene.light.sky, scene.light.ground))
    upward = 0.5 + 0.5 * normals[2]
    ambient = (ground + (sky - ground) * upward) * openness
    # A weak light from the camera's side keeps shaded faces from looking flat.
    fill = 0.12 * (normals[0] * suns[0] + normals[1] * suns[1])
    ambient = ambient * (1 + fill)
    half = suns - views
    half = half / length(half)
    cosine = -(normals * views).sum(0).clamp(max=0)
    fresnel = 0.04 + 0.96 * (1 - cosine).clamp(0, 1) ** 5
    sharpness = 12 + 180 * gloss * gloss
    highlight = (normals * half).sum(0).clamp(min=0) ** sharpness * (sharpness + 8) * (0.04 * 0.35) * gloss
    mirrored = views + 2 * cosine * normals
    reflected = ground + (sky - ground) * (0.5 + 0.5 * mirrored[2]).clamp(0, 1)
    lit = albedo * (sun * direct + ambient) + sun * (highlight * direct) + reflected * (fresnel * gloss * openness)
    if scene.light.haze > 0:
        horizon = views.new_tensor(scene.sky.horizon)[:, None]
        lit = lit + (horizon - lit) * (1 - torch.exp(-scene.light.haze * t))
    return lit
