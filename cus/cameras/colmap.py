"""COLMAP models in and out, through pycolmap."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.transforms_json import PosedPhotos
from cus.errors import InputError

# Where in COLMAP's parameters fx fy cx cy and OpenCV's k1 k2 p1 p2 k3 k4 k5 k6 stand; missing ones are zero.
_LENSES: dict[str, tuple[tuple[int, int, int, int], tuple[int, ...]]] = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), ()),
    "PINHOLE": ((0, 1, 2, 3), ()),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), (3,)),
    "RADIAL": ((0, 0, 1, 2), (3, 4)),
    "OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7)),
    "FULL_OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11)),
}


def _lens(camera: Any, where: str) -> tuple[Tensor, list[float]]:
    name = camera.model.name
    if name not in _LENSES:
        raise InputError(f"{where}: COLMAP camera model {name} is not supported; run COLMAP's image_undistorter first")
    params = [float(p) for p in camera.params]
    (fx, fy, cx, cy), lens = _LENSES[name]
    K = torch.tensor([[params[fx], 0, params[cx]], [0, params[fy], params[cy]], [0, 0, 1]], dtype=torch.float32)
    distortion = [params[i] for i in lens]
    return K, distortion + [0.0] * (8 - len(distortion))


def load_colmap(model: Path | str, images: Path | str) -> PosedPhotos:
    """Read a COLMAP model (binary or text) whose photographs lie below the folder `images`, ordered by name.

    COLMAP's axes and pixel centres are the project's.

    Raises:
        InputError: no model in the folder, no registered image, or a lens that OpenCV's model does not cover.
    """
    import pycolmap

    try:
        reconstruction = pycolmap.Reconstruction(str(model))
    except (ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"no COLMAP model in {model} (expected cameras, images and points3D, .bin or .txt): {error}"
        ) from error
    registered = sorted((i for i in reconstruction.images.values() if i.has_pose), key=lambda i: i.name)
    if not registered:
        raise InputError(f"the COLMAP model in {model} has no registered image")
    viewmats = torch.eye(4).repeat(len(registered), 1, 1)
    Ks, sizes, distortion = [], [], []
    for index, image in enumerate(registered):
        viewmats[index, :3] = torch.from_numpy(np.asarray(image.cam_from_world().matrix())).float()
        camera = reconstruction.cameras[image.camera_id]
        K, lens = _lens(camera, f"{model}, image {image.name}")
        Ks.append(K)
        sizes.append((int(camera.width), int(camera.height)))
        distortion.append(lens)
    paths = tuple(Path(images) / image.name for image in registered)
    return PosedPhotos(paths, viewmats, torch.stack(Ks), tuple(sizes), torch.tensor(distortion, dtype=torch.float64))


def save_colmap(
    folder: Path | str,
    cameras: Cameras,
    names: Sequence[str],
    points: Tensor | None = None,
    colors: Tensor | None = None,
) -> None:
    """Write a binary COLMAP model: one PINHOLE camera an image.

    Args:
        folder: is made where it does not exist.
        cameras: N cameras.
        names: N picture names, relative to the folder of pictures.
        points: [M, 3] world points, or None.
        colors: [M, 3] RGB in [0, 1], or None for black points.
    """
    import pycolmap

    if len(names) != len(cameras):
        raise ValueError(f"expected {len(cameras)} names, got {len(names)}")
    reconstruction = pycolmap.Reconstruction()
    for index, name in enumerate(names, start=1):
        K = cameras.Ks[index - 1].cpu().double()
        params = [K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item()]
        camera = pycolmap.Camera(
            model="PINHOLE", width=cameras.width, height=cameras.height, params=params, camera_id=index
        )
        reconstruction.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=name, camera_id=index, image_id=index)
        pose = pycolmap.Rigid3d(cameras.viewmats[index - 1, :3].cpu().double().numpy())
        reconstruction.add_image_with_trivial_frame(image, pose)
    if points is not None:
        rgb = torch.zeros_like(points) if colors is None else colors
        bytes_ = (rgb.cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        for point, color in zip(points.cpu().double().numpy(), bytes_, strict=True):
            reconstruction.add_point3D(point, pycolmap.Track(), color)
    Path(folder).mkdir(parents=True, exist_ok=True)
    reconstruction.write(str(folder))
