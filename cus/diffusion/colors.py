"""What frames keep of their conditioning images: colours, and the detail that the photographs already show."""

import torch
from torch import Tensor
from torch.nn import functional as F


def keep_colors(frames: Tensor, conditioning: Tensor, window: int) -> Tensor:
    """Give frames the conditioning images' local mean colour, by removing slow changes.

    A network trained on pictures with many exposures drifts in brightness by a level or two, which appears as flicker
    along a path and costs more than its detail gains.

    Args:
        frames: [T, 3, H, W] frames of the network.
        conditioning: [T, 3, H, W] conditioning images with filled holes.
        window: side of the averaging window in pixels, odd; 0 leaves the frames unchanged.
    """
    if not window:
        return frames
    drift = frames - conditioning
    for shape in ((window, 1), (1, window)):
        margin = (shape[0] // 2, shape[1] // 2)
        drift = F.avg_pool2d(drift, shape, stride=1, padding=margin, count_include_pad=False)
    return frames - drift


def keep_resolved(frames: Tensor, conditioning: Tensor, resolved: Tensor) -> Tensor:
    """Frames that change their conditioning image only as far as the photographs leave something to restore.

    Where photographs show a surface at the frame's resolution or a higher one, and agree on it, their pixels are the
    truth; a network that learned to restore enlarged pictures would only sharpen them.

    Args:
        frames: [T, 3, H, W].
        conditioning: [T, 3, H, W], with its holes filled.
        resolved: [T, H, W] in [0, 1], the share of the detail that the photographs show; 0 in holes.
    """
    return torch.lerp(frames, conditioning.to(frames), resolved[:, None].to(frames))
