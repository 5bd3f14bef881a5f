"""Confidence-aware division of depth maps into reliable and unreliable pixels (Section III-B)."""

import torch
from torch import Tensor

from cus.scene import SceneEstimate

EDGE_THRESHOLD = 0.05


def depth_edges(depths: Tensor, threshold: float = EDGE_THRESHOLD) -> Tensor:
    """Pixels next to a depth discontinuity.

    The relative depth gradient of a pixel is the largest |z - z_n| / min(z, z_n) over its four neighbours n that have a
    depth; both sides of a discontinuity are marked. Neighbours without depth are ignored.

    Args:
        depths: [V, H, W] z-depths, 0 means none.
        threshold: the smallest relative gradient that counts as an edge.

    Returns:
        [V, H, W] bool, False where there is no depth.
    """
    if depths.ndim != 3:
        raise ValueError(f"depths must be [V, H, W], got {tuple(depths.shape)}")
    edges = torch.zeros_like(depths, dtype=torch.bool)
    for axis in (1, 2):
        length = depths.shape[axis]
        if length < 2:
            continue
        here, there = depths.narrow(axis, 0, length - 1), depths.narrow(axis, 1, length - 1)
        nearer = torch.minimum(here, there)
        jump = (nearer > 0) & ((here - there).abs() > threshold * nearer)
        edges.narrow(axis, 0, length - 1).logical_or_(jump)
        edges.narrow(axis, 1, length - 1).logical_or_(jump)
    return edges


def divide_reliability(scene: SceneEstimate, edge_threshold: float = EDGE_THRESHOLD) -> tuple[Tensor, Tensor]:
    """Split the pixels that have a depth into reliable and unreliable ones (Algorithm 1, line 4).

    Reliable pixels are the top 90 % of each view by confidence, except for depth edges, where estimators smear.

    Returns:
        reliable [V, H, W] bool and unreliable [V, H, W] bool: disjoint, together all pixels with a depth.
    """
    reliable = scene.reliable & ~depth_edges(scene.depths, edge_threshold)
    return reliable, (scene.depths > 0) & ~reliable


def confident(depths: Tensor, confidences: Tensor) -> Tensor:
    """The more confident half of each view's depths.

    Hiding what lies behind needs more than reliability: one wrong point in front removes many correct ones, and in a
    hard view far more than a tenth of the depths are wrong (Section III-C: "only regions with high confidence").

    Args:
        depths: [V, H, W], 0 = none.
        confidences: [V, H, W] confidences of the depths.

    Returns:
        [V, H, W] bool; all pixels of equal confidence are treated alike.
    """
    chosen = torch.zeros_like(depths, dtype=torch.bool)
    for view, known in enumerate(depths > 0):
        if bool(known.any()):
            chosen[view] = known & (confidences[view] >= confidences[view][known].median())
    return chosen
