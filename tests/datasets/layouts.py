"""One small rendered scene, written in the layouts that data sets come in."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from cus.cameras import Cameras, save_transforms
from cus.cameras.colmap import save_colmap
from procedural.tracer import random_scene, render, sample_reference_cameras

# Of KITTI's development kit, and a place in Karlsruhe.
EARTH_RADIUS, LATITUDE = 6378137.0, 49.01
TIMESTAMPS = ["48448400", "48481767", "48515133", "48548500"]


@lru_cache
def procedural_views(count: int = 3, width: int = 96, height: int = 64) -> tuple[Tensor, Cameras]:
    """(images [count, 3, height, width], cameras) of photographs side by side."""
    scene = random_scene(3)
    cameras = sample_reference_cameras(scene, 3, width, height, views=count)
    return render(scene, cameras)[0], cameras


def write_pictures(folder: Path, images: Tensor, names: list[str], shrink: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        if shrink > 1:
            image = torch.nn.functional.avg_pool2d(image[None], shrink)[0]
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(folder / name)


def frame_names(count: int) -> list[str]:
    return [f"{i:04d}.png" for i in range(count)]


def write_transforms(folder: Path, images: Tensor, cameras: Cameras) -> None:
    """nerfstudio: transforms.json beside images/."""
    names = frame_names(len(images))
    write_pictures(folder / "images", images, names)
    save_transforms(folder / "transforms.json", cameras, [f"images/{name}" for name in names])


def write_dl3dv(folder: Path, images: Tensor, cameras: Cameras, scale: int = 4, below: str = "nerfstudio") -> None:
    """DL3DV: below a scene's hash one set of intrinsics, of the full size, and photographs of another scale only."""
    names = [f"frame_{i + 1:05d}.png" for i in range(len(images))]
    place = folder / below
    write_pictures(place / f"images_{scale}", images, names)
    full = cameras.resized(cameras.width * scale, cameras.height * scale)
    save_transforms(place / "transforms.json", full, [f"images/{name}" for name in names])
    content = json.loads((place / "transforms.json").read_text())
    shared = {key: content["frames"][0][key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    frames = [{k: v for k, v in f.items() if k not in shared} | {"colmap_im_id": 1} for f in content["frames"]]
    extra = {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "applied_transform": np.eye(4)[:3].tolist()}
    (place / "transforms.json").write_text(json.dumps({**content, **shared, **extra, "frames": frames}))


def write_colmap(folder: Path, images: Tensor, cameras: Cameras, model: str = "sparse/0", scale: int = 1) -> None:
    """COLMAP: a model whose cameras are `scale` times as large as the photographs in images or images_<scale>."""
    names = frame_names(len(images))
    write_pictures(folder / ("images" if scale == 1 else f"images_{scale}"), images, names)
    save_colmap(folder / model, cameras.resized(cameras.width * scale, cameras.height * scale), names)


def write_llff(folder: Path, images: Tensor, cameras: Cameras, scale: int = 1) -> None:
    """LLFF: 3x5 matrices (down, right, back, centre, size and focal) and two bounds, by the format's own words."""
    rows = []
    for c2w, K in zip(cameras.c2w.double().numpy(), cameras.Ks.double().numpy(), strict=True):
        right, down, forward, center = c2w[:3].T
        size = [cameras.height * scale, cameras.width * scale, K[0, 0] * scale]
        matrix = np.stack([down, right, -forward, center, np.array(size)], axis=1)
        rows.append(np.concatenate([matrix.ravel(), [1.0, 9.0]]))
    write_pictures(folder / ("images" if scale == 1 else f"images_{scale}"), images, frame_names(len(images)))
    np.save(folder / "poses_bounds.npy", np.array(rows))


def camera_lines(cameras: Cameras) -> list[str]:
    """Lines of a RealEstate10K file without the first."""
    lines = []
    stamps, viewmats, Ks = TIMESTAMPS[: len(cameras)], cameras.viewmats.double(), cameras.Ks.double()
    for stamp, viewmat, K in zip(stamps, viewmats, Ks, strict=True):
        numbers = [K[0, 0] / cameras.width, K[1, 1] / cameras.height, K[0, 2] / cameras.width, K[1, 2] / cameras.height]
        values = [float(n) for n in numbers] + [0.0, 0.0] + viewmat[:3].flatten().tolist()
        lines.append(" ".join([stamp, *(f"{value:.9f}" for value in values)]))
    return lines


def write_realestate(cameras_file: Path, frames: Path, images: Tensor, cameras: Cameras) -> None:
    """RealEstate10K and ACID: ID.txt and a folder of <timestamp>.png."""
    cameras_file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["https://www.youtube.com/watch?v=abcdefghijk", *camera_lines(cameras)]
    cameras_file.write_text("\n".join(lines) + "\n")
    write_pictures(frames, images, [f"{stamp}.png" for stamp in TIMESTAMPS[: len(images)]])


def write_kitti_odometry(folder: Path, images: Tensor, cameras: Cameras) -> None:
    """KITTI odometry: ROOT/sequences/00 with the left colour camera beside the grey one, ROOT/poses/00.txt."""
    sequence = folder / "sequences" / "00"
    write_pictures(sequence / "image_2", images, [f"{i:06d}.png" for i in range(len(images))])
    K, shift = cameras.Ks[0].double().numpy(), np.array([0.06, -0.003, 0.004])
    lines = {"P0": np.c_[K, np.zeros(3)], "P2": np.c_[K, K @ shift]}
    (sequence / "calib.txt").write_text("".join(f"{k}: {_row(v)}\n" for k, v in lines.items()))
    to_camera = np.eye(4)
    to_camera[:3, 3] = shift
    (folder / "poses").mkdir(parents=True)
    poses = cameras.c2w.double().numpy() @ to_camera
    (folder / "poses" / "00.txt").write_text("".join(f"{_row(pose[:3])}\n" for pose in poses))


def write_kitti_raw(folder: Path, images: Tensor, cameras: Cameras) -> None:
    """KITTI raw: DATE/DRIVE_sync with GPS and inertial data, three calibration files beside it."""
    drive = folder / "2011_09_26" / "2011_09_26_drive_0001_sync"
    names = [f"{i:010d}" for i in range(len(images))]
    write_pictures(drive / "image_02" / "data", images, [f"{name}.png" for name in names])
    K, shift = cameras.Ks[0].double().numpy(), np.array([0.06, -0.003, 0.004])
    rectified = Rotation.from_rotvec([0.01, -0.02, 0.005]).as_matrix()
    motions = {
        "velo_to_cam": (Rotation.from_rotvec([1.2, -1.1, 1.2]).as_matrix(), np.array([-0.004, -0.07, -0.27])),
        "imu_to_velo": (Rotation.from_rotvec([0.0, 0.01, 0.02]).as_matrix(), np.array([-0.8, 0.32, -0.8])),
    }
    (drive.parent / "calib_cam_to_cam.txt").write_text(
        f"calib_time: 09-Jan-2012 13:57:47\nR_rect_00: {_row(rectified)}\nP_rect_02: {_row(np.c_[K, K @ shift])}\n"
    )
    chain = np.eye(4)
    chain[:3, 3] = shift
    chain = chain @ _rigid(rectified, np.zeros(3))
    for name, (R, T) in motions.items():
        (drive.parent / f"calib_{name}.txt").write_text(f"R: {_row(R)}\nT: {_row(T)}\n")
        chain = chain @ _rigid(R, T)
    poses = cameras.c2w.double().numpy() @ chain
    (drive / "oxts" / "data").mkdir(parents=True)
    scale = EARTH_RADIUS * np.cos(np.radians(LATITUDE))
    for name, pose in zip(names, poses, strict=True):
        # The world's x and y, from the first pose, laid on the map at a place in Karlsruhe.
        east, north, up = pose[:3, 3] - poses[0, :3, 3]
        start = np.log(np.tan(np.pi / 4 + np.radians(LATITUDE) / 2))
        latitude = np.degrees(2 * np.arctan(np.exp(start + north / scale))) - 90
        longitude = 8.4 + np.degrees(east / scale)
        angles = Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")
        values = [latitude, longitude, 116.4 + up, *angles, *np.zeros(24)]
        (drive / "oxts" / "data" / f"{name}.txt").write_text(_row(np.array(values)))


def _rigid(rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, shift
    return motion


def _row(values: np.ndarray) -> str:
    return " ".join(f"{value:.15g}" for value in values.ravel())
