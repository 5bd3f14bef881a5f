"""Gaussian splatting as the definition reads: every pixel, every Gaussian, one at a time, no tiles, no boxes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near: float = 0.01,
    eps2d: float = 0.3,
    antialiased: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(renders over black [C, H, W, D], alphas [C, H, W], accumulated depths [C, H, W])."""
    renders, alphas, depths = [], [], []
    for viewmat, K in zip(viewmats, Ks, strict=True):
        splats = _splats(means, quats, scales, opacities, colors, viewmat, K, (width, height), near, eps2d, antialiased)
        splats.sort(key=lambda splat: splat[0].item())
        pixels = [_pixel(splats, x + 0.5, y + 0.5, colors.shape[1], means) for y in range(height) for x in range(width)]
        renders.append(torch.stack([p[0] for p in pixels]).reshape(height, width, -1))
        alphas.append(torch.stack([p[1] for p in pixels]).reshape(height, width))
        depths.append(torch.stack([p[2] for p in pixels]).reshape(height, width))
    return torch.stack(renders), torch.stack(alphas), torch.stack(depths)


def _splats(means, quats, scales, opacities, colors, viewmat, K, size, near, eps2d, antialiased) -> list[tuple]:
    splats = []
    R, t = viewmat[:3, :3], viewmat[:3, 3]
    for i in range(len(means)):
        p = R @ means[i] + t
        if p[2] < near:
            continue
        w, x, y, z = quats[i] / quats[i].norm()
        skew = torch.stack([torch.stack([0 * w, -z, y]), torch.stack([z, 0 * w, -x]), torch.stack([-y, x, 0 * w])])
        rotation = torch.eye(3, dtype=means.dtype) + 2 * w * skew + 2 * skew @ skew  # Rodrigues' formula
        covariance = rotation @ torch.diag(scales[i] ** 2) @ rotation.T
        slopes = []
        for axis in range(2):
            focal, center, extent = float(K[axis, axis]), float(K[axis, 2]), size[axis]
            margin = 0.3 * 0.5 * extent / focal
            slopes.append((p[axis] / p[2]).clamp(-center / focal - margin, (extent - center) / focal + margin))
        zero = 0 * p[2]
        J = torch.stack(
            [
                torch.stack([K[0, 0] / p[2], zero, -K[0, 0] * slopes[0] / p[2]]),
                torch.stack([zero, K[1, 1] / p[2], -K[1, 1] * slopes[1] / p[2]]),
            ]
        )
        sharp = J @ R @ covariance @ R.T @ J.T
        blurred = sharp + eps2d * torch.eye(2, dtype=means.dtype)
        opacity = opacities[i]
        if antialiased:
            opacity = opacity * torch.sqrt(torch.linalg.det(sharp) / torch.linalg.det(blurred))
        center = torch.stack([K[0, 0] * p[0] / p[2] + K[0, 2], K[1, 1] * p[1] / p[2] + K[1, 2]])
        splats.append((p[2], center, torch.linalg.inv(blurred), opacity, colors[i]))
    return splats


def _pixel(splats: list[tuple], x: float, y: float, channels: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    transmittance = like.new_ones(())
    color, depth = like.new_zeros(channels), like.new_zeros(())
    position = like.new_tensor([x, y])
    for z, center, conic, opacity, value in splats:
        d = position - center
        alpha = (opacity * torch.exp(-0.5 * d @ conic @ d)).clamp(max=0.999)
        if alpha < 1 / 255:
            continue
        after = transmittance * (1 - alpha)
        if after <= 1e-4:
            break
        color = color + transmittance * alpha * value
        depth = depth + transmittance * alpha * z
        transmittance = after
    return color, 1 - transmittance, depth


def random_scene(
    count: int, cameras: int, seed: int, channels: int = 3, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Gaussians before, behind and beside cameras that look along +z with a little turn each."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = (rand(count, 3) - 0.5) * torch.tensor([3.0, 2.5, 5.0]) + torch.tensor([0.0, 0.0, 1.4])
    viewmats = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    for c in range(cameras):
        angle = 0.2 * c
        rows = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
        viewmats[c, :3, :3] = torch.tensor(rows)
        viewmats[c, :3, 3] = torch.tensor([0.1 * c, -0.05 * c, 0.3 * c])
    scene = {
        "means": means,
        "quats": rand(count, 4) - 0.5,
        "scales": torch.exp(-3.5 + 2.5 * rand(count, 3)),
        "opacities": 0.02 + 0.97 * rand(count),
        "colors": rand(count, channels),
        "viewmats": viewmats,
    }
    return {name: value.to(dtype) for name, value in scene.items()}


def intrinsics(focal: float, width: int, height: int, cameras: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Ks [C, 3, 3] with a principal point off the centre."""
    K = torch.tensor([[focal, 0, 0.47 * width], [0, 1.1 * focal, 0.55 * height], [0, 0, 1]], dtype=dtype)
    return K.repeat(cameras, 1, 1)


def gradients(render: Callable[..., Tensor], inputs: dict[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """Gradients of sum(weights * render(**inputs)) in every input."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    (render(**leaves) * weights).sum().backward()
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
