"""Converts cameras to those of the browser's viewer, and back. Both are OpenCV (docs/conventions.md)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cus.cameras import Cameras
from cus.cameras.conversions import viewmats_from_c2w


@dataclass(frozen=True)
class Eye:
    """A browser's viewpoint; its lens is symmetric about the middle of the picture.

    Attributes:
        position: [3] world position.
        look_at: [3] world point to orbit.
        up: [3] unit vector.
        half_tangents: (x, y): half width and half height of the picture at distance 1.
    """

    position: np.ndarray
    look_at: np.ndarray
    up: np.ndarray
    half_tangents: tuple[float, float]

    def vertical_fov(self, aspect: float) -> float:
        """Vertical field of view in radians that shows the whole picture in a window with aspect ratio `aspect`."""
        across, down = self.half_tangents
        return 2 * math.atan(max(down, across / aspect))


def eye_of(camera: Cameras, distance: float) -> Eye:
    """The eye that sees a camera's picture, looking at the point at `distance` in its middle.

    Exact for a principal point in the middle; otherwise (e.g. a zoom towards another point) the eye turns to the
    picture's middle, which changes the foreshortening because its lens is symmetric.
    """
    c2w, K = camera.c2w[0].double().numpy(), camera.Ks[0].double().numpy()
    ray = np.array([(camera.width / 2 - K[0, 2]) / K[0, 0], (camera.height / 2 - K[1, 2]) / K[1, 1], 1.0])
    forward = c2w[:3, :3] @ (ray / np.linalg.norm(ray))
    up = -c2w[:3, 1] + (c2w[:3, 1] @ forward) * forward
    half = camera.width / 2 / K[0, 0], camera.height / 2 / K[1, 1]
    return Eye(c2w[:3, 3], c2w[:3, 3] + distance * forward, up / np.linalg.norm(up), half)


def camera_from_eye(wxyz: np.ndarray, position: np.ndarray, vertical_fov: float, width: int, height: int) -> Cameras:
    """One camera from a browser's orientation (camera-to-world), position, field of view in radians and window size."""
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = torch.from_numpy(Rotation.from_quat(np.roll(wxyz, -1)).as_matrix())
    c2w[:3, 3] = torch.from_numpy(np.asarray(position, np.float64))
    focal = height / 2 / math.tan(vertical_fov / 2)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(viewmats_from_c2w(c2w[None]), K[None], width, height)


def wxyz_of(camera: Cameras) -> np.ndarray:
    """[4] the camera-to-world rotation of one camera as a quaternion w x y z."""
    return np.roll(Rotation.from_matrix(camera.c2w[0, :3, :3].double().numpy()).as_quat(), 1)


def frustum_corners(camera: Cameras) -> np.ndarray:
    """[4, 3] corners of a camera's picture in its own axes: top left, top right, bottom right, bottom left.

    The pyramid of these corners and the camera's centre has the volume of a cube of side 1 for any lens: a longer lens
    gives a longer and slimmer one, so that those of a zoom do not coincide.
    """
    K = camera.Ks[0].double().numpy()
    pixels = np.array([[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]], np.float64)
    slopes = (pixels - K[:2, 2]) / K[(0, 1), (0, 1)]
    depth = (3 * K[0, 0] * K[1, 1] / (camera.width * camera.height)) ** (1 / 3)
    return np.concatenate([slopes * depth, np.full((4, 1), depth)], axis=1)
