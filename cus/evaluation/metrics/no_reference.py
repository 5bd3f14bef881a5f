"""No-reference metrics: NIQE (Mittal et al., "Making a completely blind image quality analyzer", 2013), and networks.

The networks are pyiqa's, which only this file imports, and only on use. NIQE's trained parameters, a mean and a
covariance of 36 features of natural pictures, are in the package basicsr, which is not imported, or in the cache of
pyiqa.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
import torch
from scipy.special import gamma
from torch import Tensor
from torch.nn import functional as F

from cus.errors import InputError
from cus.evaluation.metrics.inputs import PictureTooSmall, checked_image

BLOCK = 96
# A covariance needs at least two blocks.
SMALLEST = BLOCK, 2 * BLOCK
# Window of the local mean and deviation.
_WINDOW, _SIGMA = (7, 7), 7 / 6
# BT.601: luminance in 16 .. 235 of RGB in [0, 1].
_LUMINANCE = (65.481, 128.553, 24.966)
_NEIGHBOURS = (0, 1), (1, 0), (1, 1), (1, -1)
_STORED = "metrics/niqe_pris_params.npz"
_CACHED = "pyiqa/niqe_modelparameters.mat"


@dataclass(frozen=True)
class _Known:
    """A metric of pyiqa's: its label and direction, the file of its weights, and its minimum picture size."""

    label: str
    higher_is_better: bool
    weights: str
    smallest: tuple[int, int]


KNOWN = {
    "metaiqa": _Known("MetaIQA", True, "Metaiqa_livec.pth", (1, 1)),
}


class NoReference:
    """MetaIQA (in [0, 1], higher is better) of a single picture, by pyiqa.

    It judges how natural a picture looks, not whether it matches the scene, and applies to whole pictures: no mask.
    pyiqa's licence is non-commercial. Its weights must be in its cache; nothing is downloaded here.

    Args:
        name: "metaiqa" (pyiqa 0.1.16 or newer).
        device: device of the network.

    Raises:
        InputError: pyiqa, the metric or its weights are missing.
    """

    unit = ""
    takes_mask = False

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.known = KNOWN[name]
        self.name, self.label, self.higher_is_better = name, self.known.label, self.known.higher_is_better
        self.metric = _create(name, self.known, torch.device(device))

    @torch.inference_mode()
    def __call__(self, image: Tensor, target: Tensor | None = None, mask: Tensor | None = None) -> float:
        """Score of the image; the target is ignored."""
        if mask is not None:
            raise ValueError(f"{self.label} is of whole pictures and takes no mask")
        image = checked_image(image)
        sides, smallest = sorted(image.shape[1:]), self.known.smallest
        if sides[0] < smallest[0] or sides[1] < smallest[1]:
            raise PictureTooSmall(f"{self.label} needs {smallest[0]}x{smallest[1]} pixels, got {sides[0]}x{sides[1]}")
        try:
            score = float(self.metric(image.float()[None]))
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f"{self.label} is not defined for a picture without texture, such as this one")
        return score


def _create(name: str, known: _Known, device: torch.device) -> Any:
    """The metric as pyiqa builds it."""
    if importlib.util.find_spec("pyiqa") is None:
        raise InputError(f"{known.label} needs pyiqa, which is not installed: pip install 'pyiqa>=0.1.16'")
    fetch = f"fetch it once: python -c \"import pyiqa; pyiqa.create_metric('{name}')\""
    file = Path(torch.hub.get_dir()) / "pyiqa" / known.weights
    if not file.is_file():
        raise InputError(f"{known.label} needs {file}, which is not there; {fetch}")
    try:
        import pyiqa  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError(f"pyiqa is installed but cannot be imported ({error}): pip install --upgrade pyiqa") from error
    if name not in pyiqa.list_models():
        raise InputError(f"{known.label} is not among this pyiqa's metrics: pip install 'pyiqa>=0.1.16'")
    return pyiqa.create_metric(name, device=device)


class Niqe:
    """NIQE of whole pictures, lower is better; it does not judge whether they match the scene.

    Args:
        natural: mean [36] and covariance [36, 36] of the features of natural pictures; None: the authors'.

    Raises:
        InputError: the authors' parameters are missing.
    """

    name, label, unit = "niqe", "NIQE", ""
    higher_is_better = False
    takes_mask = False

    def __init__(self, natural: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        self.mean, self.covariance = natural or natural_statistics()

    def __call__(self, image: Tensor, target: Tensor | None = None, mask: Tensor | None = None) -> float:
        """Score of the image; the target is ignored. It needs at least 96x192 or 192x96 pixels."""
        if mask is not None:
            raise ValueError("NIQE is of whole pictures and takes no mask")
        image = checked_image(image)
        sides = sorted(image.shape[1:])
        if sides[0] < SMALLEST[0] or sides[1] < SMALLEST[1]:
            raise PictureTooSmall(f"NIQE needs {SMALLEST[0]}x{SMALLEST[1]} pixels, got {sides[0]}x{sides[1]}")
        features = natural_features(image)
        whole = features[np.isfinite(features).all(axis=1)]
        if len(whole) < 2:
            raise ValueError("NIQE is not defined for a picture without texture, such as this one")
        difference = self.mean - np.nanmean(features, axis=0)
        between = np.linalg.pinv((self.covariance + np.cov(whole, rowvar=False)) / 2)
        return math.sqrt(max(float(difference @ between @ difference), 0.0))


def natural_statistics() -> tuple[np.ndarray, np.ndarray]:
    """The authors' mean [36] and covariance [36, 36]. Raises InputError if no package has them."""
    spec = importlib.util.find_spec("basicsr")
    places = [] if spec is None else [Path(folder) / _STORED for folder in spec.submodule_search_locations or ()]
    for file in places:
        if file.is_file():
            stored = np.load(file)
            return stored["mu_pris_param"].ravel(), stored["cov_pris_param"]
    file = Path(torch.hub.get_dir()) / _CACHED
    if file.is_file():
        stored = scipy.io.loadmat(str(file))
        return stored["mu_prisparam"].ravel(), stored["cov_prisparam"]
    raise InputError(
        "NIQE needs its authors' parameters, which come with basicsr: pip install --no-deps basicsr; or, for those of "
        f"pyiqa, {file}"
    )


def natural_features(image: Tensor) -> np.ndarray:
    """[blocks, 36] features of a picture [3, H, W] in [0, 1], 18 at each of two scales; NaN without texture."""
    gray = torch.tensordot(torch.tensor(_LUMINANCE, dtype=torch.float64), image.double(), dims=1) + 16
    height, width = (side // BLOCK * BLOCK for side in gray.shape)
    gray = gray[:height, :width].round()
    scales = []
    for divisor in (1, 2):
        if divisor == 2:
            size = height // 2, width // 2
            gray = F.interpolate(gray[None, None], size, mode="bicubic", antialias=True)[0, 0]
        values, side = _normalised(gray.numpy()), BLOCK // divisor
        # Column by column, as the authors do; the order does not matter.
        corners = [(x, y) for x in range(0, values.shape[1], side) for y in range(0, values.shape[0], side)]
        scales.append(np.stack([_features(values[y : y + side, x : x + side]) for x, y in corners]))
    return np.concatenate(scales, axis=1)


def _normalised(gray: np.ndarray) -> np.ndarray:
    """Each pixel minus its local mean, over its local deviation plus 1."""

    def local(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, _WINDOW, _SIGMA, borderType=cv2.BORDER_REPLICATE)

    mean = local(gray)
    return (gray - mean) / (np.sqrt(np.abs(local(gray**2) - mean**2)) + 1)


def _features(block: np.ndarray) -> np.ndarray:
    """[18] shapes and widths of the distributions of a block's values, and of products of neighbours."""
    shape, left, right = asymmetric_gaussian(block)
    found = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        shape, left, right = asymmetric_gaussian(block * np.roll(block, shift, axis=(0, 1)))
        found += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.array(found)


@cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    shapes = np.arange(0.2, 10.001, 0.001)
    return shapes, gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))


def asymmetric_gaussian(values: np.ndarray) -> tuple[float, float, float]:
    """Shape, left and right width of the asymmetric generalised Gaussian with the moments of the values."""
    below, above = values[values < 0], values[values > 0]
    if not len(below) or not len(above):
        return math.nan, math.nan, math.nan
    left, right = np.sqrt(np.mean(below**2)), np.sqrt(np.mean(above**2))
    ratio = left / right
    moments = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    moments *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, known = _shapes()
    shape = float(shapes[np.argmin((known - moments) ** 2)])
    width = math.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, float(left * width), float(right * width)
