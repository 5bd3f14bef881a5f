"""The perceptual distance for training a decoder (Section III-D mentions perceptual losses in general)."""

from typing import Any

from torch import Tensor, nn

from cus.errors import InputError
from cus.models.lpips import load_lpips
from cus.models.perceptual import SMALLEST, PerceptualDistance


class LpipsDistance(nn.Module):
    """LPIPS of VGG between pictures, with the interface of `PerceptualDistance`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances [N] of pictures [N, 3, H, W] in [0, 1]; 0 for equal ones."""
        return self.network(images, targets, normalize=True).flatten()


def require_size(crop: tuple[int, int], factor: int) -> None:
    """Refuse windows (in latent pixels of `factor` pixels) that a distance cannot compare. Raises InputError."""
    if factor * min(crop) < SMALLEST:
        raise InputError(
            f"the perceptual distance compares pictures of at least {SMALLEST} pixels a side, and crop={list(crop)} is "
            f"{factor * crop[1]}x{factor * crop[0]} pixels: set a larger crop, or perceptual=0"
        )


def training_distance(name: str) -> nn.Module:
    """Load a distance: "lpips", "st_lpips", or "auto", the first of the two with available weights.

    Raises:
        InputError: its weights are missing; the message says what to do.
    """
    makers = {"lpips": lambda: LpipsDistance(load_lpips("vgg")), "st_lpips": lambda: PerceptualDistance.load("vgg")}
    if name != "auto":
        return makers[name]()
    reasons = []
    for make in makers.values():
        try:
            return make()
        except InputError as error:
            reasons.append(str(error))
    raise InputError(f"there is no perceptual distance here ({'; '.join(reasons)}); or set perceptual=0")
