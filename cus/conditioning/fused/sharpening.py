"""Detail that the references' pixels average out: back-projection where they agree, softening where they do not."""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.conditioning.fused.blend import Layer
from cus.conditioning.fused.sampling import CATMULL_ROM, blur, sample
from cus.conditioning.fused.views import Placement, View
from cus.conditioning.warp import TIE

# Rounds of back-projection before and after the bilateral filter.
ROUNDS = 4, 4
# Each round takes this share of its correction: more than all of it, so that four rounds do what six would.
RELAXATION = 1.5
# The filter's widths: in colour (sum over the channels, in units of 1) and in pixels of the photographs.
COLOR_SIGMA, SPACE_SIGMA = 0.1, 0.75
# The second width is at most this fraction of the picture's smaller side: if the window, three times as wide, is larger
# than the picture, OpenCV writes beyond its memory.
LARGEST_SPACE = 0.25
# A reference's pixel is predicted from at least this many target pixels that have at least this weight in it.
LEAST_PIXELS, LEAST_WEIGHT = 6, 0.05
# Below this magnification hardly any reference pixel covers that many.
LEAST_MAGNIFICATION = 1.8
# Widths of the gate's Gaussians and of the softening, in pixels of the photographs.
DETAIL_SIGMA, GATE_SIGMA, SOFT_SIGMA = 2.0, 1.0, 0.375
_NOISE = 1e-5
_GRAY = (0.299, 0.587, 0.114)


def magnification_of(layers: Sequence[Layer], weights: Tensor) -> float:
    """Width of a photograph's pixel in target pixels: the weighted geometric mean over the target."""
    total, logarithms = 0.0, 0.0
    for layer, share in zip(layers, weights, strict=True):
        # It changes slowly over the picture, so every fourth row and column is enough.
        footprint, share = layer.footprint[::4, ::4], share[::4, ::4]
        seen = footprint > 0
        total += float(share[seen].sum())
        logarithms -= float((share[seen] * footprint[seen].log()).sum())
    return math.exp(logarithms / total) if total > 0 else 1.0


def resolution_of(layers: Sequence[Layer], weights: Tensor) -> Tensor:
    """[H, W] in 0 .. 1: the photographs' pixels per target pixel, by weight; more than one counts as one."""
    pairs = zip(layers, weights, strict=True)
    return torch.stack([share * layer.footprint.square().clamp(max=1) for layer, share in pairs]).sum(dim=0)


def gate(
    layers: Sequence[Layer],
    weights: Tensor,
    image: Tensor,
    magnification: float,
    blur: Callable[[Tensor, float], Tensor] = blur,
) -> Tensor:
    """[H, W] in [0, 1]: the fraction of the picture's detail that the references agree on.

    Detail is what a Gaussian blur removes; its error is estimated from the references' weighted disagreement. Where
    only one reference has weight there is no error; where another should see the surface too but does not, the gate is
    closed.

    Args:
        layers: V layers of one target.
        weights: [V, H, W], normalised.
        image: [3, H, W] weighted mean of the layers.
        magnification: target pixels per pixel of a photograph.
        blur: an implementation of `cus.conditioning.fused.sampling.blur`.
    """

    def detail(values: Tensor) -> Tensor:
        return values - blur(values, DETAIL_SIGMA * magnification)

    mean = gray(image)
    noise = 2 * sum(w * detail(gray(layer.colors) - mean) ** 2 for w, layer in zip(weights, layers, strict=True))
    energy = detail(mean) ** 2
    sigma = GATE_SIGMA * magnification
    agreement = (1 - blur(torch.as_tensor(noise), sigma) / (blur(energy, sigma) + _NOISE)).clamp(0, 1)
    return agreement * (2 * _witnessed(layers)).clamp(max=1)


def _witnessed(layers: Sequence[Layer]) -> Tensor:
    """[H, W] in [0, 1]: how well the two best references see the surface, among those whose pictures contain it.

    A reference that should see the surface but has another depth there is evidence against it; one whose picture does
    not reach it is no evidence.
    """
    seen = torch.stack([layer.seen for layer in layers])
    if len(layers) == 1:
        return seen[0]
    best, second = seen.topk(2, dim=0).values
    several = torch.stack([layer.footprint > 0 for layer in layers]).sum(dim=0) > 1
    return torch.where(several, best * second, best)


def gray(image: Tensor) -> Tensor:
    """Gray values: [3, H, W] -> [H, W]."""
    return sum(share * channel for share, channel in zip(_GRAY, image, strict=True))  # type: ignore[return-value]


def back_projected(
    views: Sequence[View],
    places: Sequence[Placement],
    layers: Sequence[Layer],
    weights: Tensor,
    image: Tensor,
    mask: Tensor,
    magnification: float,
) -> Tensor:
    """Adjust the picture so that its means over the references' pixels are those pixels' colours.

    Many pictures have these means. Back-projection alone produces ringing along edges and the grid of the photographs;
    halfway, a bilateral filter removes both and keeps the edges (Dai, Han, Wu and Gong, "Bilateral back-projection for
    single image super resolution", ICME 2007).

    Args:
        views: V references.
        places: their positions relative to the target, with the gains of their colours.
        layers: positions of the target's pixels in them.
        weights: [V, H, W], normalised.
        image: [3, H, W] the picture to sharpen.
        mask: [H, W] bool, False in holes.
        magnification: target pixels per pixel of a photograph; a low one leaves the picture unchanged.
    """
    if magnification < LEAST_MAGNIFICATION:
        return image
    cells = [
        _Cells(view, place.gain, layer, share, mask)
        for view, place, layer, share in zip(views, places, layers, weights, strict=True)
    ]
    for part, rounds in enumerate(ROUNDS):
        image = without_grid(image, magnification) if part else image
        for _ in range(rounds):
            step = torch.zeros_like(image)
            for own, share in zip(cells, weights, strict=True):
                step += share * own.residual(image)
            image = image + RELAXATION * step
    return image


def without_grid(image: Tensor, magnification: float) -> Tensor:
    """[3, H, W] after a bilateral filter as wide as the photographs' pixels."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().float().numpy())
    return torch.from_numpy(bilateral(pixels, magnification)).permute(2, 0, 1).contiguous().to(image)


def bilateral(pixels: np.ndarray, magnification: float) -> np.ndarray:
    """`without_grid` for a float32 picture [H, W, 3]."""
    width = min(SPACE_SIGMA * magnification, LARGEST_SPACE * min(pixels.shape[:2]))
    return cv2.bilateralFilter(pixels, -1, COLOR_SIGMA, width)


class _Cells:
    """A reference's pixels and the target pixels that lie in each."""

    def __init__(self, view: View, gain: Tensor, layer: Layer, weights: Tensor, mask: Tensor) -> None:
        photo = view.levels[0]
        self.height, self.width = photo.shape[-2:]
        scale_x, scale_y = view.photo_scale
        self.x, self.y = layer.x * scale_x, layer.y * scale_y
        used = mask & (weights > LEAST_WEIGHT)
        column = (self.x + TIE).floor().long().clamp(0, self.width - 1)
        row = (self.y + TIE).floor().long().clamp(0, self.height - 1)
        self.used = used.flatten()
        self.cells = (row * self.width + column).flatten()[self.used]
        self.counts = torch.zeros(self.height * self.width, dtype=self.x.dtype).index_add_(
            0, self.cells, torch.ones_like(self.cells, dtype=self.x.dtype)
        )
        values = photo.to(self.x.dtype) / 255 if photo.dtype == torch.uint8 else photo.to(self.x.dtype)
        self.photo = (values * gain.to(values)[:, None, None]).flatten(1)

    def residual(self, image: Tensor) -> Tensor:
        """[3, H, W] the reference's pixels minus the picture's means over them, interpolated between pixels."""
        sums = torch.zeros((3, self.height * self.width), dtype=image.dtype)
        sums.index_add_(1, self.cells, image.flatten(1)[:, self.used])
        enough = self.counts >= LEAST_PIXELS
        error = torch.where(enough, self.photo - sums / self.counts.clamp(min=1), 0.0)
        return sample(error.view(3, self.height, self.width), self.x, self.y, CATMULL_ROM)


def sharpened(
    image: Tensor,
    projected: Tensor,
    agreement: Tensor,
    magnification: float,
    blur: Callable[[Tensor, float], Tensor] = blur,
) -> Tensor:
    """[3, H, W] back-projected where the references agree, softened where they do not; all pictures have this shape."""
    soft = image - blur(image, SOFT_SIGMA * magnification)
    return image + agreement * (projected - image) - (1 - agreement) ** 2 * soft
