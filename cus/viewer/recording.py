"""Records a camera path as a video, and measures its frames."""

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
from cus.tensor_files import to_bytes
from cus.viewer.requests import Color, Recording
from cus.viewer.scene import ViewScene
from cus.viewer.steadiness import FrameMeasures, Shot, Steadiness, compare, needle_share, uncovered_share

OnProgress = Callable[[int, int], None]


def sized(cameras: Cameras, longest_side: int) -> Cameras:
    """The same views with this longest side in pixels; both sides even, as video codecs require."""
    scale = longest_side / max(cameras.width, cameras.height)
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (cameras.width, cameras.height))
    return cameras.resized(width, height)


def check_output(path: Path, *, measure: bool, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise InputError if a video (and its measures) cannot be written, or would replace something without permission.

    Of the files next to the video only measures of an earlier recording are replaced, and never any of `inputs`.
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
    """Render a path and write it to `out` as an mp4, atomically.

    With `recording.measure`, the measures are written next to it as `<name>.json`, and returned.

    Args:
        scene: scene to render.
        path: T cameras; their picture size gives the aspect ratio.
        out: video file to write.
        recording: size, frame rate, background.
        on_progress: called with (frames done, total frames).

    Raises:
        InputError: an invalid size or number of frames, or a path that is not writable.
    """
    recording.check(len(path))
    cameras = sized(path, recording.size)
    pictures = np.empty((len(cameras), cameras.height, cameras.width, 3), np.uint8)
    measures: list[FrameMeasures] = []
    previous: tuple[Shot, float] | None = None
    for index, (shot, needles) in enumerate(shots(scene, cameras, recording.background)):
        pictures[index] = to_bytes(shot.picture.permute(1, 2, 0)).cpu().numpy()
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
    """Render cameras one by one, antialiased: a `Shot` and its fraction of needles each."""
    g = scene.gaussians
    near_plane = scene.near_plane()
    behind = torch.tensor([background]).to(g.means)
    for index in range(len(cameras)):
        camera = cameras[index].to(g.device)
        rendered, alphas, info = rasterization(
            g.means, g.quats, g.scales, g.opacities_in(camera), g.sh,
            camera.viewmats, camera.Ks, camera.width, camera.height,
            near_plane=near_plane, sh_degree=g.sh_degree, backgrounds=behind,
            render_mode="RGB+ED", rasterize_mode="antialiased",
        )  # fmt: skip
        picture, depths = rendered[0, ..., :3].permute(2, 0, 1).clamp(0, 1), rendered[0, ..., 3]
        visible = (info["radii"][0] > 0).all(dim=-1)
        needles = needle_share(info["conics"][0], visible, max(camera.width, camera.height))
        yield Shot(camera, picture, alphas[0, ..., 0], depths), needles
