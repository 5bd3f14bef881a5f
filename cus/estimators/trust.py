"""Converts confidences of networks to the project's scale."""

from torch import Tensor

# A view whose 90th percentile is below this has nothing that the network itself is confident of.
LEAST_TRUST = 0.05


def trust(confidences: Tensor) -> Tensor:
    """Convert unbounded confidences c >= 1, as given by DUSt3R and VGGT, to [0, 1): 1 - 1 / c.

    Both networks output c = 1 + exp(x) for a raw value x, so this is the logistic function of x: increasing, and the
    same for every picture, whereas a rank within the picture would rate the best part of a hopeless one as certain.
    Their losses, c * error - alpha * log(c), are minimal at c = alpha / error: 1 / c is proportional to the expected
    error.

    Args:
        confidences: confidences in any shape; values below 1 count as 1.
    """
    return 1.0 - 1.0 / confidences.clamp(min=1.0)
