"""The images that supervise a fit."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cus.cameras import Cameras
from cus.errors import InputError

# SSIM's window does not fit into smaller pictures.
_SMALLEST = 16


@dataclass(frozen=True)
class Views:
    """M training images at one resolution.

    Attributes:
        images: [M, 3, H, W] in [0, 1].
        cameras: M cameras of H x W pixels.
        pixel_weights: W_pixel [M, H, W] in [0, 1] (Eq. 9).
        image_weights: W_image [M], >= 0.
        depths: z-depths [M, H, W], 0 = none, or None.
        references: [M] bool, images that are photographs. Their colours and the first one's camera are the gauge.
        photographs: M higher-resolution versions, [3, h, w] uint8 on the CPU, or None for an image without; empty:
            none.
        photograph_weights: [M, H, W] in [0, 1], W_pixel of the photographs' crops where it differs from that of the
            images; None: `pixel_weights`.
    """

    images: Tensor
    cameras: Cameras
    pixel_weights: Tensor
    image_weights: Tensor
    depths: Tensor | None
    references: Tensor
    photographs: tuple[Tensor | None, ...] = ()
    photograph_weights: Tensor | None = None

    @property
    def crop_weights(self) -> Tensor:
        """[M, H, W]: W_pixel of the photographs' crops."""
        return self.pixel_weights if self.photograph_weights is None else self.photograph_weights

    def __len__(self) -> int:
        return len(self.images)

    def shrunk(self, max_pixels: int) -> "Views":
        """Shrink the images to at most this many pixels each (aspect kept), but not below SSIM's minimum size."""
        height, width = self.images.shape[-2:]
        factor = (max_pixels / (height * width)) ** 0.5
        size = max(round(height * factor), _SMALLEST), max(round(width * factor), _SMALLEST)
        if factor >= 1 or size[0] >= height or size[1] >= width:
            return self
        depths = self.depths
        if depths is not None:
            # Nearest: the average across an edge is the depth of no surface.
            depths = interpolate(depths[:, None], size, mode="nearest-exact")[:, 0]
        return replace(
            self,
            images=interpolate(self.images, size, mode="area"),
            cameras=self.cameras.resized(width=size[1], height=size[0]),
            pixel_weights=interpolate(self.pixel_weights[:, None], size, mode="area")[:, 0],
            depths=depths,
        )

    def check(self) -> None:
        """Raise ValueError for inconsistent shapes or ranges, InputError for values that no fit can use."""
        m, size = len(self.images), (self.cameras.height, self.cameras.width)
        if m == 0 or tuple(self.images.shape) != (len(self.cameras), 3, *size):
            expected = [len(self.cameras), 3, *size]
            raise ValueError(f"expected images {expected}, got {list(self.images.shape)}")
        if min(size) < _SMALLEST:
            raise ValueError(f"images must be at least {_SMALLEST}x{_SMALLEST} pixels, got {size[1]}x{size[0]}")
        named = [("pixel_confidence", self.pixel_weights), ("image_confidence", self.image_weights)]
        shapes = {"pixel_confidence": (m, *size), "image_confidence": (m,), "depths": (m, *size), "references": (m,)}
        shapes["photograph_confidence"] = shapes["pixel_confidence"]
        own = ("photograph_confidence", self.photograph_weights)
        for name, value in [*named, own, ("depths", self.depths), ("references", self.references)]:
            if value is not None and tuple(value.shape) != shapes[name]:
                raise ValueError(f"{name} must have shape {list(shapes[name])}, got {list(value.shape)}")
        for name, value in [("images", self.images), *named, own, ("depths", self.depths)]:
            if value is None:
                continue
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{name} has values that are NaN or infinite")
            if bool((value < 0).any()):
                raise ValueError(f"{name} must not be negative, got a minimum of {float(value.min()):.3g}")
        if bool((self.pixel_weights > 1).any()):
            raise ValueError(f"pixel_confidence must be at most 1, got {float(self.pixel_weights.max()):.3g}")
        self._check_photographs()
        if float(self.pixel_weights.amax() * self.image_weights.amax()) == 0:
            raise InputError("every confidence is 0: there is nothing to fit to")

    def _check_photographs(self) -> None:
        if len(self.photographs) not in (0, len(self)):
            raise ValueError(f"expected {len(self)} photographs or None, got {len(self.photographs)}")
        for photograph in self.photographs:
            if photograph is None:
                continue
            shape, dtype = tuple(photograph.shape), photograph.dtype
            if len(shape) != 3 or shape[0] != 3 or dtype != torch.uint8 or photograph.device.type != "cpu":
                raise ValueError(f"expected photographs [3, h, w] uint8 on the CPU, got {list(shape)} {dtype}")


def default_references(image_weights: Tensor) -> Tensor:
    """[M] bool: the images of full confidence if some have less; else only the first."""
    full = image_weights >= 1
    if bool(full.any()) and not bool(full.all()):
        return full
    first = torch.zeros_like(full)
    first[0] = True
    return first
