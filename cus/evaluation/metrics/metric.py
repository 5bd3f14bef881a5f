"""The interface of metrics, and all of them by name."""

import difflib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cus.errors import InputError
from cus.evaluation.metrics.dino import DINO, DinoSimilarity
from cus.evaluation.metrics.inputs import PictureTooSmall
from cus.evaluation.metrics.lpips import Lpips, ShiftTolerantLpips
from cus.evaluation.metrics.no_reference import Niqe, NoReference
from cus.evaluation.metrics.weight_free import color_corrected_psnr, gmsd, haarpsi, psnr, ssim

METRIC_NAMES = (
    "psnr",
    "psnr_cc",
    "ssim",
    "st_lpips",
    "lpips",
    "lpips_vgg",
    "gmsd",
    "haarpsi",
    "dino",
    "niqe",
    "metaiqa",
)


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


def make_metrics(
    names: Sequence[str] | None,
    device: torch.device | str = "cpu",
    *,
    dino: str | os.PathLike[str] = DINO,
) -> tuple[list[Metric], dict[str, str]]:
    """The requested metrics, or every available one.

    Args:
        names: Names from `METRIC_NAMES`; None for all that are available.
        device: Device for networks; weight-free metrics are always computed on the CPU.
        dino: Folder of a DINOv2 model, or the Hub id of one in the local cache.

    Returns:
        The metrics in the order of the names, and for each unavailable one the reason: one line with the remedy.

    Raises:
        InputError: a name is unknown or repeated, or a metric requested by name is unavailable.
    """
    makers: dict[str, Callable[[], Metric]] = {metric.name: lambda metric=metric: metric for metric in WEIGHT_FREE}
    makers |= {
        "st_lpips": lambda: ShiftTolerantLpips(device=device),
        "lpips": lambda: Lpips("alex", device),
        "lpips_vgg": lambda: Lpips("vgg", device),
        "dino": lambda: DinoSimilarity.load(dino, device),
        "niqe": Niqe,
        "metaiqa": lambda: NoReference("metaiqa", device),
    }
    _check_names(names)
    found: list[Metric] = []
    missing: dict[str, str] = {}
    for name in METRIC_NAMES if names is None else names:
        try:
            found.append(makers[name]())
        except InputError as error:
            if names is not None:
                raise
            missing[name] = str(error)
    return found, missing


def _check_names(names: Sequence[str] | None) -> None:
    """Refuse names that are unknown, and repeated ones, which records could not tell apart."""
    for name in names or ():
        if name not in METRIC_NAMES:
            nearest = difflib.get_close_matches(name, METRIC_NAMES, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise InputError(f"there is no metric {name!r}; expected some of {', '.join(METRIC_NAMES)}{hint}")
    if names is not None and (not names or len(set(names)) < len(names)):
        raise InputError(f"metrics are {', '.join(names) or 'none'}; expected each once, and at least one")
