"""The conditioning that the warps pass to the diffusion model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras


@dataclass(frozen=True)
class Layers:
    """What the two best references of each target show separately, for models that take them as separate inputs.

    Attributes:
        images: [T, 2, 3, H, W] float32 RGB in [0, 1], the better reference first; black where the mask is False.
        masks: [T, 2, H, W] bool, True where the reference sees the target's surface; the second mask is all False if
            there is only one reference.
        gate: [T, H, W] float32 in [0, 1], how well the references agree on the detail of `Conditioning.images`.
    """

    images: Tensor
    masks: Tensor
    gate: Tensor

    def __post_init__(self) -> None:
        frames, two, channels, height, width = self.images.shape
        if (two, channels) != (2, 3):
            raise ValueError(f"layers' images must be [T, 2, 3, H, W], got {tuple(self.images.shape)}")
        for name, value, shape in (
            ("masks", self.masks, (frames, 2, height, width)),
            ("gate", self.gate, (frames, height, width)),
        ):
            if value.shape != shape:
                raise ValueError(f"layers' {name} must be {shape} like their images, got {tuple(value.shape)}")

    def to(self, device: torch.device | str) -> "Layers":
        """The same layers on `device`."""
        return Layers(self.images.to(device), self.masks.to(device), self.gate.to(device))


@dataclass(frozen=True)
class Conditioning:
    """Pictures of the known parts of the scene from the target cameras, with holes elsewhere.

    Attributes:
        images: [T, 3, H, W] float32 RGB in [0, 1]; black in the holes.
        masks: [T, H, W] bool; False in the holes.
        depths: [T, H, W] float32 z-depth in scene units; 0 in the holes.
        layers: the two best references separately; only the fused warp provides them.
        resolved: [T, H, W] float32 in [0, 1], the share of the detail that the photographs already show: their pixels
            per target pixel, at most 1, times how far they agree; only the fused warp provides it.
        completed: [T, 3, H, W] float32 in [0, 1], the images with holes continued (`continued`), if that has been done.
    """

    images: Tensor
    masks: Tensor
    depths: Tensor
    layers: Layers | None = None
    resolved: Tensor | None = None
    completed: Tensor | None = None

    def __post_init__(self) -> None:
        frames, channels, height, width = self.images.shape
        if channels != 3:
            raise ValueError(f"images must be [T, 3, H, W], got {tuple(self.images.shape)}")
        for name, value in (("masks", self.masks), ("depths", self.depths), ("resolved", self.resolved)):
            if value is not None and value.shape != (frames, height, width):
                raise ValueError(f"{name} must be {(frames, height, width)} like the images, got {tuple(value.shape)}")
        if self.completed is not None and self.completed.shape != self.images.shape:
            raise ValueError(f"completed must be {tuple(self.images.shape)}, got {tuple(self.completed.shape)}")
        if self.layers is not None and self.layers.gate.shape != (frames, height, width):
            raise ValueError(
                f"layers must have {frames} frames of {height}x{width}, got {tuple(self.layers.gate.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def coverage(self) -> Tensor:
        """[T] fraction of each target's pixels that are not holes."""
        return self.masks.float().mean(dim=(1, 2))

    def to(self, device: torch.device | str) -> "Conditioning":
        """The same conditioning on `device`."""
        layers = None if self.layers is None else self.layers.to(device)
        resolved, completed = (None if maps is None else maps.to(device) for maps in (self.resolved, self.completed))
        images, masks, depths = (maps.to(device) for maps in (self.images, self.masks, self.depths))
        return Conditioning(images, masks, depths, layers, resolved, completed)


def blank_conditioning(targets: Cameras, with_layers: bool = False) -> Conditioning:
    """A conditioning of only holes for T target cameras, on their device; `resolved` comes with the layers."""
    count, height, width = len(targets), targets.height, targets.width
    device = targets.viewmats.device
    layers = resolved = None
    if with_layers:
        resolved = torch.zeros((count, height, width), device=device)
        layers = Layers(
            torch.zeros((count, 2, 3, height, width), device=device),
            torch.zeros((count, 2, height, width), dtype=torch.bool, device=device),
            torch.zeros((count, height, width), device=device),
        )
    return Conditioning(
        torch.zeros((count, 3, height, width), device=device),
        torch.zeros((count, height, width), dtype=torch.bool, device=device),
        torch.zeros((count, height, width), device=device),
        layers,
        resolved,
    )
