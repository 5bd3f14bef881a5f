"""Lens models: where a lens puts the ray that a pinhole camera would see at a pixel, and undistorted pictures.

The models are COLMAP's, with its names and parameter order; pycolmap computes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from cus.errors import InputError
from cus.runtime import signal_handlers_kept


class LensModel(NamedTuple):
    """A lens model of COLMAP's.

    Attributes:
        id: number of the model in binary files.
        focals: number of focal lengths: 1 if x and y share one, else 2.
        params: names of the parameters after focal lengths and principal point, as `transforms.json` spells them.
    """

    id: int
    focals: int
    params: tuple[str, ...]


MODELS: dict[str, LensModel] = {
    "SIMPLE_PINHOLE": LensModel(0, 1, ()),
    "PINHOLE": LensModel(1, 2, ()),
    "SIMPLE_RADIAL": LensModel(2, 1, ("k1",)),
    "RADIAL": LensModel(3, 1, ("k1", "k2")),
    "OPENCV": LensModel(4, 2, ("k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": LensModel(5, 2, ("k1", "k2", "k3", "k4")),
    "FULL_OPENCV": LensModel(6, 2, ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "FOV": LensModel(7, 2, ("omega",)),
    "SIMPLE_RADIAL_FISHEYE": LensModel(8, 1, ("k1",)),
    "RADIAL_FISHEYE": LensModel(9, 1, ("k1", "k2")),
    "THIN_PRISM_FISHEYE": LensModel(10, 2, ("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1")),
    "RAD_TAN_THIN_PRISM_FISHEYE": LensModel(
        11, 2, ("k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3")
    ),
    "SIMPLE_DIVISION": LensModel(12, 1, ("k1",)),
    "DIVISION": LensModel(13, 2, ("k1",)),
    "SIMPLE_FISHEYE": LensModel(14, 1, ()),
    "FISHEYE": LensModel(15, 2, ()),
    "EUCM": LensModel(16, 2, ("alpha", "beta")),
}
PARAMS = tuple(dict.fromkeys(name for model in MODELS.values() for name in model.params))
# OpenCV's rational model, of which these are special cases: all parameters zero means no distortion.
_OPENCV = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_STRAIGHT_AT_ZERO = (*_OPENCV, "SIMPLE_DIVISION", "DIVISION")
# At most this fraction of a picture may lie where the model folds, and at least this fraction must have a source.
_MOST_FOLDED, _LEAST_SOURCE = 0.01, 0.5
_ROWS = 256  # number of rows whose source positions are computed at once, which bounds the memory


@dataclass(frozen=True)
class Lens:
    """A lens without focal lengths and principal point.

    Attributes:
        model: name of the model in `MODELS`.
        params: values of the parameters `MODELS[model].params`, in that order.

    Raises:
        ValueError: an unknown model, or a wrong number of parameters.
    """

    model: str = "PINHOLE"
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"unknown lens model {self.model}; known are {', '.join(MODELS)}")
        if len(self.params) != len(MODELS[self.model].params):
            raise ValueError(f"{self.model} has the parameters {MODELS[self.model].params}, got {self.params}")

    @staticmethod
    def from_opencv(coefficients: Sequence[float]) -> "Lens":
        """A lens from OpenCV's k1 k2 p1 p2 k3 k4 k5 k6; missing coefficients are zero."""
        values = (*(float(c) for c in coefficients), *(0.0,) * (8 - len(coefficients)))
        if any(values[4:]):
            return Lens("FULL_OPENCV", values)
        return Lens("OPENCV", values[:4]) if any(values) else Lens()

    @property
    def bends(self) -> bool:
        """Whether the lens distorts at all."""
        return self.model not in _STRAIGHT_AT_ZERO or any(self.params)

    def opencv(self) -> tuple[float, ...] | None:
        """OpenCV's k1 k2 p1 p2 k3 k4 k5 k6, or None if its model cannot express the lens."""
        if not self.bends:
            return (0.0,) * 8
        return (*self.params, *(0.0,) * (8 - len(self.params))) if self.model in _OPENCV else None

    def distort(self, points: np.ndarray) -> np.ndarray:
        """Distort points [N, 2] (x / z, y / z) -> [N, 2] in focal lengths; NaN where the lens has no image of them."""
        with signal_handlers_kept():
            import pycolmap

        params = [*(1.0,) * MODELS[self.model].focals, 0.0, 0.0, *self.params]
        camera = pycolmap.Camera(model=self.model, width=2, height=2, params=params)
        return np.asarray(camera.img_from_cam(np.concatenate([points, np.ones((len(points), 1))], axis=1)))


def _reach(lens: Lens, K: np.ndarray, width: int, height: int) -> float:
    """Radius (in focal lengths) within which the model is one to one; infinite if it is so in the whole picture.

    Beyond it, a polynomial turns back and would show the picture a second time, mirrored.
    """
    turns = np.linspace(0, 1, 17)[:-1]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height], [0, 0]], float)
    border = np.concatenate([a + turns[:, None] * (b - a) for a, b in zip(corners[:-1], corners[1:], strict=True)])
    rays = (border - K[:2, 2]) / K[[0, 1], [0, 1]]
    lengths = np.linalg.norm(rays, axis=1).clip(min=1e-12)
    steps = np.linspace(0, 1, 65)
    bent = lens.distort((steps[None, :, None] * rays[:, None]).reshape(-1, 2)).reshape(len(rays), len(steps), 2)
    along = (bent * (rays / lengths[:, None])[:, None]).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        folds = ~(np.diff(along, axis=1) > 0)
    if not folds.any():
        return float("inf")
    first = np.where(folds.any(axis=1), folds.argmax(axis=1), len(steps))
    return float((steps[np.minimum(first, len(steps) - 1)] * lengths)[folds.any(axis=1)].min())


def check_lens(lens: Lens, K: np.ndarray, width: int, height: int, where: str) -> None:
    """Refuse a lens that is implausible for a picture of this size: one that folds it, or leaves little of it.

    Args:
        lens: lens to check.
        K: [3, 3] intrinsics in pixels.
        width: picture width in pixels.
        height: picture height in pixels.
        where: file and frame, for the message.

    Raises:
        InputError: the lens is implausible; the message has the parameters and their effect.
    """
    if not lens.bends:
        return
    reach = _reach(lens, K, width, height)
    centers = (np.arange(33) + 0.5) / 33
    xs, ys = np.meshgrid(centers * width, centers * height)
    rays = (np.stack([xs.ravel(), ys.ravel()], axis=1) - K[:2, 2]) / K[[0, 1], [0, 1]]
    folded = np.linalg.norm(rays, axis=1) > reach
    source = lens.distort(rays) * K[[0, 1], [0, 1]] + K[:2, 2]
    inside = ~folded & (source >= 0).all(axis=1) & (source <= [width, height]).all(axis=1)
    given = ", ".join(f"{n} = {v:g}" for n, v in zip(MODELS[lens.model].params, lens.params, strict=True))
    if folded.mean() > _MOST_FOLDED:
        problem = f"folds {folded.mean():.0%} of the {width}x{height} picture over itself"
    elif inside.mean() < _LEAST_SOURCE:
        problem = f"leaves {inside.mean():.0%} of the {width}x{height} picture"
    else:
        return
    raise InputError(
        f"{where}: the lens {lens.model} ({given}) {problem}; these cannot be its parameters: calibrate again"
    )


def undistort(
    pixels: np.ndarray, K: np.ndarray, lens: Lens, new_K: np.ndarray | None = None, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Undistort a picture [h, w, 3] and its mask: ([h, w, 3], [h, w] bool or None).

    Args:
        pixels: distorted picture.
        K: [3, 3] intrinsics of the distorted picture in pixels.
        lens: lens of the picture.
        new_K: [3, 3] intrinsics of the undistorted picture; by default K.
        mask: [h, w] bool, usable pixels of the picture; None: all.

    Returns:
        The picture of a pinhole camera, and a mask of its usable pixels; None if all are usable.
    """
    if not lens.bends:
        return pixels, mask
    height, width = pixels.shape[:2]
    map_x, map_y, usable = _sources(K, lens, K if new_K is None else new_K, width, height)
    straight = cv2.remap(pixels, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
    if mask is not None:
        usable &= cv2.remap(mask.astype(np.uint8), map_x, map_y, cv2.INTER_NEAREST, borderValue=0) > 0
    return straight, usable


def _sources(
    K: np.ndarray, lens: Lens, new_K: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position of each undistorted pixel in the distorted picture, in `cv2`'s convention (centres at whole numbers).

    Three arrays [h, w]: x and y float32, and a bool mask, False where there is no source pixel.
    """
    K, new_K = K.astype(np.float64), new_K.astype(np.float64)
    reach = _reach(lens, new_K, width, height)
    maps = np.empty((2, height, width), np.float32)
    usable = np.empty((height, width), bool)
    xs = (np.arange(width) + 0.5 - new_K[0, 2]) / new_K[0, 0]
    ys = (np.arange(height) + 0.5 - new_K[1, 2]) / new_K[1, 1]
    for start in range(0, height, _ROWS):
        rows = slice(start, min(start + _ROWS, height))
        rays = np.stack(np.meshgrid(xs, ys[rows]), axis=-1).reshape(-1, 2)
        places = lens.distort(rays) * K[[0, 1], [0, 1]] + K[:2, 2] - 0.5
        inside = (places >= 0).all(axis=1) & (places <= [width - 1, height - 1]).all(axis=1)
        inside &= np.linalg.norm(rays, axis=1) <= reach
        # Pixels without a source must not be filled from another part of the picture.
        maps[:, rows] = np.where(inside, places.T, -10).reshape(2, -1, width)
        usable[rows] = inside.reshape(-1, width)
    return maps[0], maps[1], usable


def filling_K(K: np.ndarray, lens: Lens, width: int, height: int) -> np.ndarray:
    """Intrinsics with which every pixel of the undistorted picture of the same size has a source.

    The focal lengths grow by the smallest factor >= 1 that leaves no empty border; the principal point stays.

    Raises:
        InputError: no factor up to 4 is enough, so the parameters cannot be those of this picture.
    """
    xs, ys = np.arange(width) + 0.5, np.arange(height) + 0.5
    border = np.concatenate(
        [np.stack([xs, np.full(width, y)], axis=1) for y in (0.5, height - 0.5)]
        + [np.stack([np.full(height, x), ys], axis=1) for x in (0.5, width - 0.5)]
    )
    rays = (border - K[:2, 2]) / K[[0, 1], [0, 1]]

    def fills(factor: float) -> bool:
        source = lens.distort(rays / factor) * K[[0, 1], [0, 1]] + K[:2, 2]
        return bool((source >= 0.5).all() and (source <= [width - 0.5, height - 0.5]).all())

    low, high = 1.0, 4.0
    if not lens.bends or fills(low):
        return K
    if not fills(high):
        raise InputError(f"the lens {lens.model} {lens.params} cannot be removed from {width}x{height} pixels")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if fills(middle) else (middle, high)
    filled = K.astype(np.float64).copy()
    # Slightly more, to allow for the maps' single precision.
    filled[:2, :2] *= high + 1e-4
    return filled
