"""Confidences of networks on the scale of the project."""

from torch import Tensor

# A view whose 90th percentile stays below has nothing that the network believes itself.
LEAST_TRUST = 0.05


def trust(confidences: Tensor) -> Tensor:
    """Confidences c >= 1 without upper bound, as DUSt3R and VGGT give them, in [0, 1): 1 - 1 / c.

    Both networks put c = 1 + exp(x) over their raw output x, so this is the logistic function of x: increasing, and the
    same for every picture, where a rank within the picture would call the best part of a hopeless one sure. Their
    losses, c * error - alpha * log(c), are least at c = alpha / error: 1 / c is the error that they expect.

    Args:
        confidences: of any shape; values below 1 count as 1.
    """
    return 1.0 - 1.0 / confidences.clamp(min=1.0)
