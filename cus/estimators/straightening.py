"""Corrects a guessed depth map such that straight edges of the picture are straight in space, and flat parts are flat.

The inverse depth of a plane is linear in pixels, and that of a line in space is linear along its image. Both are linear
conditions, so the corrected map is the solution of one sparse least squares problem.
"""

import math

import cv2
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

LEAST_LENGTH = 1 / 8  # of a segment, as a fraction of the picture's longest side
APART = 1 / 340  # largest distance of joined segments from one line, in the same unit
GAP = 0.25  # largest gap between joined segments, as a fraction of their lengths
TURN = math.sin(math.radians(2))  # largest angle between joined segments
FLATNESS = 16.0  # pixels: where the picture has no edge, waves of 2 pi times this length lose half of their height
EDGE = 40.0  # a difference of 1 / EDGE in the picture allows 1 / e of the bending elsewhere
STRAIGHTNESS = 30.0  # weight of a segment's points, where the given depth has 1
BESIDE = 1.5  # pixels: both sides of an edge are sampled, because they may belong to different surfaces


def straight_segments(picture: Tensor) -> np.ndarray:
    """Long straight edges of a picture [3, H, W] in [0, 1]: [N, 2, 2] end points (x, y) in pixels, longest first.

    Segments of the detector of von Gioi et al. (LSD) that lie on one line are joined.
    """
    grey = (picture.mean(dim=0).clamp(0, 1) * 255).round().byte().cpu().numpy()
    found = cv2.createLineSegmentDetector().detect(grey)[0]
    side = max(grey.shape)
    # OpenCV's coordinates have the centre of the top-left pixel at (0, 0).
    pieces = [] if found is None else list(found.reshape(-1, 2, 2).astype(float) + 0.5)
    pieces = sorted((piece for piece in pieces if _length(piece) >= LEAST_LENGTH * side / 4), key=_length)
    joined = []
    while pieces:
        whole = pieces.pop()
        while (other := _continuation(whole, pieces, APART * side)) is not None:
            whole = _joined(whole, pieces.pop(other))
        if _length(whole) >= LEAST_LENGTH * side:
            joined.append(whole)
    return np.array(joined).reshape(-1, 2, 2)


def straightened(inverse: np.ndarray, picture: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The inverse depth [h, w] nearest to the given one that is linear along segments and bends little elsewhere.

    Args:
        inverse: [h, w] inverse depth, positive, with h and w at least 3.
        picture: [h, w, 3] in [0, 1], at whose edges it may bend.
        segments: [N, 2, 2] end points (x, y) in pixels of h x w.

    Returns:
        [h, w] within the range of the given inverse depth.
    """
    unit = float(np.median(inverse))
    wanted = inverse / unit
    count = wanted.size
    bending = FLATNESS**2 * _bending(picture)
    lines = STRAIGHTNESS * _deviations(segments, *wanted.shape)
    added = lines.shape[1] - count  # the two numbers of every line are unknowns, too
    system = scipy.sparse.vstack([scipy.sparse.hstack([bending, _zeros(bending.shape[0], added)]), lines])
    data = scipy.sparse.diags(np.r_[np.ones(count), np.full(added, 1e-9)])
    solution = np.asarray(spsolve((data + system.T @ system).tocsc(), np.r_[wanted.ravel(), np.zeros(added)]))
    return unit * np.clip(solution[:count].reshape(wanted.shape), wanted.min(), wanted.max())


def _length(piece: np.ndarray) -> float:
    return float(np.linalg.norm(piece[1] - piece[0]))


def _continuation(whole: np.ndarray, pieces: list[np.ndarray], apart: float) -> int | None:
    """Index of the longest piece on the same line as `whole`, and near it; None if there is none."""
    length = _length(whole)
    along = (whole[1] - whole[0]) / length
    across = np.array([-along[1], along[0]])
    for index in range(len(pieces) - 1, -1, -1):
        piece = pieces[index] - whole[0]
        turn = abs((piece[1] - piece[0]) @ across) / _length(piece)
        reach = piece @ along
        gap = max(reach.min() - length, -reach.max())
        if turn < TURN and abs(piece @ across).max() < apart and gap < GAP * (length + _length(piece)):
            return index
    return None


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The segment on the line that best fits the end points of two, from the first to the last of them."""
    points = np.concatenate([first, second])
    middle = points.mean(axis=0)
    along = np.linalg.svd(points - middle)[2][0]
    reach = (points - middle) @ along
    return middle + np.outer([reach.min(), reach.max()], along)


def _bending(picture: np.ndarray) -> scipy.sparse.csr_matrix:
    """[M, h w] second differences along x, along y and mixed, less at edges of the picture."""
    height, width = picture.shape[:2]
    pixels = np.arange(height * width).reshape(height, width)
    steps = {axis: np.abs(np.diff(picture, axis=axis)).mean(axis=2) for axis in (0, 1)}
    rows = []
    for axis in (0, 1):
        count = pixels.shape[axis]
        first, second, third = (pixels.take(range(k, count - 2 + k), axis) for k in range(3))
        step = np.maximum(*(steps[axis].take(range(k, count - 2 + k), axis) for k in range(2)))
        rows.append(_rows([first, second, third], [1.0, -2.0, 1.0], np.exp(-EDGE * step / 2), pixels.size))
    corners = [pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, :-1], pixels[1:, 1:]]
    step = np.abs(picture[:-1, :-1] - picture[1:, 1:]).mean(axis=2)
    rows.append(_rows(corners, [1.0, -1.0, -1.0, 1.0], math.sqrt(2) * np.exp(-EDGE * step / 2), pixels.size))
    return scipy.sparse.csr_matrix(scipy.sparse.vstack(rows))


def _rows(pixels: list[np.ndarray], factors: list[float], weights: np.ndarray, count: int) -> scipy.sparse.csr_matrix:
    """[M, count] one weighted sum of pixels per weight."""
    columns = np.stack([index.ravel() for index in pixels], axis=1)
    values = weights.ravel()[:, None] * np.array(factors)
    starts = np.arange(len(columns) + 1) * len(factors)
    return scipy.sparse.csr_matrix((values.ravel(), columns.ravel(), starts), shape=(len(columns), count))


def _deviations(segments: np.ndarray, height: int, width: int) -> scipy.sparse.csr_matrix:
    """[M, h w + 2 K] differences of K lines of inverse depth, given by their values at both ends, from the map."""
    blocks, ends = [], []
    for start, end in segments:
        length = float(np.linalg.norm(end - start))
        t = np.linspace(0, 1, int(length) + 1)
        normal = np.array([start[1] - end[1], end[0] - start[0]]) / max(length, 1e-9)
        for side in (-BESIDE, BESIDE):
            points = start + np.outer(t, end - start) + side * normal
            inside = ((points > 0.5) & (points < [width - 0.5, height - 0.5])).all(axis=1)
            if inside.sum() >= 4:
                blocks.append(_bilinear(points[inside], height, width))
                ends.append(-np.stack([1 - t[inside], t[inside]], axis=1))
    if not blocks:
        return _zeros(0, height * width)
    return scipy.sparse.csr_matrix(scipy.sparse.hstack([scipy.sparse.vstack(blocks), scipy.sparse.block_diag(ends)]))


def _bilinear(points: np.ndarray, height: int, width: int) -> scipy.sparse.csr_matrix:
    """[M, h w] the values of a map at points [M, 2] between its outermost pixel centres."""
    corner = np.minimum((points - 0.5).astype(int), [width - 2, height - 2])
    (x, y), (a, b) = corner.T, (points - 0.5 - corner).T
    first = y * width + x
    columns = np.stack([first, first + 1, first + width, first + width + 1], axis=1)
    values = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], axis=1)
    shape = len(points), height * width
    return scipy.sparse.csr_matrix((values.ravel(), columns.ravel(), np.arange(len(points) + 1) * 4), shape=shape)


def _zeros(rows: int, columns: int) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix((rows, columns))
