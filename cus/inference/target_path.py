"""The cameras of a run's frames: a path that closes in on a target."""

from cus.cameras import Cameras, trajectories
from cus.errors import InputError
from cus.scene import SceneEstimate


def target_path(
    trajectory: str,
    scene: SceneEstimate,
    inside: tuple[int, int],
    size: tuple[int, int],
    *,
    zoom: float,
    target: tuple[float, float] | None,
    frames: int,
) -> Cameras:
    """A path that starts at the first view.

    Args:
        trajectory: zoom, dolly, interpolate or orbit.
        scene: the photographs' estimate.
        inside: (width, height) of the first view without padding.
        size: (width, height) of the frames.
        zoom: magnification at the end.
        target: (u, v), the point closed in on, in fractions of the first view; None is its middle.
        frames: their number.

    Raises:
        InputError: a path that cannot be, or a target at which the first view has no depth.
    """
    cameras = scene.cameras.to("cpu").cropped(0, 0, *inside)
    if trajectory in ("dolly", "orbit"):
        move = trajectories.dolly if trajectory == "dolly" else trajectories.orbit
        path = move(cameras, zoom, target, frames, depth=depth_at(scene, inside, target))
    else:
        move = trajectories.zoom if trajectory == "zoom" else trajectories.interpolate
        path = move(cameras, zoom, target, frames)
    return path.resized(*size)


def depth_at(scene: SceneEstimate, inside: tuple[int, int], target: tuple[float, float] | None) -> float:
    """Median depth of the first view in a window of 1/20 of the picture's width around the target, in scene units."""
    u, v = target or (0.5, 0.5)
    width, height = inside
    radius = max(2, width // 40)
    x, y = min(int(u * width), width - 1), min(int(v * height), height - 1)
    window = scene.depths[0, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
    depths = window[window > 0]
    if depths.numel() == 0:
        raise InputError(f"no depth is known around the target {u:g},{v:g}; choose a point that both photographs show")
    return depths.median().item()
