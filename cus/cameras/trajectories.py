"""Target camera paths: zoom, dolly, interpolate and orbit; `cus.cameras.path_files` reads paths from files.

Each starts at the first reference camera and keeps its image size. A `target` is a point (u, v) in the first picture,
as fractions of its width and height, with (0, 0) at its top-left corner; the default is its middle.
"""

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.conversions import viewmats_from_c2w
from cus.errors import InputError

Target = tuple[float, float]
LARGEST_ZOOM = 64.0


def check_arguments(zoom: float, target: Target | None, frames: int) -> Target:
    """The target, or the middle for None. Raises InputError if an argument of a trajectory is out of range."""
    if not (math.isfinite(zoom) and 0 < zoom <= LARGEST_ZOOM):
        raise InputError(
            f"the zoom must be above 0 and at most {LARGEST_ZOOM:g}, got {zoom:g}; 4 shows a quarter of the width"
        )
    if frames < 1:
        raise InputError(f"a path needs at least one frame, got {frames}")
    u, v = target or (0.5, 0.5)
    if not (0 <= u <= 1 and 0 <= v <= 1):
        raise InputError(
            f"the target {u:g},{v:g} lies outside the picture; give fractions of its width and height, 0 to 1"
        )
    return u, v


def _steps(frames: int, eased: bool = False) -> Tensor:
    """[T] positions 0..1 along the path; a single frame is its end. With `eased`, the path starts and stops at rest."""
    steps = torch.linspace(0, 1, frames) if frames > 1 else torch.ones(1)
    return steps * steps * (3 - 2 * steps) if eased else steps


def _repeat(cameras: Cameras, frames: int) -> Cameras:
    return cameras[torch.zeros(frames, dtype=torch.long)]


def _windows(cameras: Cameras, factors: Tensor, target: Target) -> Cameras:
    """Magnify by `factors` [T] around the target, with windows that stay inside the picture.

    The window's centre moves so that the whole path is one homothety: some point of the picture stays in place.
    """
    size = cameras.Ks.new_tensor([cameras.width, cameras.height])
    largest = factors.max()
    half_window = 0.5 / torch.clamp(largest, min=1.0)
    aim = torch.clamp(cameras.Ks.new_tensor(target), min=half_window, max=1 - half_window)
    progress = (1 - 1 / factors) / (1 - 1 / largest) if largest > 1 else torch.zeros_like(factors)
    centers = (0.5 + (aim - 0.5) * progress[:, None]) * size
    Ks = cameras.Ks.clone()
    Ks[:, :2] *= factors[:, None, None]
    Ks[:, :2, 2] += size / 2 - factors[:, None] * centers
    return Cameras(cameras.viewmats, Ks, cameras.width, cameras.height)


def zoom(
    cameras: Cameras, zoom: float = 4.0, target: Target | None = None, frames: int = 25, *, eased: bool = False
) -> Cameras:
    """Zoom from the first camera's position: magnification 1 to `zoom` in equal ratios.

    Args:
        cameras: reference cameras; the path stays at the first.
        zoom: magnification of the last frame (focal length x zoom), above 0 and at most 64; below 1 it widens.
        target: point that the path zooms in on; the window stays inside the picture.
        frames: number of cameras, at least 1.
        eased: start and stop at rest.

    Raises:
        InputError: zoom, target or frames out of range.
    """
    aim = check_arguments(zoom, target, frames)
    return _windows(_repeat(cameras, frames), zoom ** _steps(frames, eased), aim)


def interpolate(cameras: Cameras, zoom: float = 1.0, target: Target | None = None, frames: int = 25) -> Cameras:
    """Move from the first camera through the others to the last, every frame magnified by `zoom`.

    This is the path of the paper's clips: poses between the references, focal length x4 to x5 for close-ups
    (Section IV-B). Centres are interpolated linearly, rotations spherically, focal lengths geometrically.
    """
    aim = check_arguments(zoom, target, frames)
    if len(cameras) < 2:
        raise InputError("an interpolated path needs at least two cameras; use zoom, dolly or orbit with one")
    knots = np.arange(len(cameras))
    at = _steps(frames).double().numpy() * (len(cameras) - 1)
    c2w = cameras.c2w.double()
    moved = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    moved[:, :3, :3] = torch.from_numpy(Slerp(knots, Rotation.from_matrix(c2w[:, :3, :3].numpy()))(at).as_matrix())
    for axis in range(3):
        moved[:, axis, 3] = torch.from_numpy(np.interp(at, knots, c2w[:, axis, 3].numpy()))
    Ks = cameras.Ks[:1].repeat(frames, 1, 1)
    for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)):
        values = cameras.Ks[:, i, j].double().numpy()
        values = np.exp(np.interp(at, knots, np.log(values))) if i == j else np.interp(at, knots, values)
        Ks[:, i, j] = torch.from_numpy(values).float()
    path = Cameras(viewmats_from_c2w(moved), Ks, cameras.width, cameras.height)
    return _windows(path, torch.full((frames,), float(zoom)), aim)


def _aim_point(cameras: Cameras, target: Target, depth: float) -> Tensor:
    """[3] float64: the world point at the first picture's `target` and a z-depth."""
    if not (math.isfinite(depth) and depth > 0):
        raise InputError(f"the depth of the target must be a positive number of scene units, got {depth}")
    pixel = torch.tensor([target[0] * cameras.width, target[1] * cameras.height, 1.0], dtype=torch.float64)
    ray = torch.linalg.inv(cameras.Ks[0].double()) @ pixel
    c2w = cameras.c2w[0].double()
    return c2w[:3, :3] @ (ray * depth) + c2w[:3, 3]


def turning(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[3] rotation vector of the smallest rotation from the direction of `a` [3] to that of `b` [3]."""
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    return axis / sine * math.atan2(sine, float(a @ b)) if sine > 1e-9 else np.zeros(3)


def _turned_to(rotation: np.ndarray, direction: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[T, 3, 3] camera-to-world rotations, turned by `shares` of the smallest rotation towards `direction`."""
    vector = turning(rotation[:, 2], direction / np.linalg.norm(direction))
    return (Rotation.from_rotvec(vector[None] * shares[:, None]) * Rotation.from_matrix(rotation)).as_matrix()


def dolly(
    cameras: Cameras,
    zoom: float = 2.2,
    target: Target | None = None,
    frames: int = 25,
    *,
    depth: float,
    eased: bool = False,
) -> Cameras:
    """Move from the first camera straight towards the target's surface, turning to face it.

    Args:
        cameras: reference cameras; the path starts at the first.
        zoom: magnification of the target at the end, at least 1: the path covers 1 - 1 / zoom of its distance
            (2.2 covers 55 %, the middle of the paper's 50 to 60 %).
        target: point to move towards.
        frames: number of cameras, at least 1.
        depth: z-depth of the target in the first camera, in scene units.
        eased: start and stop at rest.

    Raises:
        InputError: zoom below 1, or target, frames or depth out of range.
    """
    aim = check_arguments(zoom, target, frames)
    if zoom < 1:
        raise InputError(f"a dolly walks in: its zoom must be at least 1, got {zoom:g}")
    point = _aim_point(cameras, aim, depth).numpy()
    start = cameras.c2w[0].double().numpy()
    steps = _steps(frames, eased).double().numpy()
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, 3] = point + (start[:3, 3] - point) * (zoom**-steps)[:, None]
    c2w[:, :3, :3] = _turned_to(start[:3, :3], point - start[:3, 3], steps)
    path = _repeat(cameras, frames)
    return Cameras(viewmats_from_c2w(torch.from_numpy(c2w)), path.Ks, path.width, path.height)


def orbit(
    cameras: Cameras,
    zoom: float = 1.0,
    target: Target | None = None,
    frames: int = 25,
    *,
    depth: float,
    degrees: float = 10.0,
) -> Cameras:
    """Swing around the target about the first camera's vertical axis, by `degrees` to either side and back.

    Args:
        cameras: reference cameras; the path starts and ends at the first.
        zoom: magnification of every frame.
        target: point to circle.
        frames: number of cameras, at least 1.
        depth: z-depth of the target in the first camera, in scene units.
        degrees: largest angle to either side, above 0 and below 180.

    Raises:
        InputError: an argument out of range.
    """
    aim = check_arguments(zoom, target, frames)
    if not 0 < degrees < 180:
        raise InputError(f"the orbit's angle must be above 0 and below 180 degrees, got {degrees:g}")
    point = _aim_point(cameras, aim, depth).numpy()
    start = cameras.c2w[0].double().numpy()
    angles = np.deg2rad(degrees) * np.sin(2 * math.pi * _steps(frames).double().numpy())
    swings = Rotation.from_rotvec(-start[None, :3, 1] * angles[:, None]).as_matrix()
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = swings @ start[:3, :3]
    c2w[:, :3, 3] = point + swings @ (start[:3, 3] - point)
    path = _repeat(cameras, frames)
    turned = Cameras(viewmats_from_c2w(torch.from_numpy(c2w)), path.Ks, path.width, path.height)
    return _windows(turned, torch.full((frames,), float(zoom)), aim)
