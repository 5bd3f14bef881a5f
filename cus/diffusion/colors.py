"""Colours that stay the photographs': a restorer adds detail, no light."""

from torch import Tensor
from torch.nn import functional as F


def keep_colors(frames: Tensor, conditioning: Tensor, window: int) -> Tensor:
    """Frames whose mean around each pixel is that of the conditioning image: what changes more slowly is taken away.

    A network that learned from pictures of many exposures drifts in brightness by a level or two, which shows as
    flicker along a path and costs more than its detail gains.

    Args:
        frames: [T, 3, H, W].
        conditioning: likewise, with its holes filled.
        window: width of the square around a pixel in pixels, odd; 0 leaves the frames as they are.
    """
    if not window:
        return frames
    drift = frames - conditioning
    for shape in ((window, 1), (1, window)):
        margin = (shape[0] // 2, shape[1] // 2)
        drift = F.avg_pool2d(drift, shape, stride=1, padding=margin, count_include_pad=False)
    return frames - drift
