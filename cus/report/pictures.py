"""Converts arrays to pictures: colour maps for depth and confidence."""

import cv2
import numpy as np


def depth_range(depth: np.ndarray) -> tuple[float, float]:
    """The 2nd and 98th percentile of the known depths, always distinct; (1, 2) if none is known."""
    known = depth[depth > 0]
    if known.size == 0:
        return 1.0, 2.0
    low, high = np.percentile(known, [2, 98])
    return float(low), float(max(high, low * 1.001))


def _mapped(values: np.ndarray, colormap: int) -> np.ndarray:
    """Apply a colour map: [H, W] in [0, 1] -> [H, W, 3] uint8 RGB."""
    levels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, colormap), cv2.COLOR_BGR2RGB)


def colorize_depth(depth: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Depth [H, W] -> [H, W, 3] uint8: turbo in inverse depth, near red, far blue; black where there is none.

    Args:
        depth: z-depth in scene units, 0 = none.
        limits: (near, far) in scene units; by default `depth_range`.
    """
    near, far = limits or depth_range(depth)
    known = depth > 0
    inverse = 1 / np.where(known, depth, far)
    colors = _mapped((inverse - 1 / far) / max(1 / near - 1 / far, 1e-12), cv2.COLORMAP_TURBO)
    colors[~known] = 0
    return colors


def colorize_confidence(confidence: np.ndarray) -> np.ndarray:
    """Confidence [H, W] in [0, 1] -> [H, W, 3] uint8: viridis, yellow is high."""
    return _mapped(confidence, cv2.COLORMAP_VIRIDIS)
