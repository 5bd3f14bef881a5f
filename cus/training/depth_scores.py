"""The usual scores of depth maps against exact ones, after scaling by the medians."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DepthScores:
    """Scores of one picture, or means over several.

    Attributes:
        abs_rel: mean relative error.
        rmse: root mean square error, in scene units.
        delta: fraction of pixels whose depth is within a factor of 1.25.
    """

    abs_rel: float
    rmse: float
    delta: float

    @staticmethod
    def mean(scores: Iterable["DepthScores"]) -> "DepthScores":
        """The mean over several pictures with equal weights."""
        columns = list(zip(*(astuple(one) for one in scores), strict=True))
        return DepthScores(*(sum(column) / len(column) for column in columns))


def depth_scores(depths: Tensor, exact: Tensor) -> DepthScores:
    """Score a depth map [H, W] of any scale.

    Args:
        depths: [H, W] positive depths; others count as 0 after scaling.
        exact: [H, W] exact depths in scene units; pixels with 0 (no depth, such as the sky) do not count.

    Raises:
        ValueError: no exact depth, or no estimate where there is one.
    """
    known = exact > 0
    there = known & (depths > 0)
    if not bool(there.any()):
        raise ValueError("there is no depth to compare")
    scaled = depths * (exact[there].median() / depths[there].median())
    found, truth = scaled[known].clamp(min=0), exact[known]
    ratio = torch.maximum(found / truth, truth / found.clamp(min=1e-12))
    return DepthScores(
        abs_rel=float(((found - truth).abs() / truth).mean()),
        rmse=float((found - truth).square().mean().sqrt()),
        delta=float((ratio < 1.25).float().mean()),
    )
