"""Scenes shared by benchmarks and tests."""

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.estimators import SceneEstimate


def crowd(count: int, width: int, height: int, seed: int = 7) -> dict[str, Tensor]:
    """One view of many small overlapping Gaussians, discs and needles, some half outside: like a fitted scene.

    About fifty contribute to each pixel, whatever the count and the size of the picture.

    Args:
        count: Number of Gaussians N.
        width: Picture width in pixels.
        height: Picture height in pixels.
        seed: Seed of the draw.

    Returns:
        The tensors of `cus.splats.rasterization` [N, ...], float64 with values that float32 holds exactly.
    """
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    depths, focal = 2 + 6 * rand(count), 0.9 * width
    pixels = (1.1 * rand(count, 2) - 0.05) * torch.tensor([width, height])
    Ks = torch.tensor([[[focal, 0, 0.51 * width], [0, focal, 0.48 * height], [0, 0, 1]]], dtype=torch.float64)
    spread = torch.exp(0.5 * torch.randn(count, 3, generator=generator, dtype=torch.float64))
    sizes = (1.5 * width * height / count) ** 0.5 * spread * torch.tensor([1.0, 1.0, 0.2])
    scene = {
        "means": torch.cat([(pixels - Ks[0, :2, 2]) / focal, torch.ones(count, 1)], dim=1) * depths[:, None],
        "quats": rand(count, 4) - 0.5,
        "scales": sizes * depths[:, None] / focal,
        "opacities": 0.01 + 0.98 * rand(count) ** 2,
        "colors": rand(count, 3),
        "viewmats": torch.eye(4, dtype=torch.float64)[None],
        "Ks": Ks,
    }
    return {name: value.float().double() for name, value in scene.items()}


def boards_before_a_wall(views: int, width: int, height: int, seed: int = 3) -> SceneEstimate:
    """A textured wall with boards at several depths in front, seen by cameras side by side, with exact depths.

    Args:
        views: Number of views V.
        width: Picture width in pixels.
        height: Picture height in pixels.
        seed: Seed of the texture and of the random confidences.

    Returns:
        V views over 0.3 units; the wall is 8 away, the boards 3 to 6.
    """
    generator = torch.Generator().manual_seed(seed)
    focal = 0.9 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    viewmats = torch.eye(4).repeat(views, 1, 1)
    viewmats[:, 0, 3] = -0.3 * torch.arange(views) / max(views - 1, 1)
    cameras = Cameras(viewmats, K.repeat(views, 1, 1), width, height)
    rays = torch.nn.functional.pad((cameras.pixel_centers() - K[:2, 2]) / focal, (0, 1), value=1.0)
    depths = torch.full((views, height, width), 8.0)
    for place, z in enumerate((6.0, 5.0, 4.0, 3.0)):
        points = cameras.centers[:, None, None] + z * rays
        board = (points[..., 0] - 0.6 * (place - 1.5)).abs().maximum((points[..., 1] - 0.2).abs()) < 0.35
        depths[board] = z
    points = cameras.centers[:, None, None] + depths[..., None] * rays
    frequencies = 40 * torch.rand((24, 2), generator=generator)
    phases, tints = 6.3 * torch.rand(24, generator=generator), torch.rand((24, 3), generator=generator) - 0.5
    waves = torch.sin(points[..., :2] @ frequencies.T + phases)
    images = (0.5 + 0.25 * waves @ tints).clamp(0, 1).permute(0, 3, 1, 2).contiguous()
    return SceneEstimate(images, cameras, depths, torch.rand(depths.shape, generator=generator))
