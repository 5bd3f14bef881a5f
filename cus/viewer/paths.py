"""Camera paths through a Gaussian scene: that of the run, approaching, zooming, orbiting."""

import torch

from cus.cameras import Cameras, PosedPhotos, trajectories
from cus.cameras.trajectories import Target
from cus.errors import InputError
from cus.splats import Gaussians, rasterization
from cus.viewer.requests import DEFAULT_FRAMES, PathRequest
from cus.viewer.scene import ViewScene, camera_of
from cus.viewer.steadiness import COVERED

# Depth at a target is measured in a window of this fraction of the width, in a picture of this many pixels.
WINDOW_SHARE = 1 / 20
DEPTH_SIDE = 640


def build_path(scene: ViewScene, request: PathRequest, start: Cameras | None = None) -> Cameras:
    """The cameras of a path, with the picture size of its start.

    Args:
        scene: scene of the path.
        request: the path to build.
        start: camera at which the path starts; by default `scene.first_camera()`. Unused for "run".

    Raises:
        InputError: an invalid request (`PathRequest.check`), or no surface at the target of a walk or an orbit.
    """
    request.check(scene)
    if request.kind == "run":
        assert scene.frames is not None, "checked above"
        return _run_path(scene.frames, request.frames)
    start = scene.first_camera() if start is None else start
    frames = DEFAULT_FRAMES if request.frames is None else request.frames
    if request.kind == "zoom":
        return trajectories.zoom(start, request.by, request.target, frames, eased=True)
    depth = view_depth(scene.gaussians, start, request.target, near_plane=scene.near_plane())
    if request.kind == "walk":
        return trajectories.dolly(start, request.by, request.target, frames, depth=depth, eased=True)
    return trajectories.orbit(start, request.by, request.target, frames, depth=depth)


def _run_path(posed: PosedPhotos, frames: int | None) -> Cameras:
    """The run's cameras at the size of their first picture; with `frames`, interpolated to this number."""
    width, height = posed.sizes[0]
    cameras = Cameras.cat([camera_of(posed, i).resized(width, height) for i in range(len(posed))])
    if frames is None or frames == len(cameras) or len(cameras) < 2:
        return cameras
    return trajectories.interpolate(cameras, frames=frames)


@torch.no_grad()
def view_depth(
    gaussians: Gaussians, camera: Cameras, target: Target | None = None, *, near_plane: float = 0.01
) -> float:
    """z-depth in scene units of the surface that a camera sees at `target` (u, v).

    The median of the expected depth over the covered pixels of a small window.

    Args:
        gaussians: the scene.
        camera: one camera of the scene.
        target: fractions of the picture's width and height; None: its middle.
        near_plane: Gaussians nearer than this are culled, in scene units.

    Raises:
        InputError: there is no surface.
    """
    u, v = target or (0.5, 0.5)
    scale = min(1.0, DEPTH_SIDE / max(camera.width, camera.height))
    small = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    side = max(3, round(WINDOW_SHARE * small.width))
    window = small.cropped(u * small.width - side / 2, v * small.height - side / 2, side, side)
    depths, alphas, _ = rasterization(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities_in(window), gaussians.sh,
        window.viewmats, window.Ks, side, side,
        sh_degree=gaussians.sh_degree, near_plane=near_plane, render_mode="ED", rasterize_mode="antialiased",
    )  # fmt: skip
    covered = depths[0, ..., 0][alphas[0, ..., 0] > COVERED]
    if covered.numel() == 0:
        raise InputError(f"no surface is seen around the target {u:g},{v:g}; choose a point that Gaussians cover")
    return covered.median().item()


def run_target(scene: ViewScene) -> Target:
    """The end of the run's path as a target (u, v) of the first camera: the surface at its last picture's middle.

    Raises:
        InputError: there is no run, no surface, or the first camera does not see the point.
    """
    if scene.frames is None:
        raise InputError("there is no path of a run here to take the target from")
    last = camera_of(scene.frames, len(scene.frames) - 1)
    depth = view_depth(scene.gaussians, last, near_plane=scene.near_plane())
    pixel = torch.tensor([last.width / 2, last.height / 2, 1.0])
    c2w = last.c2w[0]
    point = c2w[:3, :3] @ (torch.linalg.inv(last.Ks[0]) @ pixel * depth) + c2w[:3, 3]
    first = scene.first_camera()
    pixels, depths = first.project(point[None])
    u, v = (pixels[0, 0] / torch.tensor([first.width, first.height])).tolist()
    if depths.item() <= 0 or not (0 <= u <= 1 and 0 <= v <= 1):
        raise InputError("the first photograph does not see where the path ends; choose another point to go to")
    return u, v
