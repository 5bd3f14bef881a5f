"""The interface of metrics, and those that need no weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cus.evaluation.metrics.inputs import PictureTooSmall
from cus.evaluation.metrics.weight_free import color_corrected_psnr, gmsd, haarpsi, psnr, ssim


class Metric(Protocol):
    """A metric that scores a picture with one number.

    Attributes:
        name: name in records and configs.
        label: name in tables.
        unit: "dB" or "".
        higher_is_better: whether higher scores are better.
        takes_mask: whether it can be restricted to a part of the picture; if not, a mask raises ValueError.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def higher_is_better(self) -> bool: ...  # noqa: D102
    @property
    def takes_mask(self) -> bool: ...  # noqa: D102

    def __call__(self, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
        """Score of `image` [3, H, W] in [0, 1] against `target`, over the True pixels of `mask` [H, W] bool.

        No-reference metrics ignore the target.

        Raises:
            ValueError: the pictures cannot be scored: wrong shapes or values, an empty mask, or too small.
        """
        ...


@dataclass(frozen=True)
class WeightFreeMetric:
    """A `Metric` made from one function of image, target and mask."""

    name: str
    label: str
    score: Callable[[Tensor, Tensor, Tensor | None], float]
    unit: str = ""
    higher_is_better: bool = True
    takes_mask: bool = True

    def __call__(self, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
        """The function's score of the pictures."""
        return self.score(image, target, mask)


def scored(metric: Metric, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """A metric's score; NaN, which tables show as missing, if pictures are too small for it."""
    try:
        return metric(image, target, mask)
    except PictureTooSmall:
        return math.nan


WEIGHT_FREE = (
    WeightFreeMetric("psnr", "PSNR", psnr, unit="dB"),
    WeightFreeMetric("psnr_cc", "PSNR (colours fitted)", color_corrected_psnr, unit="dB"),
    WeightFreeMetric("ssim", "SSIM", ssim),
    WeightFreeMetric("gmsd", "GMSD", gmsd, higher_is_better=False),
    WeightFreeMetric("haarpsi", "HaarPSI", haarpsi),
)
