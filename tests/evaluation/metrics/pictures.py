"""Pictures to score: noise, and crops of the example's photographs."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "courtyard"
SIZES = [(64, 64), (61, 97), (128, 77), (93, 120)]  # height, width; even and odd in every way


def photograph(name: str, height: int, width: int) -> Tensor:
    """A photograph of the example, shrunk by area to [3, height, width]."""
    pixels = cv2.imread(str(EXAMPLES / name))
    assert pixels is not None
    pixels = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)


def noisy(picture: Tensor, strength: float, seed: int = 0) -> Tensor:
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    return (picture + strength * noise).clamp(0, 1)


def pairs() -> list[tuple[str, Tensor, Tensor]]:
    """Labelled pairs of noise, of a photograph with a noisy one, and of two views, in every size."""
    found = []
    for height, width in SIZES:
        generator = torch.Generator().manual_seed(height)
        x, y = torch.rand(2, 3, height, width, generator=generator)
        a, b = photograph("a.jpg", height, width), photograph("b.jpg", height, width)
        found += [(f"noise {height}x{width}", x, y), (f"noisy {height}x{width}", noisy(a, 0.1), a)]
        found += [(f"views {height}x{width}", b, a)]
    return found
