"""What the warps hand to the diffusion model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras


@dataclass(frozen=True)
class Conditioning:
    """Pictures of the known scene from the target cameras, with holes where nothing is known.

    Attributes:
        images: [T, 3, H, W] float32 RGB in [0, 1]; black in the holes.
        masks: [T, H, W] bool; False in the holes.
        depths: [T, H, W] float32 z-depth in scene units; 0 in the holes.
    """

    images: Tensor
    masks: Tensor
    depths: Tensor

    def __post_init__(self) -> None:
        frames, channels, height, width = self.images.shape
        if channels != 3:
            raise ValueError(f"images must be [T, 3, H, W], got {tuple(self.images.shape)}")
        for name, value in (("masks", self.masks), ("depths", self.depths)):
            if value.shape != (frames, height, width):
                raise ValueError(f"{name} must be {(frames, height, width)} like the images, got {tuple(value.shape)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def coverage(self) -> Tensor:
        """[T] fraction of each target's pixels that something covers."""
        return self.masks.float().mean(dim=(1, 2))

    def to(self, device: torch.device | str) -> "Conditioning":
        """The same conditioning on `device`."""
        return Conditioning(self.images.to(device), self.masks.to(device), self.depths.to(device))


def blank_conditioning(targets: Cameras) -> Conditioning:
    """All holes, for T target cameras, on their device."""
    shape = (len(targets), targets.height, targets.width)
    device = targets.viewmats.device
    return Conditioning(
        torch.zeros((shape[0], 3, *shape[1:]), device=device),
        torch.zeros(shape, dtype=torch.bool, device=device),
        torch.zeros(shape, device=device),
    )
