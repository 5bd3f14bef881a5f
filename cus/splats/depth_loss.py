"""Supervision of rendered depth."""

from torch import Tensor

# Where less than half of a pixel is covered, its expected depth says little.
_COVERED = 0.5


def disparity_error(expected: Tensor, alphas: Tensor, depths: Tensor, weights: Tensor) -> Tensor:
    """Mean of |d / d_rendered - 1|, the error of the disparity 1 / d relative to the known one.

    Relative, so that the unit of the scene cancels; in disparity, because that is what parallax measures: an error of a
    pixel in matching is the same error in disparity at any depth, and a wrong far depth moves no picture much.

    Args:
        expected: Rendered expected depth [H, W], > 0 where covered.
        alphas: [H, W]; pixels less than half covered do not count.
        depths: Known z-depths [H, W], 0 = none.
        weights: Confidence [H, W] in [0, 1].

    Returns:
        One number, averaged over all pixels.
    """
    counts = (depths > 0) & (alphas.detach() > _COVERED)
    # Twice too near is an error of 1; nearer must not count more than all others together.
    safe = expected.where(counts, expected.new_ones(())).clamp_min(1e-12)
    errors = (depths / safe - 1).abs().clamp_max(1.0)
    return (errors * weights * counts).mean()
