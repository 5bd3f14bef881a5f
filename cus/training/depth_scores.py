"""The usual scores of depth maps against exact ones, after the scale is taken from the medians."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DepthScores:
    """Of one picture, or means over several.

    Attributes:
        abs_rel: mean of the relative error.
        rmse: root mean square error, in scene units.
        delta: share of pixels whose depth is within a factor of 1.25.
    """

    abs_rel: float
    rmse: float
    delta: float

    @staticmethod
    def mean(scores: Iterable["DepthScores"]) -> "DepthScores":
        """Of several pictures, each counting alike."""
        columns = list(zip(*(astuple(one) for one in scores), strict=True))
        return DepthScores(*(sum(column) / len(column) for column in columns))


def depth_scores(depths: Tensor, exact: Tensor) -> DepthScores:
    """Scores of a depth map [H, W] of any scale.

    Args:
        depths: positive; what is not positive counts as 0 after scaling.
        exact: [H, W] in scene units; pixels that are 0 (no depth, such as the sky) do not count.

    Raises:
        ValueError: no exact depth, or none where there is.
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
