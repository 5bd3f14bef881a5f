"""A target picture painted from a z-buffer at several resolutions, the finer over the coarser (Eq. 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.conditioning.conditioning import Conditioning
from cus.conditioning.reliability import EDGE_THRESHOLD
from cus.conditioning.warp import EMPTY, Projection, coarsen_any, pyramid, winners

# Number of pixels enlarged at a time: nine weights each, so 36 MiB.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Canvas:
    """A picture being painted; painting fills holes and never changes pixels that are already filled.

    Attributes:
        image: [H, W, 3] RGB, 0 in holes.
        mask: [H, W] bool, False in holes.
        depths: [H, W] z-depth in the target, 0 in holes.
    """

    image: Tensor
    mask: Tensor
    depths: Tensor

    @classmethod
    def blank(cls, width: int, height: int, device: torch.device) -> "Canvas":
        """A canvas that is all holes."""
        return cls(
            torch.zeros((height, width, 3), device=device),
            torch.zeros((height, width), dtype=torch.bool, device=device),
            torch.zeros((height, width), device=device),
        )

    @property
    def complete(self) -> bool:
        """Whether there are no holes left."""
        return bool(self.mask.all())

    def copy_to(self, conditioning: Conditioning, index: int) -> None:
        """Write this canvas into one target of `conditioning`."""
        conditioning.images[index] = self.image.permute(2, 0, 1)
        conditioning.masks[index] = self.mask
        conditioning.depths[index] = self.depths

    def paint(
        self,
        colors: Tensor,
        projection: Projection,
        keys: Tensor,
        scales: Sequence[int],
        limits: Tensor | None = None,
        means: Tensor | None = None,
    ) -> None:
        """Fill holes with the points of a z-buffer, at each of the ascending scales in turn.

        A cell of a lower resolution is enlarged mask-aware (`_enlarged`). Pixels stay holes where a cell is empty, so
        occlusion gaps survive (Section III-B).

        Args:
            colors: [N, 3] colours of all points.
            projection: the N points projected into the target.
            keys: [H, W] z-buffer of some of these points.
            scales: divisors of the resolution, ascending.
            limits: [H, W] largest depth each pixel accepts; None accepts all. A pixel rejected at one scale stays a
                hole that the next scale may fill.
            means: [H * W, 3] colours for scale 1 (`surface_means`); None takes the colours of the winning points.
        """
        for scale, level in zip(scales, pyramid(keys, scales), strict=True):
            filled = level != EMPTY
            if scale == 1:
                pixels = (filled & ~self.mask).flatten().nonzero().squeeze(1)
                _, points, depths = winners(level.flatten()[pixels])
                self._put(pixels, colors[points] if means is None else means[pixels], depths, limits)
                continue
            cells = (filled & coarsen_any(~self.mask, scale)).flatten().nonzero().squeeze(1)
            for chunk in cells.split(max(_CHUNK // scale**2, 1)):
                self._put(*_enlarged(chunk, level, scale, colors, projection), limits)
            if self.complete:
                break

    def _put(self, pixels: Tensor, colors: Tensor, depths: Tensor, limits: Tensor | None) -> None:
        """Fill the holes among pixels [M] (row * width + column, or -1 for none) with colors [M, 3] and depths [M]."""
        wanted = (pixels >= 0) & ~self.mask.view(-1)[pixels]
        if limits is not None:
            wanted &= depths <= limits.view(-1)[pixels]
        use = wanted.nonzero().squeeze(1)
        pixels = pixels[use]
        self.image.view(-1, 3)[pixels] = colors[use]
        self.depths.view(-1)[pixels] = depths[use]
        self.mask.view(-1)[pixels] = True


def _enlarged(
    cells: Tensor, level: Tensor, scale: int, colors: Tensor, projection: Projection
) -> tuple[Tensor, Tensor, Tensor]:
    """Enlarge cells [K] of a z-buffer [h, w] to scale x scale pixels each, mask-aware.

    A pixel is the mean of the points in its cell and the eight cells around it, weighted by a tent one cell wide to
    each side of each point's true position. (Plain bilinear enlargement assumes that each point lies in the middle of
    its cell; using the true position gains 0.4 dB on a real x4 close-up.) Empty cells and cells whose depth differs
    from the pixel's own by a depth edge have no weight: neither holes nor other surfaces bleed in.

    Returns:
        pixel indices [K * scale^2] (-1 outside the picture), colours [K * scale^2, 3] and depths [K * scale^2].
    """
    width, height = projection.width, projection.height
    padded = F.pad(level, (1, 1, 1, 1), value=EMPTY)
    stride = padded.shape[1]
    row, column = cells // level.shape[1], cells % level.shape[1]
    around = torch.tensor([(i + 1) * stride + j + 1 for i in (-1, 0, 1) for j in (-1, 0, 1)], device=cells.device)
    filled, points, z = winners(padded.flatten()[(row * stride + column)[:, None] + around])
    own = z[:, 4:5]
    filled &= (z - own).abs() <= EDGE_THRESHOLD * torch.minimum(z, own)
    steps = torch.arange(scale, device=cells.device)
    rows, columns = row[:, None] * scale + steps, column[:, None] * scale + steps
    wy = (1 - (rows[..., None] + 0.5 - projection.y[points][:, None]).abs() / scale).clamp(min=0)
    wx = (1 - (columns[..., None] + 0.5 - projection.x[points][:, None]).abs() / scale).clamp(min=0)
    weights = ((wy * filled[:, None])[:, :, None] * wx[:, None]).view(len(cells), scale**2, 9)
    inverse = 1 / torch.where(filled, z, 1.0)  # planes are linear in it
    values = torch.cat([colors[points], inverse[..., None], torch.ones_like(inverse)[..., None]], dim=-1)
    sums = (weights @ values).view(-1, 5)
    inside = (rows < height)[:, :, None] & (columns < width)[:, None]
    pixels = torch.where(inside, rows[:, :, None] * width + columns[:, None], -1)
    return pixels.flatten(), sums[:, :3] / sums[:, 4:], sums[:, 4] / sums[:, 3]
