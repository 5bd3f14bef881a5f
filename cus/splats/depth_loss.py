"""Supervision of rendered depth."""

from torch import Tensor

# The expected depth of a pixel is not meaningful if less than half of the pixel is covered.
_COVERED = 0.5


def disparity_error(expected: Tensor, alphas: Tensor, depths: Tensor, weights: Tensor) -> Tensor:
    """Mean of |d / d_rendered - 1|, the error of the disparity 1 / d relative to the known one.

    Relative, so that the unit of the scene cancels; in disparity, because parallax measures disparity: a matching error
    of one pixel is the same error in disparity at any depth, and a wrong far depth hardly moves a picture.

    Args:
        expected: Rendered expected depth [H, W], > 0 where covered.
        alphas: Coverage [H, W] in [0, 1]; pixels less than half covered do not count.
        depths: Known z-depths [H, W], 0 = none.
        weights: Confidence [H, W] in [0, 1].

    Returns:
        One number, averaged over all pixels.
    """
    counts = (depths > 0) & (alphas.detach() > _COVERED)
    # A depth half as large as known is an error of 1; still nearer ones must not outweigh all others together.
    safe = expected.where(counts, expected.new_ones(())).clamp_min(1e-12)
    errors = (depths / safe - 1).abs().clamp_max(1.0)
    return (errors * weights * counts).mean()
