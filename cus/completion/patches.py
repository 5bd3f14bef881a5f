"""Textured fills: every patch that touches a hole comes to look like some patch of the known picture.

Wexler, Shechtman and Irani, "Space-Time Completion of Video" (2007), with the search of Barnes et al., "PatchMatch"
(2009), from coarse to fine. Patches are compared on, and taken from, surfaces at a similar distance, so that what opens
behind an object does not take on its look.
"""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

# Patches have 2 * RADIUS + 1 pixels a side.
RADIUS = 3
# The coarsest level has at least this many pixels along the shorter side.
SMALLEST = 32
# Alternations of search and vote on the coarsest level, the next one, and all finer ones.
ROUNDS = (12, 6, 4)
# Pixels at less than this fraction of the distance of a patch's centre belong to another surface.
SAME_SURFACE = 0.9
# Costs of a patch beside the mean square difference of its colours: per squared logarithm of the ratio of distances,
# and per squared way to it in shorter sides of the picture.
DISTANCE_COST, WAY_COST = np.float32(0.25), np.float32(0.002)
# Pixels count less the farther they are inside a hole, by this factor per pixel.
INWARDS = 0.85
# Fewer known patches than this are no texture to continue.
FEWEST_SOURCES = 64

_SIDE = 2 * RADIUS + 1
_NEARER = np.float32(math.log(SAME_SURFACE))


def continue_texture(image: Tensor, known: Tensor, depths: Tensor, seed: int = 0) -> Tensor:
    """Fill the holes of a picture with patches of its known part.

    Args:
        image: [3, H, W] float32 in [0, 1]; in holes the first guess, as from `fill_holes`.
        known: [H, W] bool, False in holes.
        depths: [H, W] float32 z-depths, positive everywhere; in holes those of what is expected there.
        seed: seed of the search.

    Returns:
        [3, H, W] with the same known pixels. Without enough known patches, holes stay as they are.
    """
    pyramid = [(image, known, depths)]
    while min(pyramid[-1][1].shape) >= 2 * SMALLEST:
        pyramid.append(_halved(*pyramid[-1]))
    coarse: np.ndarray | None = None
    matches: np.ndarray | None = None
    for level, (picture, seen, distances) in enumerate(reversed(pyramid)):
        hole = ~seen.numpy()
        valid = _sources(hole)
        if not hole.any() or valid.sum() < FEWEST_SOURCES:
            continue
        draws = np.random.default_rng((seed, level))
        pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        sources = np.argwhere(valid).astype(np.int32)
        drawn = sources[draws.integers(len(sources), size=hole.shape)]
        if coarse is not None and matches is not None:
            pixels[hole] = cv2.resize(coarse, hole.shape[::-1], interpolation=cv2.INTER_LINEAR)[hole]
            drawn = _finer(matches, drawn, valid)
        rounds = ROUNDS[min(level, len(ROUNDS) - 1)]
        _complete(pixels, hole, valid, distances.log().numpy(), _weights(hole), drawn, rounds, draws.integers(2**31))
        coarse, matches = pixels, drawn
    return image if coarse is None else torch.from_numpy(coarse).permute(2, 0, 1).clamp(0, 1).contiguous()


def _halved(image: Tensor, known: Tensor, depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means over 2 x 2 pixels, of known ones where there are; a cell is known if half of its pixels are."""
    weights = known.to(image) + 1e-6
    share = F.avg_pool2d(weights[None], 2)[0]
    maps = torch.cat([image, depths[None]]) * weights
    means = F.avg_pool2d(maps[None], 2)[0] / share
    return means[:3], share > 0.5, means[3]


def _sources(hole: np.ndarray) -> np.ndarray:
    """[H, W] bool, centres of patches that are known entirely."""
    valid = cv2.dilate(hole.astype(np.uint8), np.ones((_SIDE, _SIDE), np.uint8)) == 0
    inner = np.zeros_like(valid)
    inner[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
    return valid & inner


def _weights(hole: np.ndarray) -> np.ndarray:
    """[H, W] float32 weights of the pixels, 1 where known."""
    inside = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3)
    return (INWARDS**inside).astype(np.float32)


def _finer(matches: np.ndarray, drawn: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Matches [h, w, 2] of the coarser level on the finer grid; `drawn` [H, W, 2] where these are not valid."""
    height, width = valid.shape
    rows, columns = np.mgrid[:height, :width]
    place = np.minimum(rows // 2, matches.shape[0] - 1), np.minimum(columns // 2, matches.shape[1] - 1)
    finer = 2 * matches[place] + np.stack([rows % 2, columns % 2], axis=-1)
    finer = np.minimum(finer, [height - 1, width - 1]).astype(np.int32)
    return np.where(valid[finer[..., 0], finer[..., 1]][..., None], finer, drawn)


@njit(cache=True, nogil=True, error_model="numpy")
def _complete(pixels, hole, valid, log_depth, weights, matches, rounds, seed):  # pragma: no cover - compiled
    """Alternate between search and vote; changes `pixels` in holes, and `matches`."""
    h, w = hole.shape
    order = np.full((h, w), -1, np.int32)
    count = 0
    for y in range(h):
        for x in range(w):
            if _touches(hole, y, x):
                order[y, x] = count
                count += 1
    places = np.empty((count, 2), np.int32)
    inner = np.zeros((count, _SIDE * _SIDE), np.float32)
    costs = np.empty(count, np.float32)
    for y in range(h):
        for x in range(w):
            n = order[y, x]
            if n >= 0:
                places[n, 0], places[n, 1] = y, x
                _patch_weights(log_depth, weights, y, x, inner[n])
    state = np.uint64(seed) * np.uint64(2654435761) + np.uint64(1)
    for _ in range(rounds):
        for n in range(count):
            y, x = places[n]
            costs[n] = _cost(pixels, log_depth, inner[n], y, x, matches[y, x, 0], matches[y, x, 1], np.float32(np.inf))
        for sweep in range(2):
            step = 1 - 2 * sweep
            for k in range(count):
                n = k if sweep == 0 else count - 1 - k
                y, x = places[n]
                state = _improve(pixels, valid, log_depth, inner[n], order, matches, costs, n, y, x, step, state)
        _vote(pixels, hole, log_depth, weights, inner, order, matches, costs)


@njit(cache=True, nogil=True, inline="always")
def _touches(hole, y, x):  # pragma: no cover - compiled
    h, w = hole.shape
    for i in range(max(y - RADIUS, 0), min(y + RADIUS + 1, h)):
        for j in range(max(x - RADIUS, 0), min(x + RADIUS + 1, w)):
            if hole[i, j]:
                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _patch_weights(log_depth, weights, y, x, into):  # pragma: no cover - compiled
    """Weights with sum 1 of the pixels around a centre; 0 outside the picture and on nearer surfaces."""
    h, w = log_depth.shape
    total = np.float32(0)
    for i in range(_SIDE):
        for j in range(_SIDE):
            row, column = y + i - RADIUS, x + j - RADIUS
            if 0 <= row < h and 0 <= column < w and log_depth[row, column] - log_depth[y, x] >= _NEARER:
                into[i * _SIDE + j] = weights[row, column]
                total += weights[row, column]
    for k in range(_SIDE * _SIDE):
        into[k] /= total


@njit(cache=True, nogil=True, error_model="numpy")
def _cost(pixels, log_depth, inner, y, x, row, column, worst):  # pragma: no cover - compiled
    """Cost of the patch at (row, column) for the one at (y, x); anything above `worst` if it is above."""
    h, w = log_depth.shape
    apart = log_depth[row, column] - log_depth[y, x]
    short = np.float32(min(h, w))
    down, across = np.float32(row - y) / short, np.float32(column - x) / short
    total = DISTANCE_COST * apart * apart + WAY_COST * (down * down + across * across)
    for i in range(_SIDE):
        if total > worst:
            return total
        for j in range(_SIDE):
            share = inner[i * _SIDE + j]
            if share > 0:
                # The weight is 0 outside the picture, and sources are inside.
                a, b = pixels[y + i - RADIUS, x + j - RADIUS], pixels[row + i - RADIUS, column + j - RADIUS]
                d, e, f = a[0] - b[0], a[1] - b[1], a[2] - b[2]
                total += share * (d * d + e * e + f * f) / np.float32(3)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _improve(
    pixels, valid, log_depth, inner, order, matches, costs, n, y, x, step, state
):  # pragma: no cover - compiled
    """Try the matches of two neighbours, moved along, and random ones ever nearer to the best; the new random state."""
    h, w = valid.shape
    for axis in range(2):
        up, left = y - step * (1 - axis), x - step * axis
        if 0 <= up < h and 0 <= left < w and order[up, left] >= 0:
            row, column = matches[up, left, 0] + y - up, matches[up, left, 1] + x - left
            if 0 <= row < h and 0 <= column < w and valid[row, column]:
                cost = _cost(pixels, log_depth, inner, y, x, row, column, costs[n])
                if cost < costs[n]:
                    costs[n], matches[y, x, 0], matches[y, x, 1] = cost, row, column
    reach = max(h, w)
    while reach >= 1:
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        row = matches[y, x, 0] + int((state >> np.uint64(33)) % np.uint64(2 * reach + 1)) - reach
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        column = matches[y, x, 1] + int((state >> np.uint64(33)) % np.uint64(2 * reach + 1)) - reach
        if 0 <= row < h and 0 <= column < w and valid[row, column]:
            cost = _cost(pixels, log_depth, inner, y, x, row, column, costs[n])
            if cost < costs[n]:
                costs[n], matches[y, x, 0], matches[y, x, 1] = cost, row, column
        reach //= 2
    return state


@njit(cache=True, nogil=True, error_model="numpy")
def _vote(pixels, hole, log_depth, weights, inner, order, matches, costs):  # pragma: no cover - compiled
    """Set each pixel of a hole to the mean of what the patches over it show, good ones first."""
    h, w = hole.shape
    scale = np.float32(1) / (np.float32(2) * max(np.median(costs), np.float32(1e-5)))
    for y in range(h):
        for x in range(w):
            if not hole[y, x]:
                continue
            total, red, green, blue = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for i in range(max(y - RADIUS, 0), min(y + RADIUS + 1, h)):
                for j in range(max(x - RADIUS, 0), min(x + RADIUS + 1, w)):
                    n = order[i, j]
                    k = (y - i + RADIUS) * _SIDE + x - j + RADIUS
                    if n < 0 or not inner[n, k] > 0 or log_depth[i, j] - log_depth[y, x] < _NEARER:
                        continue
                    share = weights[i, j] * np.exp(-costs[n] * scale)
                    source = pixels[matches[i, j, 0] + y - i, matches[i, j, 1] + x - j]
                    red, green, blue = red + share * source[0], green + share * source[1], blue + share * source[2]
                    total += share
            if total > 0:
                pixels[y, x, 0], pixels[y, x, 1], pixels[y, x, 2] = red / total, green / total, blue / total
