"""Algorithm 1 and Eq. 5 a pixel at a time: slow, obvious, and what the fast versions are held to."""

import math

import numpy as np

from cus.cameras import Cameras

TIE = 1e-3
Picture = tuple[np.ndarray, np.ndarray, np.ndarray]  # image [h, w, 3], mask [h, w], depths [h, w]


def project(u: float, v: float, z: float, source: Cameras, target: Cameras) -> tuple[float, float, float]:
    """Target pixel and depth of the source pixel (u, v) at depth z."""
    point = z * (np.linalg.inv(source.Ks[0].double().numpy()) @ [u, v, 1.0])
    world = np.linalg.inv(source.viewmats[0].double().numpy()) @ [*point, 1.0]
    x, y, depth = target.Ks[0].double().numpy() @ (target.viewmats[0].double().numpy() @ world)[:3]
    return x / depth, y / depth, depth


def warp(
    image: np.ndarray, depths: np.ndarray, chosen: np.ndarray, source: Cameras, target: Cameras, scale: int = 1
) -> Picture:
    """Eq. 3 of the points in the target's picture, `scale` times lower: one-pixel splats, the nearest wins."""
    low = low_resolution(target, scale)
    out = np.zeros((low.height, low.width, 3))
    zbuffer = np.zeros((low.height, low.width))
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
    return out, zbuffer > 0, zbuffer


def low_resolution(target: Cameras, scale: int) -> Cameras:
    """The target camera P_t^low whose pixels are scale x scale pixels of P_t."""
    padded = Cameras(target.viewmats, target.Ks, -(-target.width // scale) * scale, -(-target.height // scale) * scale)
    return padded.resized(padded.width // scale, padded.height // scale)


def inside(pixel: tuple[float, float, float], camera: Cameras) -> bool:
    """Whether a projected point lies in front of the camera and in its picture."""
    x, y, z = pixel
    return z > 0 and 0 <= x + TIE < camera.width and 0 <= y + TIE < camera.height


def enlarge(low: Picture, scale: int, width: int, height: int) -> Picture:
    """Bilinear enlargement over filled cells only; a pixel whose own cell is a hole stays one."""
    image, mask, depths = low
    out, large, far = np.zeros((height, width, 3)), np.zeros((height, width), bool), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            if not mask[i // scale, j // scale]:
                continue
            large[i, j], far[i, j] = True, depths[i // scale, j // scale]
            total = 0.0
            y, x = (i + 0.5) / scale - 0.5, (j + 0.5) / scale - 0.5
            for a in (math.floor(y), math.floor(y) + 1):
                for b in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - a)) * (1 - abs(x - b))
                    cell = min(max(a, 0), mask.shape[0] - 1), min(max(b, 0), mask.shape[1] - 1)
                    if mask[cell]:
                        out[i, j] += weight * image[cell]
                        total += weight
            out[i, j] /= total
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


def leaked(depths: list[np.ndarray], radii: list[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Eq. 5: pixels behind any sparse point whose kernel reaches them, in any source."""
    height, width = depths[0].shape
    dilated = np.full((height, width), np.inf)
    for z, r in zip(depths, radii, strict=True):
        for i, j in zip(*np.nonzero((z > 0) & (r > 0)), strict=True):
            rows, columns = slice(max(i - r[i, j], 0), i + r[i, j] + 1), slice(max(j - r[i, j], 0), j + r[i, j] + 1)
            dilated[rows, columns] = np.minimum(dilated[rows, columns], z[i, j])
    return [(z > 0) & (z - dilated > tolerance) for z in depths]
