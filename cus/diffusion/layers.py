"""Condition layers: single references' warps in addition to the merged image, as channels of the latent grid.

A network that sees each reference's warp separately can decide where they disagree; the merged image has already
decided. The number of layers is a setting of the checkpoint (`Sampling.layers`); without layers the condition is only
the merged image's latent, as in ViewCrafter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.completion.surroundings import fill_holes
from cus.diffusion.latents import FirstStage, encode, to_model_range
from cus.diffusion.objective import LatentTarget
from cus.models.unet import UNet


@dataclass(frozen=True)
class Layers:
    """Warps of the L best references of each target, the best first.

    Attributes:
        images: [T, L, 3, H, W] in [0, 1].
        masks: [T, L, H, W] bool or in [0, 1], where a reference shows something.
        gate: [T, H, W] in [0, 1], how well the references agree.
    """

    images: Tensor
    masks: Tensor
    gate: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Layers":
        """The layers after applying `change` to each tensor."""
        return Layers(change(self.images), change(self.masks), change(self.gate))


class LayeredConditioning(Protocol):
    """A `Conditioning` of `cus.conditioning`: images [T, 3, H, W] in [0, 1], with layers if its kind has them."""

    @property
    def images(self) -> Tensor:
        """[T, 3, H, W] in [0, 1]."""
        ...


def layer_channels(layers: int, latent_channels: int, downsample: int) -> int:
    """Number of channels that `layers` layers add to the condition: a latent and a mask each, and one gate."""
    cells = downsample**2
    return layers * (latent_channels + cells) + (cells if layers else 0)


def check_channels(unet: UNet, vae: FirstStage, layers: int) -> None:
    """Check a U-Net's channels against its first stage and number of condition layers. Raises ValueError."""
    if not 0 <= layers <= 2:
        raise ValueError(f"sampling.layers must be 0, 1 or 2, got {layers}")
    latent, found = vae.latent_channels, (unet.config["out_channels"], unet.config["in_channels"])
    expected = (latent, 2 * latent + layer_channels(layers, latent, vae.downsample))
    if found != expected:
        fitting = [n for n in range(3) if found == (latent, 2 * latent + layer_channels(n, latent, vae.downsample))]
        remedy = f": it reads sampling.layers={fitting[0]}" if fitting else ""
        raise ValueError(
            f"a U-Net for {type(vae).__name__} of {latent} channels with {layers} condition layers has out_channels "
            f"{expected[0]} and in_channels {expected[1]}; this one has {found[0]} and {found[1]}{remedy}"
        )


def split_conditioning(
    conditioning: "Tensor | LayeredConditioning", layers: int, filled: bool = False
) -> tuple[Tensor, Layers | None]:
    """Split into images and the layers that a checkpoint reads.

    Args:
        conditioning: images [T, 3, H, W], or a `Conditioning`. A kind without layers (`layers` is None) gets layers
            with masks of zero, as for a target that no reference sees.
        layers: number of layers that the checkpoint reads.
        filled: whether to fill holes: as in `completed` if the conditioning has it, else from their surroundings;
            without a mask that locates them, they are black pixels.

    Raises:
        ValueError: the checkpoint reads more layers than there are, or shapes are inconsistent.
    """
    images = conditioning if isinstance(conditioning, Tensor) else conditioning.images
    if filled and images.ndim == 4:
        images = _without_holes(images, conditioning)
    if layers == 0:
        return images, None
    found = None
    if not isinstance(conditioning, Tensor):
        found = getattr(conditioning, "layers", None) or _unseen(images, layers)
    if found is None or found.images.ndim != 5 or found.images.shape[1] < layers:
        given = "none" if found is None else tuple(found.images.shape)
        raise ValueError(
            f"this checkpoint reads {layers} layer(s) [T, {layers}, 3, H, W] in addition to the images, got "
            f"{given}; pass the whole result of cus.conditioning.fused_warp, not only its images"
        )
    count, _, height, width = images.shape
    kept = Layers(found.images[:, :layers], found.masks[:, :layers], found.gate)
    expected = ((count, layers, 3, height, width), (count, layers, height, width), (count, height, width))
    shapes = tuple(tuple(value.shape) for value in (kept.images, kept.masks, kept.gate))
    if shapes != expected:
        raise ValueError(f"layers (images, masks, gate) are {shapes}; expected {expected} for these images")
    return images, kept


def _without_holes(images: Tensor, conditioning: "Tensor | LayeredConditioning") -> Tensor:
    """The images with holes filled as well as is known."""
    completed, known, depths = (getattr(conditioning, name, None) for name in ("completed", "masks", "depths"))
    if completed is not None:
        return completed
    known = (images > 0).any(dim=1) if known is None else known
    return fill_holes(images, known, depths if depths is not None and bool(depths.any()) else None)


def _unseen(images: Tensor, layers: int) -> Layers:
    """Layers in which no reference shows anything."""
    count, _, height, width = images.shape
    masks = images.new_zeros(count, layers, height, width)
    return Layers(images.new_zeros(count, layers, 3, height, width), masks, masks[:, 0])


def encode_layers(
    vae: FirstStage,
    layers: Layers,
    images: Tensor,
    condition: Tensor,
    target: LatentTarget,
    chunk: int = 4,
) -> Tensor:
    """Encode layers on the latent grid: [T, `layer_channels`, h, w]; latents and masks of each, then the gate.

    A warp's latents are encoded like the target's: if the network learns the change from the condition, as the change
    from it. The merged image replaces parts that a reference does not show. Masks and gate are unfolded, not averaged:
    every pixel of a cell has its own channel.

    Args:
        vae: first stage.
        layers: layers at the images' size, multiples of `vae.downsample`.
        images: [T, 3, H, W] in [0, 1], the merged images.
        condition: [T, C, h, w], scaled latents of the merged images.
        target: latent target of the checkpoint.
        chunk: frames encoded together.
    """
    parts = []
    for index in range(layers.images.shape[1]):
        mask = layers.masks[:, index].to(images)
        filled = torch.lerp(images, layers.images[:, index], mask[:, None])
        parts.append(target.encode(encode(vae, filled, None, chunk), condition))
        parts.append(_unfolded(mask, vae.downsample))
    parts.append(_unfolded(layers.gate.to(images), vae.downsample))
    return torch.cat(parts, dim=1)


def _unfolded(maps: Tensor, factor: int) -> Tensor:
    """Maps [T, H, W] in [0, 1] -> [T, factor^2, H / factor, W / factor] in [-1, 1]."""
    return F.pixel_unshuffle(to_model_range(maps)[:, None], factor)
