"""Metrics by name."""

import difflib
import os
from collections.abc import Callable, Sequence

import torch

from cus.errors import InputError
from cus.evaluation.metrics.dino import DINO, DinoSimilarity
from cus.evaluation.metrics.lpips import Lpips, ShiftTolerantLpips
from cus.evaluation.metrics.metric import WEIGHT_FREE, Metric
from cus.evaluation.metrics.niqe import Niqe
from cus.evaluation.metrics.no_reference import NoReference

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
