"""Checks whether a scene's cameras belong to its photographs, by epipolar errors of matched features.

Features of neighbouring photographs are matched, and the matches are verified with an independent relative pose that
does not use the given ones: those that remain are the same points in both pictures. Their distances from each other's
epipolar lines under the given cameras measure the cameras' error.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.errors import InputError
from cus.estimators import sfm
from cus.estimators.matches import MIN_MATCHES
from cus.estimators.structure import error_threshold

LONGEST_SIDE = 640
MOST_FEATURES = 2500
NEIGHBOURS = 6
WIDEST_TURN = 45.0  # maximum angle in degrees between the viewing directions of matched photographs
# Cameras that are accurate to a pixel of a 640-pixel photograph give sharp fused images.
LARGEST_ERROR = 1.5
CELLS = 8  # cells along each axis of a photograph, for its coverage
SIDE, MARGIN = 600, 60  # of each of the two panels, in pixels
GOOD, BAD, UNKNOWN = (40, 150, 70), (200, 40, 40), (150, 150, 150)


def photo_features(posed: PosedPhotos, index: int) -> tuple[Cameras, sfm.Features]:
    """One photograph's camera, shrunk to `LONGEST_SIDE`, and its features in pixels at that size.

    Raises:
        InputError: the photograph cannot be read.
    """
    width, height = posed.sizes[index]
    shrunk = max(1, round(width * min(1.0, LONGEST_SIDE / max(width, height))))
    images, camera = posed.select([index]).load(shrunk)
    gray = (images[0] * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    return camera, sfm.extract_features(gray.clamp(0, 1).numpy(), MOST_FEATURES)


def neighbouring_pairs(viewmats: Tensor) -> list[tuple[int, int]]:
    """Pairs a < b of cameras [V, 4, 4] that are close and look in similar directions, in order.

    Each camera is paired with the `NEIGHBOURS` nearest ones whose directions are within `WIDEST_TURN` of its own.
    """
    viewmats = viewmats.double()
    rotations = viewmats[:, :3, :3]
    centers = -(rotations.transpose(1, 2) @ viewmats[:, :3, 3:])[..., 0]
    forward = viewmats[:, 2, :3]
    distances = torch.cdist(centers, centers)
    distances[forward @ forward.T < math.cos(math.radians(WIDEST_TURN))] = math.inf
    distances.fill_diagonal_(math.inf)
    pairs = set()
    for a, row in enumerate(distances):
        for b in torch.argsort(row, stable=True)[:NEIGHBOURS].tolist():
            if math.isfinite(float(row[b])):
                pairs.add((min(a, b), max(a, b)))
    return sorted(pairs)


@dataclass(frozen=True)
class PhotoCheck:
    """The fit of one photograph to its neighbours.

    Attributes:
        name: name of the photograph.
        matches: number of verified matches with its neighbours.
        error: median distance of these from their epipolar lines, in pixels of the photograph shrunk to 640 along its
            longest side; NaN without matches.
        scale: pixels of the file per pixel of the shrunk photograph.
        coverage: fraction of the picture that contains such matches, in cells of 1/8 of its width and height.
    """

    name: str
    matches: int
    error: float
    scale: float
    coverage: float


@dataclass(frozen=True)
class SceneCheck:
    """The fit of a scene's cameras to its photographs.

    Attributes:
        photographs: results for the photographs that were compared with others, in the scene's order.
        pairs: number of pairs with matches, and of all pairs.
        error: median over all matches (`PhotoCheck.error`); NaN without any.
        coverage: mean over the photographs.
    """

    photographs: tuple[PhotoCheck, ...]
    pairs: tuple[int, int]
    error: float
    coverage: float

    @property
    def unmatched(self) -> list[str]:
        """Photographs that share nothing with their neighbours."""
        return [photo.name for photo in self.photographs if not photo.matches]

    def misplaced(self, largest_error: float = LARGEST_ERROR) -> list[str]:
        """Photographs whose own error is larger."""
        return [photo.name for photo in self.photographs if photo.error > largest_error]

    def refusal(self, largest_error: float = LARGEST_ERROR) -> str | None:
        """The reason why the scene should not be used, or None."""
        if not self.pairs[0]:
            return (
                "no photograph shares anything with a neighbour: are the cameras those of these photographs, and do "
                "the photographs overlap?"
            )
        if self.error > largest_error:
            return (
                f"the cameras do not fit the photographs: matched points lie {self.error:.1f} pixels off their "
                f"epipolar lines (of {LONGEST_SIDE} along the longest side; at most {largest_error:g}); check that "
                "photographs and cameras belong together, and the lens distortion"
            )
        return None


def check_scene(
    posed: PosedPhotos, most_pairs: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> SceneCheck:
    """Compare neighbouring photographs. Deterministic.

    Args:
        posed: photographs of the scene with cameras.
        most_pairs: maximum number of compared pairs, evenly spaced; None: all.
        on_progress: called with (pairs done, total pairs).

    Raises:
        InputError: a photograph that cannot be read, or no two cameras that look in similar directions.
    """
    candidates = neighbouring_pairs(posed.viewmats)
    if not candidates:
        raise InputError(
            f"no two of the {len(posed)} cameras look the same way, so that nothing can be matched: are the cameras "
            "those of these photographs?"
        )
    if most_pairs is not None and len(candidates) > most_pairs:
        candidates = [candidates[i] for i in np.linspace(0, len(candidates) - 1, most_pairs).round().astype(int)]
    photos: dict[int, tuple[Cameras, sfm.Features]] = {}
    errors: dict[int, list[np.ndarray]] = {}
    pixels: dict[int, list[np.ndarray]] = {}
    matched = 0
    for done, pair in enumerate(candidates):
        for index in pair:
            if index not in photos:
                photos[index] = photo_features(posed, index)
                errors[index], pixels[index] = [], []
        one, other = (photos[index] for index in pair)
        found = _verified(one, other)
        if found is not None:
            matched += 1
            apart = epipolar_errors(one[0], other[0], *found)
            for index, seen in zip(pair, found, strict=True):
                errors[index].append(apart)
                pixels[index].append(seen)
        if on_progress is not None:
            on_progress(done + 1, len(candidates))
    names = posed.names
    checked = tuple(
        _photo_check(names[index], photos[index][0], posed.sizes[index], errors[index], pixels[index])
        for index in sorted(photos)
    )
    everything = [apart for index in sorted(photos) for apart in errors[index]]
    error = float(np.median(np.concatenate(everything))) if everything else float("nan")
    coverage = float(np.mean([photo.coverage for photo in checked]))
    return SceneCheck(checked, (matched, len(candidates)), error, coverage)


def epipolar_errors(a: Cameras, b: Cameras, pixels_a: np.ndarray, pixels_b: np.ndarray) -> np.ndarray:
    """[M] the larger of the two distances in pixels of matched points [M, 2] from each other's epipolar lines.

    Args:
        a: first camera.
        b: second camera.
        pixels_a: [M, 2] float64 pixels in the picture of `a`.
        pixels_b: [M, 2] float64 pixels in the picture of `b`.
    """
    first, second = (_homogeneous(pixels) for pixels in (pixels_a, pixels_b))
    b_from_a = b.viewmats[0].double() @ torch.linalg.inv(a.viewmats[0].double())
    x, y, z = b_from_a[:3, 3].tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    inverse_a, inverse_b = (torch.linalg.inv(camera.Ks[0].double()) for camera in (a, b))
    fundamental = inverse_b.T @ cross @ b_from_a[:3, :3] @ inverse_a
    lines_b, lines_a = first @ fundamental.T, second @ fundamental
    residual = (second * lines_b).sum(dim=1).abs()
    apart = [residual / lines[:, :2].norm(dim=1).clamp(min=1e-12) for lines in (lines_a, lines_b)]
    return torch.maximum(*apart).numpy()


def _homogeneous(pixels: np.ndarray) -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(pixels).double(), (0, 1), value=1.0)


def _verified(
    one: tuple[Cameras, sfm.Features], other: tuple[Cameras, sfm.Features]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels [M, 2] and [M, 2] of matches consistent with some relative pose; None if there are too few."""
    (camera_a, features_a), (camera_b, features_b) = one, other
    matches = sfm.match_features(features_a, features_b)
    if len(matches) < MIN_MATCHES:
        return None
    a, b = features_a.pixels[matches[:, 0]], features_b.pixels[matches[:, 1]]
    lens_a, lens_b = _intrinsics(camera_a), _intrinsics(camera_b)
    found = sfm.relative_pose(a, b, lens_a, lens_b, error_threshold(lens_a))
    if found is None or int(found[1].sum()) < MIN_MATCHES:
        return None
    return a[found[1]], b[found[1]]


def _intrinsics(camera: Cameras) -> sfm.Intrinsics:
    K = camera.Ks[0].double()
    focal = float((K[0, 0] * K[1, 1]).sqrt())
    return sfm.Intrinsics(focal, float(K[0, 2]), float(K[1, 2]), camera.width, camera.height)


def _photo_check(
    name: str, camera: Cameras, size: tuple[int, int], errors: list[np.ndarray], pixels: list[np.ndarray]
) -> PhotoCheck:
    scale = size[0] / camera.width
    if not errors:
        return PhotoCheck(name, 0, float("nan"), scale, 0.0)
    places = np.concatenate(pixels) / (camera.width, camera.height) * CELLS
    columns, rows = places.astype(int).clip(0, CELLS - 1).T
    coverage = len(np.unique(rows * CELLS + columns)) / CELLS**2
    apart = np.concatenate(errors)
    return PhotoCheck(name, len(apart), float(np.median(apart)), scale, coverage)


def draw_cameras(viewmats: Tensor, errors: Sequence[float], largest_error: float) -> Image.Image:
    """Draw cameras as triangles that open in the viewing direction: green fits, red does not, grey is unknown.

    The left panel looks along the mean of the cameras' vertical axes, the right one horizontally, at the direction in
    which the cameras are spread most.

    Args:
        viewmats: [V, 4, 4] world-to-camera, OpenCV.
        errors: V errors in pixels, NaN where unknown.
        largest_error: error in pixels above which a camera is red.
    """
    rotations = viewmats[:, :3, :3].double()
    centers = -(rotations.transpose(1, 2) @ viewmats[:, :3, 3:].double())[..., 0]
    up = torch.nn.functional.normalize(-rotations[:, 1].mean(dim=0), dim=0)
    spread = centers - centers.mean(dim=0)
    flat = spread - (spread @ up)[:, None] * up
    along = torch.linalg.svd(flat).Vh[0] if bool(flat.abs().max() > 0) else rotations[0, 0]
    along = torch.nn.functional.normalize(along - (along @ up) * up, dim=0)
    across = torch.linalg.cross(up, along)
    picture = Image.new("RGB", (2 * SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    forward = rotations[:, 2]
    reach = max(float(spread.norm(dim=1).max()), 1e-9)
    panels = ((along, across, "from above"), (along, up, "from the side"))
    for place, (right, upward, title) in enumerate(panels):
        axes = torch.stack([right, -upward], dim=1)
        places = (spread @ axes / reach).numpy()
        directions = (forward @ axes).numpy()
        for at, direction, error in zip(places, directions, errors, strict=True):
            _triangle(draw, _pixel(at, place), direction, _color(error, largest_error))
        draw.text((place * SIDE + 10, 10), f"{len(viewmats)} cameras {title}", fill="black")
    draw.text((10, SIDE - 22), f"green: up to {largest_error:g} pixels, red: more, grey: not matched", fill="black")
    return picture


def _color(error: float, largest: float) -> tuple[int, int, int]:
    if math.isnan(error):
        return UNKNOWN
    return BAD if error > largest else GOOD


def _pixel(place: np.ndarray, panel: int) -> np.ndarray:
    """Pixel of a position in [-1, 1] in one of the panels."""
    return (place + 1) / 2 * (SIDE - 2 * MARGIN) + MARGIN + np.array([panel * SIDE, 0])


def _triangle(draw: ImageDraw.ImageDraw, at: np.ndarray, direction: np.ndarray, color: tuple[int, int, int]) -> None:
    """Draw a camera: its centre and a wedge, shorter if it looks into or out of the picture."""
    ahead = direction * 30
    aside = np.array([-direction[1], direction[0]]) * 14
    corners = [at, at + ahead + aside, at + ahead - aside]
    draw.polygon([tuple(corner) for corner in corners], outline=color)
    draw.ellipse([*(at - 3), *(at + 3)], fill=color)
