"""Gradient magnitude similarity deviation (Xue et al. 2014)."""

from torch import Tensor

from cus.evaluation.metrics.inputs import checked
from cus.models.gradient_similarity import deviation, gmsd_map
from cus.models.halving import halved_mask


def gmsd(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of the similarity of gradient magnitudes; lower is better, 0 for equal pictures.

    Luma at half size, Prewitt gradients, c = 170 for values in [0, 255] (Eqs. 4 and 6 of the paper). It measures how
    unevenly gradients are degraded: a uniform error counts little.

    Args:
        image: [3, H, W] RGB in [0, 1].
        target: Picture of the same shape.
        mask: [H, W] bool. The deviation is over its pixels: at half size, each has the fraction of its 2x2 pixels
            inside the mask as weight. Outside the mask the target replaces the image.

    Raises:
        ValueError: invalid pictures or mask (`checked`).
    """
    image, target, mask = checked(image, target, mask)
    similarity = gmsd_map(image, target)
    return float(deviation(similarity, halved_mask(mask, similarity)))
