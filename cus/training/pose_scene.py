"""Poses photographs or a video's frames with COLMAP, as a scene to make clips of; data/pose_scene.py is its command."""

import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from cus.cameras.picture_files import picture_files
from cus.errors import InputError
from cus.estimators.sfm import quiet
from cus.files import explained
from cus.inference.video_frames import choose_frames
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.runtime import signal_handlers_kept
from cus.training import config
from cus.training.scripts import REMEDY

MODEL = "sparse/0"
PLANNED = ("settings.yaml", "images/*", f"{MODEL}/*.bin")
# Up to this many photographs are matched in all pairs.
FEW = 40
# Frames of one camera and zoom; lenses with more distortion than one term are rare in videos.
LENS = "SIMPLE_RADIAL"
# Degrees between neighbouring frames; with more they would hardly overlap.
MOST_TURN = 60.0


@dataclass
class SceneToPose:
    """Settings of a scene to pose.

    Attributes:
        out: output folder of `images/` and a COLMAP model in `sparse/0/`.
        photographs: a video, or a folder of photographs in the order of their names.
        frames: number of frames of a video: of each of as many equal parts of its duration the sharpest.
        overlap: number of next frames with which each is matched; up to 40 photographs of a folder are matched in all
            pairs.
        longest_side: photographs are shrunk to this many pixels for the search for features.
        one_camera: whether all photographs have the same lens and zoom; always so for a video.
        least_share: smallest share of the photographs that must be placed.
        threads: number of threads; 0: all cores. With 1 the result is the same every time.
    """

    out: str = MISSING
    photographs: str = MISSING
    frames: int = limited(60, low=3, high=1000)
    overlap: int = limited(10, low=1, high=100)
    longest_side: int = limited(1600, low=64, high=8192)
    one_camera: bool = True
    least_share: float = limited(0.5, low=0, high=1)
    threads: int = limited(0, low=0, high=1024)


def build(settings: SceneToPose, on_progress: Callable[[int, int, str], None], say: Callable[[str], None]) -> None:
    """Copy the photographs and place them. A scene that is done is left as it is; a killed run starts again.

    Args:
        settings: settings of the scene.
        on_progress: called with (parts done, parts, current work).
        say: called with each note, and with the result.

    Raises:
        InputError: no photographs or video, or too few of them can be placed.
    """
    source = Path(settings.photographs)
    if not source.exists():
        raise InputError(f"there is no {source}; give a video, or a folder of photographs")
    pictures = picture_files(source) if source.is_dir() else []
    if source.is_dir() and len(pictures) < 3:
        raise InputError(f"{source} has {len(pictures)} photographs; at least three that overlap are needed")
    folder = OutputFolder(Path(settings.out), "a posed scene", REMEDY)
    folder.open(PLANNED, inputs=[source])
    try:
        config.write(settings, folder, "settings.yaml", ("out", "threads"))
        if folder.is_ours(f"{MODEL}/images.bin"):
            say(f"{settings.out} is posed already; delete {MODEL} to pose it again")
            return
        on_progress(0, 4, "copying photographs")
        for name, write in _pictures(source, pictures, settings.frames, say):
            if not folder.is_ours(f"images/{name}"):
                folder.write(f"images/{name}", write)
        images = picture_files(folder.path / "images")
        part = folder.part("model")
        with explained(part, REMEDY), tempfile.TemporaryDirectory(dir=part) as work:
            best = _placed(settings, folder.path / "images", Path(work), source.is_file(), on_progress)
            if best is None or len(best.reg_image_ids()) < max(settings.least_share * len(images), 2):
                count = 0 if best is None else len(best.reg_image_ids())
                raise InputError(
                    f"only {count} of {len(images)} photographs of {source} could be placed (least_share="
                    f"{settings.least_share:g}); they need overlap, texture and a moving camera: take more (frames=), "
                    "match more (overlap=), or lower least_share"
                )
            best.write(part)
        _keep_model(folder, part)
        say(_told(best, images))
        for note in jumps(best) if source.is_file() else []:
            say(note)
    finally:
        folder.close()
    on_progress(4, 4, "done")


def _pictures(
    source: Path, pictures: list[Path], count: int, say: Callable[[str], None]
) -> list[tuple[str, Callable[[Path], Any]]]:
    """Names and writers of the scene's photographs."""
    if source.is_dir():
        return [(path.name, lambda part, path=path: shutil.copyfile(path, part)) for path in pictures]
    with source.open("rb") as file:
        frames, notes = choose_frames(source, file.read(64), count, whole=True)
    for note in notes:
        say(note)
    if len(frames) < 3:
        raise InputError(f"{source} gives {len(frames)} frames; at least three are needed")
    return [
        (f"{round(1000 * frame.seconds):08d}.png", lambda part, frame=frame: part.write_bytes(frame.png()))
        for frame in frames
    ]


def _placed(
    settings: SceneToPose, images: Path, work: Path, is_video: bool, on_progress: Callable[[int, int, str], None]
) -> Any:
    """The largest reconstruction of a folder of photographs, or None."""
    with signal_handlers_kept():
        import pycolmap

    database = work / "database.db"
    threads = settings.threads or -1
    extraction = pycolmap.FeatureExtractionOptions(num_threads=threads, max_image_size=settings.longest_side)
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads)
    mapping = pycolmap.IncrementalPipelineOptions(num_threads=threads, random_seed=0)
    # Otherwise a camera per photograph: a zoom lens moves between photographs of different sizes, too.
    mode = pycolmap.CameraMode.SINGLE if settings.one_camera or is_video else pycolmap.CameraMode.PER_IMAGE
    with quiet():
        pycolmap.set_random_seed(0)
        on_progress(1, 4, "searching for features")
        pycolmap.extract_features(
            database,
            images,
            camera_mode=mode,
            reader_options=pycolmap.ImageReaderOptions(camera_model=LENS),
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        on_progress(2, 4, "matching")
        if len(picture_files(images)) <= FEW and not is_video:
            pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
        else:
            # Not farther ones as well: the back of a can that looks like its front folds the whole path.
            pairs = pycolmap.SequentialPairingOptions(overlap=settings.overlap, quadratic_overlap=False)
            pycolmap.match_sequential(
                database, matching_options=matching, pairing_options=pairs, device=pycolmap.Device.cpu
            )
        on_progress(3, 4, "placing")
        found = pycolmap.incremental_mapping(database, images, work, options=mapping)
    return max(found.values(), key=lambda model: len(model.reg_image_ids()), default=None)


def _keep_model(folder: OutputFolder, part: Path) -> None:
    """Move the model's files to their place; `images.bin` last, which marks it as complete."""
    names = sorted((path.name for path in part.glob("*.bin")), key=lambda name: name == "images.bin")
    for name in names:
        folder.write(f"{MODEL}/{name}", lambda path, name=name: shutil.copyfile(part / name, path))
    shutil.rmtree(part)


def jumps(model: Any) -> list[str]:
    """A note for each pair of neighbouring frames of a video between which the camera seems to have turned around."""
    placed = sorted((model.image(index) for index in model.reg_image_ids()), key=lambda image: image.name)
    notes = []
    for one, other in pairwise(placed):
        turn = other.cam_from_world().rotation * one.cam_from_world().rotation.inverse()
        degrees = math.degrees(turn.angle())
        if degrees > MOST_TURN:
            notes.append(
                f"between {one.name} and {other.name} the camera turns by {degrees:.0f} degrees: parts of the scene "
                "look alike, and later frames may be misplaced; take more frames=, or only a part of the video"
            )
    return notes


def _told(model: Any, images: list[Path]) -> str:
    """A one-line summary of a reconstruction."""
    placed = {model.image(index).name for index in model.reg_image_ids()}
    missing = [path.name for path in images if path.name not in placed]
    more = f", {len(missing) - 6} more" if len(missing) > 6 else ""
    left = f"; not placed: {', '.join(missing[:6])}{more}" if missing else ""
    error = model.compute_mean_reprojection_error()
    return (
        f"{len(placed)} of {len(images)} photographs placed, {model.num_points3D()} points, mean reprojection error "
        f"{error:.2f} px{left}"
    )
