"""Recording a camera path into a video, and measuring what it shows."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from cus.cameras import Cameras
from cus.errors import InputError
from cus.files import check_target, read_json, replacing, write_json
from cus.report.video import write_video
from cus.splats import rasterization
from cus.viewer.requests import Color, Recording
from cus.viewer.scene import ViewScene
from cus.viewer.steadiness import FrameMeasures, Shot, Steadiness, compare, needle_share, uncovered_share

OnProgress = Callable[[int, int], None]


def sized(cameras: Cameras, longest_side: int) -> Cameras:
    """The same views in pictures of that longest side, pixels; both sides even, as video codecs want them."""
    scale = longest_side / max(cameras.width, cameras.height)
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (cameras.width, cameras.height))
    return cameras.resized(width, height)


def check_output(path: Path, *, measure: bool, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise InputError where a video (and its measures) cannot be written, or would replace what is not given up.

    Beside a video only measures of an earlier recording are replaced, and never any of the `inputs`.
    """
    inputs = list(inputs)
    if path.suffix.lower() != ".mp4":
        raise InputError(f"a recording is an mp4 video: its name must end in .mp4, got {path.name}")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"cannot write {path}: its folder does not exist, or it is a folder itself")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write to the folder {path.parent.resolve()}; choose another place")
    check_target(path, overwrite=overwrite, inputs=inputs)
    measures = path.with_suffix(".json")
    if measure and os.path.lexists(measures):
        if not _holds_measures(measures):
            raise InputError(f"{measures} is there and holds no measures of a recording; name another video")
        check_target(measures, overwrite=overwrite, inputs=inputs)


def _holds_measures(path: Path) -> bool:
    """Whether a file was written by an earlier recording."""
    try:
        content = read_json(path)
    except InputError:
        return False
    frames = content.get("frames")
    if set(content) != {"summary", "frames"} or not isinstance(frames, list):
        return False
    measured = {field.name for field in fields(FrameMeasures)}
    return all(isinstance(frame, dict) and set(frame) == measured for frame in frames)


def record(
    scene: ViewScene, path: Cameras, out: Path, recording: Recording, on_progress: OnProgress | None = None
) -> Steadiness | None:
    """Render a path and write it to `out`, an mp4 that appears when it is complete.

    With `recording.measure`, the measures are written beside it, as `<name>.json`, and returned.

    Args:
        scene: what is seen.
        path: T cameras; their picture size gives the aspect.
        out: the video.
        recording: size, frame rate, background.
        on_progress: called with (frames done, all frames).

    Raises:
        InputError: a size or number of frames that cannot be, or a place that cannot be written to.
    """
    recording.check(len(path))
    cameras = sized(path, recording.size)
    pictures = np.empty((len(cameras), cameras.height, cameras.width, 3), np.uint8)
    measures: list[FrameMeasures] = []
    previous: tuple[Shot, float] | None = None
    for index, (shot, needles) in enumerate(shots(scene, cameras, recording.background)):
        pictures[index] = (shot.picture.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
        if recording.measure:
            if previous is not None:
                measures.append(_measures(*previous, shot))
            previous = shot, needles
        if on_progress:
            on_progress(index + 1, len(cameras))
    if previous is not None:
        measures.append(_measures(*previous, None))
    with replacing(out) as part:
        write_video(part, pictures, recording.fps)
    if not recording.measure:
        return None
    steadiness = Steadiness(tuple(measures))
    write_json(out.with_suffix(".json"), steadiness.as_json())
    return steadiness


def _measures(shot: Shot, needles: float, following: Shot | None) -> FrameMeasures:
    changes = (None, None, None) if following is None else compare(shot, following)
    return FrameMeasures(uncovered_share(shot.alphas), needles, *changes)


@torch.no_grad()
def shots(scene: ViewScene, cameras: Cameras, background: Color = (0.0, 0.0, 0.0)) -> Iterator[tuple[Shot, float]]:
    """Render cameras one after the other, antialiased: each a `Shot` and its share of needles."""
    g = scene.gaussians
    near_plane = scene.near_plane()
    behind = torch.tensor([background]).to(g.means)
    for index in range(len(cameras)):
        camera = cameras[index].to(g.device)
        rendered, alphas, info = rasterization(
            g.means, g.quats, g.scales, g.opacities, g.sh,
            camera.viewmats, camera.Ks, camera.width, camera.height,
            near_plane=near_plane, sh_degree=g.sh_degree, backgrounds=behind,
            render_mode="RGB+ED", rasterize_mode="antialiased",
        )  # fmt: skip
        picture, depths = rendered[0, ..., :3].permute(2, 0, 1).clamp(0, 1), rendered[0, ..., 3]
        visible = (info["radii"][0] > 0).all(dim=-1)
        needles = needle_share(info["conics"][0], visible, max(camera.width, camera.height))
        yield Shot(camera, picture, alphas[0, ..., 0], depths), needles
