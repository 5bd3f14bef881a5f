"""Cameras as nine numbers, as output by VGGT and Depth Anything 3.

Translation and quaternion (x, y, z, w) of a rigid transform with OpenCV axes, then the vertical and the horizontal
field of view of the frame in radians, its principal point in the middle. The transform is world to camera in VGGT, and
camera to world in Depth Anything 3.
"""

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor


def cameras_from_pose_encodings(encodings: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """(transforms [V, 4, 4], Ks [V, 3, 3]) of pose encodings [V, 9] for frames of width x height pixels.

    A quaternion may have any length but zero.
    """
    x, y, z, w = torch.nn.functional.normalize(encodings[:, 3:7], dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    transforms = torch.eye(4).to(encodings).repeat(len(encodings), 1, 1)
    transforms[:, :3, :3] = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    transforms[:, :3, 3] = encodings[:, :3]
    Ks = torch.zeros_like(transforms[:, :3, :3])
    Ks[:, 0, 0] = width / 2 / (encodings[:, 8] / 2).tan()
    Ks[:, 1, 1] = height / 2 / (encodings[:, 7] / 2).tan()
    Ks[:, 0, 2], Ks[:, 1, 2], Ks[:, 2, 2] = width / 2, height / 2, 1.0
    return transforms, Ks


def pose_encodings_from_cameras(transforms: Tensor, Ks: Tensor, width: int, height: int) -> Tensor:
    """[V, 9] float32 of rigid transforms [V, 4, 4] and intrinsics [V, 3, 3]; a quaternion's fourth number is positive.

    The inverse of `cameras_from_pose_encodings`, except for the principal points, which are not encoded.
    """
    quaternions = Rotation.from_matrix(transforms[:, :3, :3].double().cpu().numpy()).as_quat(canonical=True)
    fields = 2 * torch.stack([height / 2 / Ks[:, 1, 1], width / 2 / Ks[:, 0, 0]], dim=-1).atan()
    return torch.cat([transforms[:, :3, 3], torch.from_numpy(quaternions).to(transforms), fields], dim=-1).float()
