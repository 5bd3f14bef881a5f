"""Algorithm 1 and Eq. 5 a pixel at a time: slow, obvious, and what the fast versions are held to."""

import math

import numpy as np

from cus.cameras import Cameras
from cus.conditioning.reliability import EDGE_THRESHOLD

TIE = 1e-3
Picture = tuple[np.ndarray, np.ndarray, np.ndarray]  # image [h, w, 3], mask [h, w], depths [h, w]
Level = tuple[
    np.ndarray, np.ndarray, np.ndarray, np.ndarray
]  # likewise, and where the points lie in the target [h, w, 2]


def project(u: float, v: float, z: float, source: Cameras, target: Cameras) -> tuple[float, float, float]:
    """Target pixel and depth of the source pixel (u, v) at depth z."""
    point = z * (np.linalg.inv(source.Ks[0].double().numpy()) @ [u, v, 1.0])
    world = np.linalg.inv(source.viewmats[0].double().numpy()) @ [*point, 1.0]
    x, y, depth = target.Ks[0].double().numpy() @ (target.viewmats[0].double().numpy() @ world)[:3]
    return x / depth, y / depth, depth


def warp(
    image: np.ndarray, depths: np.ndarray, chosen: np.ndarray, source: Cameras, target: Cameras, scale: int = 1
) -> Level:
    """Eq. 3 of the points in the target's picture, `scale` times lower: one-pixel splats, the nearest wins."""
    low = low_resolution(target, scale)
    out = np.zeros((low.height, low.width, 3))
    zbuffer = np.zeros((low.height, low.width))
    positions = np.zeros((low.height, low.width, 2))
    for row in range(source.height):
        for column in range(source.width):
            if not chosen[row, column] or depths[row, column] <= 0:
                continue
            if not inside(project(column + 0.5, row + 0.5, depths[row, column], source, target), target):
                continue
            x, y, z = project(column + 0.5, row + 0.5, depths[row, column], source, low)
            i, j = math.floor(y + TIE / scale), math.floor(x + TIE / scale)
            if zbuffer[i, j] == 0 or np.float32(z) < np.float32(zbuffer[i, j]):
                zbuffer[i, j] = z
                out[i, j] = image[:, row, column]
                positions[i, j] = x * scale, y * scale
    return out, zbuffer > 0, zbuffer, positions


def low_resolution(target: Cameras, scale: int) -> Cameras:
    """The target camera P_t^low whose pixels are scale x scale pixels of P_t."""
    padded = Cameras(target.viewmats, target.Ks, -(-target.width // scale) * scale, -(-target.height // scale) * scale)
    return padded.resized(padded.width // scale, padded.height // scale)


def inside(pixel: tuple[float, float, float], camera: Cameras) -> bool:
    """Whether a projected point lies in front of the camera and in its picture."""
    x, y, z = pixel
    return z > 0 and 0 <= x + TIE < camera.width and 0 <= y + TIE < camera.height


def enlarge(level: Level, scale: int, width: int, height: int) -> Picture:
    """Tents about the points of nine cells around a pixel, of its own surface; its own cell must be filled."""
    image, mask, depths, positions = level
    out, large, far = np.zeros((height, width, 3)), np.zeros((height, width), bool), np.zeros((height, width))
    if scale == 1:
        return image[:height, :width], mask[:height, :width], depths[:height, :width]
    for i in range(height):
        for j in range(width):
            cell = i // scale, j // scale
            if not mask[cell]:
                continue
            total = 0.0
            for a in range(max(cell[0] - 1, 0), min(cell[0] + 2, mask.shape[0])):
                for b in range(max(cell[1] - 1, 0), min(cell[1] + 2, mask.shape[1])):
                    nearer = min(depths[a, b], depths[cell])
                    if not mask[a, b] or abs(depths[a, b] - depths[cell]) > EDGE_THRESHOLD * nearer:
                        continue
                    x, y = positions[a, b]
                    weight = max(1 - abs(j + 0.5 - x) / scale, 0) * max(1 - abs(i + 0.5 - y) / scale, 0)
                    out[i, j] += weight * image[a, b]
                    far[i, j] += weight / depths[a, b]
                    total += weight
            large[i, j], out[i, j], far[i, j] = True, out[i, j] / total, total / far[i, j]
    return out, large, far


def over(upper: Picture, lower: Picture) -> Picture:
    """Eq. 4."""
    mask = upper[1]
    return np.where(mask[..., None], upper[0], lower[0]), mask | lower[1], np.where(mask, upper[2], lower[2])


def hierarchical(
    image: np.ndarray, depths: np.ndarray, chosen: np.ndarray, source: Cameras, target: Cameras, scales: tuple[int, ...]
) -> Picture:
    """One reference and one class of reliability: the finer levels over the coarser."""
    levels = [
        enlarge(warp(image, depths, chosen, source, target, scale), scale, target.width, target.height)
        for scale in scales
    ]
    picture = levels[0]
    for level in levels[1:]:
        picture = over(picture, level)
    return picture


def dilated(depths: list[np.ndarray], radii: list[np.ndarray]) -> np.ndarray:
    """D_dilate of Eq. 5: the nearest depth among the sparse points of all sources whose kernel reaches a pixel."""
    height, width = depths[0].shape
    out = np.full((height, width), np.inf)
    for z, r in zip(depths, radii, strict=True):
        for i, j in zip(*np.nonzero((z > 0) & (r > 0)), strict=True):
            rows, columns = slice(max(i - r[i, j], 0), i + r[i, j] + 1), slice(max(j - r[i, j], 0), j + r[i, j] + 1)
            out[rows, columns] = np.minimum(out[rows, columns], z[i, j])
    return out
