"""Image metrics."""

from cus.evaluation.metrics.blur import BLUR_GRID, best_blur, gaussian_blur
from cus.evaluation.metrics.metric import METRIC_NAMES, Metric, make_metrics, scored
from cus.evaluation.metrics.weight_free import (
    PSNR_CAP,
    color_corrected,
    color_corrected_psnr,
    gmsd,
    haarpsi,
    psnr,
    ssim,
)

__all__ = [
    "BLUR_GRID",
    "METRIC_NAMES",
    "PSNR_CAP",
    "Metric",
    "best_blur",
    "color_corrected",
    "color_corrected_psnr",
    "gaussian_blur",
    "gmsd",
    "haarpsi",
    "make_metrics",
    "psnr",
    "scored",
    "ssim",
]
