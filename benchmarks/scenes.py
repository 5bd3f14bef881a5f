"""Scenes that benchmarks and tests share."""

import torch
from torch import Tensor


def crowd(count: int, width: int, height: int, seed: int = 7) -> dict[str, Tensor]:
    """One view of many small Gaussians, discs and needles that hide each other, some half outside: like a fitted scene.

    About fifty count at a pixel, whatever the count and the size of the picture.

    Args:
        count: N.
        width: Of the picture, pixels.
        height: Likewise.
        seed: Of the draw.

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
