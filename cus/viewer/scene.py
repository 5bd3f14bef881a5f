"""The scene to view: Gaussians and, if a folder has them, photographs, frames and points."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos, load_transforms
from cus.cameras.transforms_json import read_json
from cus.datasets.scenes import open_cameras, open_scene
from cus.errors import InputError
from cus.splats import Gaussians, read_splats
from cus.splats.ply import load_point_cloud
from cus.tensor_files import to_bytes

SPLAT_FILES = ("splat.ply", "splat.spz", "splat.splat")
# For a scene without cameras: picture size in pixels, and vertical field of view as focal / height.
DEFAULT_SIZE = (1280, 720)
DEFAULT_FOCAL = 1.0


@dataclass(frozen=True)
class Points:
    """A coloured point cloud.

    Attributes:
        positions: [N, 3] float32 in scene units.
        colors: [N, 3] uint8 RGB.
    """

    positions: np.ndarray
    colors: np.ndarray


@dataclass(frozen=True)
class ViewScene:
    """A scene to view.

    Attributes:
        name: name of the file or folder, for titles.
        gaussians: Gaussians of the scene.
        photos: photographs with their cameras, or None.
        frames: frames of the run's path with their cameras, or None.
        points: fused point cloud, or None.
        notes: messages for the user about what was found.
    """

    name: str
    gaussians: Gaussians
    photos: PosedPhotos | None = None
    frames: PosedPhotos | None = None
    points: Points | None = None
    notes: tuple[str, ...] = ()

    def first_camera(self) -> Cameras:
        """The start camera: the first photograph's, else the path's first, else one that sees everything."""
        posed = self.photos or self.frames
        return default_camera(self.gaussians) if posed is None else camera_of(posed, 0)

    def unit(self) -> float:
        """A typical distance in scene units: the median z-depth of the Gaussians in front of the first camera."""
        _, depths = self.first_camera().project(self.gaussians.means)
        seen = depths[depths > 0]
        return seen.median().item() if seen.numel() else max(robust_bounds(self.gaussians)[1].max().item(), 1e-6)

    def near_plane(self) -> float:
        """Near plane for pictures of this scene in scene units: a hundredth of `unit`."""
        return 0.01 * self.unit()


def camera_of(posed: PosedPhotos, index: int) -> Cameras:
    """One photograph's pinhole camera, in pixels of its file."""
    width, height = posed.sizes[index]
    return Cameras(posed.viewmats[index : index + 1], posed.Ks[index : index + 1], width, height)


def picture_of(posed: PosedPhotos, index: int, longest_side: int) -> np.ndarray | None:
    """[h, w, 3] uint8 RGB, undistorted and shrunk to a longest side in pixels; None if the file is missing or bad."""
    width, height = posed.sizes[index]
    scale = min(1.0, longest_side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    try:
        images, _ = posed.select([index]).load(*size)
    except InputError:
        return None
    return to_bytes(images[0].permute(1, 2, 0)).numpy()


def robust_bounds(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    """Centre [3] and half sizes [3] of the box from the 5th to the 95th percentile of the centres along each axis.

    A few stray Gaussians far away do not affect it.
    """
    order = gaussians.means.sort(dim=0).values
    last = len(gaussians) - 1
    low, high = order[round(0.05 * last)], order[round(0.95 * last)]
    return (low + high) / 2, (high - low) / 2


def default_camera(gaussians: Gaussians) -> Cameras:
    """A camera for a scene without any: it looks along +z, y down, and sees the robust bounds."""
    center, half = robust_bounds(gaussians)
    width, height = DEFAULT_SIZE
    focal = DEFAULT_FOCAL * height
    distance = max(half[0].item() * 2 * focal / width, half[1].item() * 2 * focal / height)
    back = max(distance + half[2].item(), half.max().item(), 1e-6)
    viewmat = torch.eye(4)
    viewmat[:3, 3] = -(center.cpu() - torch.tensor([0.0, 0.0, back]))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(viewmat[None], K[None], width, height)


def load_scene(path: Path | str, cameras: Path | str | None = None) -> ViewScene:
    """Read an output folder, or a splat file with the cameras of a `transforms.json`, if given.

    Raises:
        InputError: the path does not exist, contains no Gaussians, or a file cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such file or folder: {path}; give an output folder of cus-infer, or a splat file")
    if cameras is not None and not Path(cameras).exists():
        raise InputError(f"no such cameras file: {cameras}; give a transforms.json")
    splat, points, notes = path, None, []
    if path.is_dir():
        splat = _splat_file(path)
        beside = path / "transforms.json"
        cameras = cameras or (beside if beside.exists() else None)
        points = load_points(path / "points.ply") if (path / "points.ply").exists() else None
    stored = read_splats(splat)
    notes += stored.notes
    if stored.gaussians.rates is not None:
        notes.append("the scene has levels of detail: recordings show them, the browser the finest one everywhere")
    photos = frames = None
    if cameras is None:
        notes.append("no cameras: looking along +z at the bulk of the Gaussians; --cameras names a transforms.json")
    else:
        photos, frames = _load_cameras(Path(cameras))
    return ViewScene(path.resolve().name, stored.gaussians, photos, frames, points, tuple(notes))


def _splat_file(folder: Path) -> Path:
    for name in SPLAT_FILES:
        if (folder / name).exists():
            return folder / name
    raise InputError(
        f"{folder} holds no Gaussian scene (expected {', '.join(SPLAT_FILES)}); finish the run with cus-infer --resume"
    )


def _load_cameras(path: Path) -> tuple[PosedPhotos, PosedPhotos | None]:
    """Photographs and the frames of the run's path; another program's file only has photographs, called frames."""
    file = path / "transforms.json" if path.is_dir() else path
    if file.suffix.lower() == ".json" and file.is_file() and "photos" in read_json(file):
        return load_transforms(file, "photos"), load_transforms(file)
    try:
        return open_scene(path), None
    except InputError:
        # Cameras are useful without their photographs; problems with the cameras themselves are reported here.
        return open_cameras(path), None


def load_points(path: Path) -> Points:
    """Read coloured points written by `cus.splats.save_point_cloud`. Raises InputError for another file."""
    points, colors = load_point_cloud(path)
    return Points(points.numpy(), to_bytes(colors).numpy())
