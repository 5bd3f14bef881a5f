"""KITTI drives: raw recordings with their GPS and inertial poses, and odometry sequences (Geiger et al. 2012, 2013).

- Raw: frames in `DATE/DRIVE_sync/image_02/data`, poses in `DATE/DRIVE_sync/oxts/data`, one file each; calibration in
  `DATE/calib_cam_to_cam.txt`, `calib_velo_to_cam.txt` and `calib_imu_to_velo.txt`.
- Odometry: frames in `sequences/NN/image_2`, calibration in `sequences/NN/calib.txt`, poses in `poses/NN.txt`.

The left colour camera is read (the left grey one where there is no colour); lengths are in metres. Frames are those
that are on disk, by their numbers, so that every tenth frame alone is a drive, too.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cus.cameras import PosedPhotos
from cus.cameras.photos import inspect_photo
from cus.cameras.picture_files import picture_files
from cus.cameras.posed import posed_photos
from cus.errors import InputError

RAW_CALIBRATION = ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt", "calib_imu_to_velo.txt")
RAW_CAMERAS, ODOMETRY_CAMERAS = ("image_02", "image_00"), ("image_2", "image_0")
EARTH_RADIUS = 6378137.0  # metres, of the development kit's Mercator projection


def is_kitti(folder: Path) -> bool:
    """Whether a folder is a raw drive or an odometry sequence with pictures of the left camera."""
    raw = (folder / "oxts" / "data").is_dir() and any((folder / name / "data").is_dir() for name in RAW_CAMERAS)
    odometry = (folder / "calib.txt").is_file() and any((folder / name).is_dir() for name in ODOMETRY_CAMERAS)
    return raw or odometry


def load_kitti(folder: Path | str, images: Path | str | None = None) -> PosedPhotos:
    """Read the frames of a drive or sequence, in the order of their numbers.

    Args:
        folder: `DATE/DRIVE_sync` of the raw data, or `sequences/NN` of the odometry benchmark.
        images: folder of the left colour camera's frames; by default that of the layout.

    Raises:
        InputError: a missing or damaged calibration or pose file, a frame without a pose, or no frames.
    """
    folder = Path(folder)
    raw = (folder / "oxts").is_dir()
    names = RAW_CAMERAS if raw else ODOMETRY_CAMERAS
    below = "data" if raw else "."
    camera = (
        next((name for name in names if (folder / name / below).is_dir()), names[0]) if images is None else names[0]
    )
    paths = _frames(Path(images) if images is not None else folder / camera / below)
    return _load_raw(folder, camera[-2:], paths) if raw else _load_odometry(folder, camera[-1], paths)


def _load_raw(folder: Path, number: str, paths: list[Path]) -> PosedPhotos:
    cameras, to_camera, to_velodyne = (_calibration(folder.parent / name) for name in RAW_CALIBRATION)
    where = folder.parent / RAW_CALIBRATION[0]
    projection = _numbers(cameras, f"P_rect_{number}", 12, where).reshape(3, 4)
    rectified = np.eye(4)
    rectified[:3, :3] = _numbers(cameras, "R_rect_00", 9, where).reshape(3, 3)
    velodyne_to_camera = _rigid(to_camera, folder.parent / RAW_CALIBRATION[1])
    inertial_to_velodyne = _rigid(to_velodyne, folder.parent / RAW_CALIBRATION[2])
    inertial_to_camera = _shifted(projection) @ rectified @ velodyne_to_camera @ inertial_to_velodyne
    poses = _inertial_poses([folder / "oxts" / "data" / f"{path.stem}.txt" for path in paths])
    return _posed(paths, poses @ np.linalg.inv(inertial_to_camera), projection[:, :3])


def _load_odometry(folder: Path, number: str, paths: list[Path]) -> PosedPhotos:
    calibration = folder / "calib.txt"
    projection = _numbers(_calibration(calibration), f"P{number}", 12, calibration).reshape(3, 4)
    file = folder.parent.parent / "poses" / f"{folder.resolve().name}.txt"
    if not file.is_file():
        raise InputError(f"there are no poses {file}; the benchmark has them for sequences 00 to 10 only")
    try:
        rows = np.loadtxt(file, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file} as lines of 12 numbers: {error}") from error
    if rows.shape[1] != 12 or not np.isfinite(rows).all():
        raise InputError(
            f"{file}: expected lines of 12 finite numbers (a 3x4 camera-to-world matrix), got {rows.shape}"
        )
    numbers = [_frame_number(path) for path in paths]
    if max(numbers) >= len(rows):
        raise InputError(f"{file} has {len(rows)} poses, but there is a frame {paths[int(np.argmax(numbers))].name}")
    poses = np.tile(np.eye(4), (len(paths), 1, 1))
    poses[:, :3] = rows[numbers].reshape(-1, 3, 4)
    return _posed(paths, poses @ np.linalg.inv(_shifted(projection)), projection[:, :3])


def _posed(paths: list[Path], c2w: np.ndarray, K: np.ndarray) -> PosedPhotos:
    photos = [inspect_photo(path, upright=False) for path in paths]
    Ks = torch.from_numpy(K).repeat(len(paths), 1, 1)
    sizes = tuple((photo.width, photo.height) for photo in photos)
    return posed_photos(paths, torch.from_numpy(c2w), Ks, sizes, wheres=[str(path) for path in paths])


def _shifted(projection: np.ndarray) -> np.ndarray:
    """[4, 4] from the rectified first camera to the one with projection K [I | t], [3, 4]."""
    shift = np.eye(4)
    shift[:3, 3] = np.linalg.solve(projection[:, :3], projection[:, 3])
    return shift


def _inertial_poses(paths: list[Path]) -> np.ndarray:
    """[V, 4, 4] inertial unit to world: a Mercator projection in metres at the first frame's latitude and place.

    A file holds latitude, longitude, altitude, roll, pitch and yaw, then 24 other numbers.
    """
    latitudes, longitudes, altitudes, *angles = np.stack([_inertial_values(path) for path in paths]).T
    scale = EARTH_RADIUS * np.cos(np.radians(latitudes[0]))
    east = scale * np.radians(longitudes)
    north = scale * np.log(np.tan(np.pi / 4 + np.radians(latitudes) / 2))
    poses = np.tile(np.eye(4), (len(paths), 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("xyz", np.stack(angles, axis=1)).as_matrix()
    poses[:, :3, 3] = np.stack([east - east[0], north - north[0], altitudes - altitudes[0]], axis=1)
    return poses


def _inertial_values(path: Path) -> np.ndarray:
    try:
        values = np.array(path.read_text().split()[:6], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the pose {path}: {error}") from error
    if values.shape != (6,) or not np.isfinite(values).all() or abs(values[0]) >= 90:
        raise InputError(f"{path}: expected latitude, longitude, altitude, roll, pitch and yaw, got {values.tolist()}")
    return values


def _frames(folder: Path) -> list[Path]:
    paths = sorted(picture_files(folder), key=_frame_number)
    if not paths:
        raise InputError(f"there are no frames in {folder}; expected 0000000000.png and so on")
    return paths


def _frame_number(path: Path) -> int:
    if not path.stem.isdecimal():
        raise InputError(f"{path}: frames are named by their number, like 0000000000.png")
    return int(path.stem)


def _calibration(path: Path) -> dict[str, str]:
    """Names and values of a calibration file's lines."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the calibration {path}: {error}") from error
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): values for name, _, values in pairs}


def _numbers(values: Mapping[str, str], name: str, count: int, where: Path) -> np.ndarray:
    try:
        found = np.array(values[name].split(), dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise InputError(f"{where} has no line {name} of {count} numbers: {error}") from error
    if found.shape != (count,) or not np.isfinite(found).all():
        raise InputError(f"{where}, {name}: expected {count} finite numbers, got {found.size}")
    return found


def _rigid(values: Mapping[str, str], where: Path) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = _numbers(values, "R", 9, where).reshape(3, 3)
    motion[:3, 3] = _numbers(values, "T", 3, where)
    return motion
