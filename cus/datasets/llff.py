"""LLFF scenes: `poses_bounds.npy` next to a folder of photographs (Mildenhall et al. 2019)."""

from pathlib import Path

import numpy as np
import torch

from cus.cameras import PosedPhotos
from cus.cameras.conversions import opencv_c2w_from_llff_c2w
from cus.cameras.picture_files import picture_files
from cus.cameras.posed import posed_photos
from cus.datasets.stored_photos import SCALES
from cus.errors import InputError

FILE = "poses_bounds.npy"


def load_llff(folder: Path | str, images: Path | str | None = None) -> PosedPhotos:
    """Read the cameras of `poses_bounds.npy` and assign them to the photographs in name order.

    A row holds a 3x5 matrix, row by row, and two depth bounds: camera-to-world with axes down, right, back; the
    centre; and (height, width, focal length in pixels) of the original photographs. The principal point is the
    middle, and the lens has no distortion. Intrinsics are scaled to photographs of another size.

    Args:
        folder: folder of the file.
        images: folder of the photographs; by default the largest of images, images_2, images_4, images_8.

    Raises:
        InputError: a missing or damaged file, no photographs or a wrong number of them, or matrices that are not rigid.
    """
    folder = Path(folder)
    rows = _read(folder / FILE)
    candidates = [Path(images)] if images is not None else [folder / scale for scale in SCALES]
    paths = next((found for found in map(picture_files, candidates) if found), [])
    if len(paths) != len(rows):
        looked = ", ".join(str(c) for c in candidates)
        raise InputError(
            f"{folder / FILE} has {len(rows)} cameras, but there are {len(paths)} photographs (looked in {looked}); "
            "cameras belong to photographs by the order of names, so the numbers must agree"
        )
    matrices = rows[:, :15].reshape(-1, 3, 5)
    c2w = np.tile(np.eye(4), (len(rows), 1, 1))
    c2w[:, :3] = matrices[:, :, :4]
    heights, widths, focals = matrices[:, :, 4].T
    if not bool(((heights >= 1) & (widths >= 1) & (focals > 0)).all()):
        raise InputError(
            f"{folder / FILE}: sizes and focal lengths must be positive, column 5 says {matrices[0, :, 4]}"
        )
    Ks = torch.eye(3, dtype=torch.float64).repeat(len(rows), 1, 1)
    Ks[:, 0, 0] = Ks[:, 1, 1] = torch.from_numpy(focals)
    Ks[:, 0, 2], Ks[:, 1, 2] = torch.from_numpy(widths / 2), torch.from_numpy(heights / 2)
    sizes = [(round(w), round(h)) for w, h in zip(widths.tolist(), heights.tolist(), strict=True)]
    wheres = [f"{folder / FILE}, row {index}" for index in range(len(rows))]
    posed = posed_photos(paths, opencv_c2w_from_llff_c2w(torch.from_numpy(c2w)), Ks, sizes, wheres=wheres)
    return posed.at_file_size()


def _read(path: Path) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path} as a NumPy array: {error}") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or len(rows) == 0 or not np.issubdtype(rows.dtype, np.number):
        raise InputError(
            f"{path}: expected [N, 17] numbers (3x5 matrices and two bounds), got {rows.shape} {rows.dtype}"
        )
    rows = rows.astype(np.float64)
    if not np.isfinite(rows[:, :15]).all():
        raise InputError(f"{path} holds camera matrices that are not finite")
    return rows
