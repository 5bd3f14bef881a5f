"""The cameras of a run's frames: a path that approaches a target."""

from cus.cameras import Cameras, trajectories
from cus.errors import InputError
from cus.scene import SceneEstimate

# Limits of paths from one photograph, which shows nothing behind its surfaces.
ALONE_DOLLY = 2.5  # magnification at the end: 60 % of the way to the target
ALONE_ORBIT = 6.0  # degrees to either side, instead of 10
ALONE_NOTE = (
    f"there is one photograph: the orbit swings by {ALONE_ORBIT:g} degrees to either side, as more would show mostly "
    "what it does not"
)


def check_alone(trajectory: str, zoom: float) -> None:
    """Refuse a path for which one photograph is not enough. Raises InputError.

    Args:
        trajectory: name of a trajectory, or path of a file, which is always allowed.
        zoom: magnification at the end.
    """
    if trajectory == "interpolate":
        raise InputError(
            "--trajectory interpolate goes from photograph to photograph, and there is one: take zoom, dolly or orbit, "
            "or add photographs"
        )
    if trajectory == "dolly" and zoom > ALONE_DOLLY:
        raise InputError(
            f"from one photograph a dolly walks in to --zoom {ALONE_DOLLY:g} at most, got {zoom:g}, as what lies "
            "behind its surfaces is not known; choose a smaller --zoom, add photographs, or take --trajectory zoom"
        )


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
        trajectory: name of the trajectory: zoom, dolly, interpolate or orbit.
        scene: scene estimate for the photographs.
        inside: (width, height) of the first view without padding.
        size: (width, height) of the frames.
        zoom: magnification at the end.
        target: (u, v), point to approach, in fractions of the first view; None: its middle.
        frames: number of frames.

    Raises:
        InputError: an invalid path, or a target at which the first view has no depth.
    """
    cameras = scene.cameras.to("cpu").cropped(0, 0, *inside)
    if trajectory in ("dolly", "orbit"):
        depth = depth_at(scene, inside, target)
        if trajectory == "dolly":
            path = trajectories.dolly(cameras, zoom, target, frames, depth=depth)
        elif len(scene) == 1:
            path = trajectories.orbit(cameras, zoom, target, frames, depth=depth, degrees=ALONE_ORBIT)
        else:
            path = trajectories.orbit(cameras, zoom, target, frames, depth=depth)
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
        raise InputError(f"no depth is known around the target {u:g},{v:g}; choose a point that the photographs show")
    return depths.median().item()
