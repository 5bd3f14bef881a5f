"""Reads and writes COLMAP models (writing uses pycolmap)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.colmap_files import read_model
from cus.cameras.picture_files import PictureFinder
from cus.cameras.posed import PosedPhotos, posed_photos
from cus.errors import InputError
from cus.runtime import signal_handlers_kept
from cus.tensor_files import to_bytes


def load_colmap(model: Path | str, images: Path | str) -> PosedPhotos:
    """Read a COLMAP model (binary or text) with photographs below the folder `images`, ordered by name.

    COLMAP's axes and pixel centres are the project's.

    Raises:
        InputError: no model in the folder, no registered image, a damaged file, or an invalid camera or pose.
    """
    model = Path(model)
    cameras, registered = read_model(model)
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(registered), 1, 1)
    quaternions = np.array([image.quaternion for image in registered])
    w2c[:, :3, :3] = torch.from_numpy(Rotation.from_quat(quaternions, scalar_first=True).as_matrix())
    w2c[:, :3, 3] = torch.tensor([image.translation for image in registered], dtype=torch.float64)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(registered), 1, 1)
    c2w[:, :3, :3] = w2c[:, :3, :3].mT
    c2w[:, :3, 3] = -(w2c[:, :3, :3].mT @ w2c[:, :3, 3:])[..., 0]
    own = [cameras[image.camera] for image in registered]
    Ks = torch.eye(3, dtype=torch.float64).repeat(len(own), 1, 1)
    Ks[:, 0, 0], Ks[:, 1, 1] = torch.tensor([camera.focal for camera in own], dtype=torch.float64).T
    Ks[:, :2, 2] = torch.tensor([camera.center for camera in own], dtype=torch.float64)
    finder = PictureFinder()
    return posed_photos(
        [finder.below(Path(images), image.name)[0] for image in registered],
        c2w,
        Ks,
        [(camera.width, camera.height) for camera in own],
        lenses=[camera.lens for camera in own],
        wheres=[f"{model}, image {image.name[-60:]}" for image in registered],
    )


def save_colmap(
    folder: Path | str,
    cameras: Cameras | Sequence[Cameras],
    names: Sequence[str],
    points: Tensor | None = None,
    colors: Tensor | None = None,
    seen: Sequence[Tensor] | None = None,
    origin: Tensor | None = None,
) -> None:
    """Write a binary COLMAP model with one PINHOLE camera per image.

    Args:
        folder: folder of the model; created if it does not exist.
        cameras: N cameras, in batches of any image sizes.
        names: N picture names, relative to the folder of pictures.
        points: [M, 3] world points, or None.
        colors: [M, 3] RGB in [0, 1], or None for black points.
        seen: for each of the N pictures the indices of the points that it observes at their projections
            (`visible_points`); None: no observations.
        origin: [3] float64 origin of the world of cameras and points (`PosedPhotos.origin`), which is added back: the
            model is in float64.

    Raises:
        InputError: the model could not be written completely.
    """
    with signal_handlers_kept():
        import pycolmap

    views = [batch[i] for batch in ([cameras] if isinstance(cameras, Cameras) else cameras) for i in range(len(batch))]
    if len(names) != len(views) or (seen is not None and len(seen) != len(views)):
        raise ValueError(f"expected {len(views)} names and lists of points, got {len(names)}")
    xyz = torch.zeros(0, 3, dtype=torch.float64) if points is None else points.detach().cpu().double()
    moved = torch.zeros(3, dtype=torch.float64) if origin is None else origin.double()
    tracks = [pycolmap.Track() for _ in range(len(xyz))]
    reconstruction = pycolmap.Reconstruction()
    for index, (view, name) in enumerate(zip(views, names, strict=True), start=1):
        K = view.Ks[0].cpu().double()
        params = [K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item()]
        camera = pycolmap.Camera(model="PINHOLE", width=view.width, height=view.height, params=params, camera_id=index)
        reconstruction.add_camera_with_trivial_rig(camera)
        observed = torch.zeros(0, dtype=torch.long) if seen is None else seen[index - 1].cpu()
        viewmat = view.viewmats.cpu().double()
        pixels = Cameras(viewmat, K[None], view.width, view.height).project(xyz[observed])[0][0].numpy()
        image = pycolmap.Image(name=name, keypoints=pixels, camera_id=index, image_id=index)
        # Far from zero, a single-precision rotation would move the centre.
        rotation = torch.from_numpy(Rotation.from_matrix(viewmat[0, :3, :3].numpy()).as_matrix())
        center = moved - viewmat[0, :3, :3].T @ viewmat[0, :3, 3]
        pose = torch.cat([rotation, -(rotation @ center)[:, None]], dim=1)
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose.numpy()))
        for place, point in enumerate(observed.tolist()):
            tracks[point].add_element(index, place)
    rgb = torch.zeros_like(xyz) if colors is None else colors.detach().cpu()
    bytes_ = to_bytes(rgb).numpy()
    for point, track, color in zip((xyz + moved).numpy(), tracks, bytes_, strict=True):
        reconstruction.add_point3D(point, track, color)
    reconstruction.update_point_3d_errors()
    _write_whole_model(reconstruction, Path(folder))


def _write_whole_model(reconstruction: Any, folder: Path) -> None:
    """Write a model and check that it is complete: COLMAP itself does not notice a full disk."""
    images, points = reconstruction.images.values(), reconstruction.points3D.values()
    # Sizes follow from COLMAP's documented layout of binary models.
    expected = {
        "cameras.bin": 8 + reconstruction.num_cameras() * (24 + 4 * 8),
        "images.bin": 8 + sum(64 + len(i.name.encode()) + 1 + 8 + 24 * i.num_points2D() for i in images),
        "points3D.bin": 8 + sum(51 + 8 * p.track.length() for p in points),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reconstruction.write(str(folder))
        sizes = {name: (folder / name).stat().st_size for name in expected}
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot write a COLMAP model to {folder}: {error}") from error
    cut = [name for name, size in sizes.items() if size != expected[name]]
    if cut:
        raise InputError(f"the COLMAP model in {folder} is not whole ({', '.join(cut)}); is the disk full?")


def visible_points(cameras: Cameras | Sequence[Cameras], points: Tensor, *, most_views: int = 3) -> list[Tensor]:
    """The points that each camera sees, judged from the points themselves, for models whose tracks other programs use.

    A camera's picture is divided into cells of a few points each; a point is visible if it is at most 2 % farther than
    the nearest point of its cell. `most_views` of the cameras that see a point are kept, in turn, so that the
    observations are spread over all pictures. A point that is hidden in all pictures goes to a camera whose picture
    contains it.

    Args:
        cameras: N cameras, in batches of any image sizes.
        points: [M, 3] world points.
        most_views: maximum number of cameras per point.

    Returns:
        N tensors of ascending point indices.
    """
    views = [batch[i] for batch in ([cameras] if isinstance(cameras, Cameras) else cameras) for i in range(len(batch))]
    # Ratio of a point's depth to the nearest one's; infinite where a point falls outside the picture.
    ratios = torch.stack([_behind(view, points) for view in views])
    seen = ratios <= 1.02
    lost = ~seen.any(dim=0)
    best = ratios.argmin(dim=0)
    columns = torch.arange(len(points))
    seen[best[lost], columns[lost]] = torch.isfinite(ratios[best[lost], columns[lost]])
    turn = (torch.arange(len(views))[:, None] - columns[None]) % len(views)
    turn[~seen] = len(views)
    limit = turn.kthvalue(min(most_views, len(views)), dim=0).values
    return [((turn[i] <= limit) & seen[i]).nonzero().squeeze(1) for i in range(len(views))]


def _behind(view: Cameras, points: Tensor) -> Tensor:
    """[M] ratio of each point's depth to that of the nearest point in its cell; infinite outside the picture."""
    pixels, depths = (values[0] for values in view.project(points))
    inside = (
        (depths > 0) & (pixels >= 0).all(dim=1) & (pixels < pixels.new_tensor([view.width, view.height])).all(dim=1)
    )
    ratios = torch.full_like(depths, float("inf"))
    if not bool(inside.any()):
        return ratios
    size = max(1.0, (4 * view.width * view.height / int(inside.sum())) ** 0.5)
    across = int(view.width / size) + 1
    cells = (pixels[inside] / size).long()
    cells = cells[:, 1] * across + cells[:, 0]
    nearest = depths.new_full((int(cells.max()) + 1,), float("inf")).scatter_reduce(0, cells, depths[inside], "amin")
    ratios[inside] = depths[inside] / nearest[cells]
    return ratios
