"""Sharpness of a picture, for choosing among pictures of the same scene."""

import cv2
import numpy as np

# Sharpness is compared at one size, the default size of photographs in a run.
LONGEST_SIDE = 1024


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian of a picture [H, W] uint8, resampled to 1024 pixels along its longest side."""
    height, width = grey.shape
    scale = LONGEST_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return float(cv2.Laplacian(resized, cv2.CV_32F).var())
