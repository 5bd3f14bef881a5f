"""Pinhole cameras in the OpenCV convention (docs/conventions.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras that share one image size.

    OpenCV axes (x right, y down, z forward); the centre of the top-left pixel is (0.5, 0.5). See docs/conventions.md.

    Attributes:
        viewmats: [N, 4, 4] float32, world-to-camera, rigid.
        Ks: [N, 3, 3] float32, intrinsics in pixels of a width x height image.
        width: image width in pixels.
        height: image height in pixels.

    Raises:
        ValueError: inconsistent shapes, values that are not finite, or a size below one pixel.
    """

    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        n = self.viewmats.shape[0] if self.viewmats.ndim == 3 else -1
        if tuple(self.viewmats.shape) != (n, 4, 4) or tuple(self.Ks.shape) != (n, 3, 3):
            shapes = f"{tuple(self.viewmats.shape)} and {tuple(self.Ks.shape)}"
            raise ValueError(f"expected viewmats [N, 4, 4] and Ks [N, 3, 3], got {shapes}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"expected an image size of at least 1x1 pixels, got {self.width}x{self.height}")
        if not (torch.isfinite(self.viewmats).all() and torch.isfinite(self.Ks).all()):
            raise ValueError("viewmats and Ks must be finite")

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "Cameras":
        """The chosen cameras; an int gives a batch of one."""
        if isinstance(index, int):
            index = slice(index, None) if index == -1 else slice(index, index + 1)
            if not range(len(self))[index]:
                raise IndexError(f"camera index out of range for {len(self)} cameras")
        elif not isinstance(index, slice):
            index = torch.as_tensor(index)
        return Cameras(self.viewmats[index], self.Ks[index], self.width, self.height)

    @property
    def c2w(self) -> Tensor:
        """[N, 4, 4] camera-to-world matrices."""
        rotations_t = self.viewmats[:, :3, :3].transpose(1, 2)
        c2w = torch.zeros_like(self.viewmats)
        c2w[:, :3, :3] = rotations_t
        c2w[:, :3, 3] = -(rotations_t @ self.viewmats[:, :3, 3:])[..., 0]
        c2w[:, 3, 3] = 1
        return c2w

    @property
    def centers(self) -> Tensor:
        """[N, 3] camera centres in the world."""
        return self.c2w[:, :3, 3]

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras with their tensors on `device`."""
        return Cameras(self.viewmats.to(device), self.Ks.to(device), self.width, self.height)

    def resized(self, width: int, height: int) -> "Cameras":
        """The same views for pictures resampled to width x height pixels; x and y scale independently."""
        scale = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return Cameras(self.viewmats, self.Ks * scale[:, None], width, height)

    def cropped(self, x: float, y: float, width: int, height: int) -> "Cameras":
        """The window of width x height pixels with its top-left corner at (x, y) pixels; it may extend outside."""
        Ks = self.Ks.clone()
        Ks[:, 0, 2] -= x
        Ks[:, 1, 2] -= y
        return Cameras(self.viewmats, Ks, width, height)

    def zoomed(self, factor: float | Tensor) -> "Cameras":
        """Multiply focal lengths by `factor` (one number, or [N]) about the image centre; the image size stays."""
        factors = torch.as_tensor(factor, dtype=self.Ks.dtype, device=self.Ks.device).expand(len(self))
        if not bool((factors > 0).all()):
            raise ValueError(f"zoom factors must be positive, got {factor}")
        Ks = self.Ks.clone()
        Ks[:, 0, :2] *= factors[:, None]
        Ks[:, 1, :2] *= factors[:, None]
        middle = self.Ks.new_tensor([self.width / 2, self.height / 2])
        Ks[:, :2, 2] = middle + factors[:, None] * (self.Ks[:, :2, 2] - middle)
        return Cameras(self.viewmats, Ks, self.width, self.height)

    @staticmethod
    def cat(cameras: Sequence["Cameras"]) -> "Cameras":
        """Concatenate batches in order. Raises ValueError if the image sizes differ."""
        sizes = {(c.width, c.height) for c in cameras}
        if len(sizes) != 1:
            raise ValueError(f"cameras of different image sizes cannot be one batch: {sorted(sizes)}")
        return Cameras(
            torch.cat([c.viewmats for c in cameras]),
            torch.cat([c.Ks for c in cameras]),
            cameras[0].width,
            cameras[0].height,
        )

    def pixel_centers(self) -> Tensor:
        """[H, W, 2] coordinates (x, y) of the pixel centres, in pixels."""
        xs = torch.arange(self.width, dtype=self.Ks.dtype, device=self.Ks.device) + 0.5
        ys = torch.arange(self.height, dtype=self.Ks.dtype, device=self.Ks.device) + 0.5
        return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)

    def backproject(self, depths: Tensor) -> Tensor:
        """World points of all pixels: z-depths [N, H, W] -> [N, H, W, 3]. A depth of 0 gives the camera centre."""
        if tuple(depths.shape) != (len(self), self.height, self.width):
            raise ValueError(f"expected depths {(len(self), self.height, self.width)}, got {tuple(depths.shape)}")
        pixels = torch.nn.functional.pad(self.pixel_centers(), (0, 1), value=1.0).reshape(1, -1, 3)
        rays = pixels @ torch.linalg.inv(self.Ks).transpose(1, 2)
        points = rays * depths.reshape(len(self), -1, 1)
        c2w = self.c2w
        world = points @ c2w[:, :3, :3].transpose(1, 2) + c2w[:, None, :3, 3]
        return world.reshape(*depths.shape, 3)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and z-depths of world points: [M, 3] or [N, M, 3] -> ([N, M, 2], [N, M]).

        A point behind the camera has a negative depth and meaningless pixels.
        """
        in_camera = points @ self.viewmats[:, :3, :3].transpose(1, 2) + self.viewmats[:, None, :3, 3]
        depths = in_camera[..., 2]
        homogeneous = in_camera @ self.Ks.transpose(1, 2)
        safe = torch.where(depths.abs() < 1e-12, torch.full_like(depths, 1e-12), depths)
        return homogeneous[..., :2] / safe[..., None], depths
