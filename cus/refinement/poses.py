"""Virtual cameras in front of photographs, between their positions."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.conversions import viewmats_from_c2w
from cus.cameras.trajectories import turning
from cus.errors import InputError
from cus.scene import SceneEstimate


@dataclass(frozen=True)
class PoseOptions:
    """How close virtual cameras come, and how far they turn away.

    Attributes:
        closer: smallest and largest factor by which a camera is closer to its point than the photographs are; the
            paper's lambda.
        turned: maximum angle in degrees between its axis and the direction of that point; the paper's epsilon. The
        point stays in the picture.
    """

    closer: tuple[float, float] = (2.0, 8.0)
    turned: float = 45.0


@dataclass(frozen=True)
class VirtualPose:
    """A virtual camera and its point.

    Attributes:
        camera: one camera at the virtual pose.
        point: [3] float32 world point.
    """

    camera: Cameras
    point: Tensor


class VirtualPoses:
    """Draws cameras that see a surface point of a photograph from closer up.

    A pixel of a photograph is a scene point by its depth. The camera is on the line to that point from a position
    between the photograph and another one that has the point in its picture, so that it sees the surface at angles
    covered by photographs.
    """

    def __init__(self, scene: SceneEstimate, width: int, height: int, options: PoseOptions) -> None:
        """`scene`: photographs with depths; `width`, `height`: size of the virtual pictures in pixels.

        Raises:
            InputError: no photograph has a reliable depth.
        """
        self._cameras = scene.cameras.to("cpu")
        self._depths = scene.depths.cpu()
        self._size, self._options = (width, height), options
        usable = scene.reliable.cpu().flatten(1)
        self._pixels = [view.nonzero()[:, 0] for view in usable]
        self._views = [index for index, pixels in enumerate(self._pixels) if len(pixels)]
        if not self._views:
            raise InputError("virtual views start from depths, and no photograph has a reliable one")

    def draw(self, generator: torch.Generator) -> VirtualPose:
        """Draw the next pose; `generator` makes every random draw, on the CPU."""
        # Always make the same number of draws, whether or not they are needed below.
        view, pixel, partner, between, closer, x, y = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        index = self._views[int(view * len(self._views))]
        pixels = self._pixels[index]
        point = self._point(index, int(pixels[int(pixel * len(pixels))]))
        start, end = self._cameras.centers[index].double(), self._partner(index, point, partner)
        low, high = (math.log(factor) for factor in self._options.closer)
        factor = math.exp(low + closer * (high - low))
        from_point = start + between * (end - start) - point
        center = (point + from_point / factor).numpy()
        camera = self._cameras[index].resized(*self._size)
        ray = self._ray(camera, x, y)
        rotation = camera.c2w[0, :3, :3].double().numpy()
        turn = Rotation.from_rotvec(turning(rotation @ ray, -from_point.numpy()))
        c2w = np.eye(4)
        c2w[:3, :3], c2w[:3, 3] = turn.as_matrix() @ rotation, center
        viewmats = viewmats_from_c2w(torch.from_numpy(c2w[None]))
        return VirtualPose(Cameras(viewmats, camera.Ks, camera.width, camera.height), point.float())

    def _point(self, index: int, pixel: int) -> Tensor:
        """[3] float64: the world point of a pixel of a photograph, by its flat index."""
        row, column = divmod(pixel, self._depths.shape[-1])
        camera = self._cameras[index]
        homogeneous = torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)
        ray = torch.linalg.inv(camera.Ks[0].double()) @ homogeneous
        c2w = camera.c2w[0].double()
        return c2w[:3, :3] @ (ray * float(self._depths[index, row, column])) + c2w[:3, 3]

    def _partner(self, index: int, point: Tensor, draw: float) -> Tensor:
        """[3] float64: the position of another photograph that has the point in its picture; its own, if none has."""
        others = [i for i in seeing(self._cameras, point.float()) if i != index]
        return self._cameras.centers[others[int(draw * len(others))] if others else index].double()

    def _ray(self, camera: Cameras, x: float, y: float) -> np.ndarray:
        """[3] unit vector, in the camera's axes, of the direction in which the point will appear, (x, y) in [0, 1)."""
        pixel = torch.tensor([x * camera.width, y * camera.height, 1.0], dtype=torch.float64)
        ray = (torch.linalg.inv(camera.Ks[0].double()) @ pixel).numpy()
        off = math.hypot(ray[0], ray[1])
        ray[:2] *= min(1.0, math.tan(math.radians(self._options.turned)) / max(off, 1e-12))
        return ray / np.linalg.norm(ray)


def seeing(cameras: Cameras, point: Tensor) -> list[int]:
    """Indices of the cameras that have a world point [3] in their picture, hidden or not."""
    pixels, depths = cameras.project(point[None])
    size = pixels.new_tensor([cameras.width, cameras.height])
    inside = ((pixels[:, 0] >= 0) & (pixels[:, 0] < size)).all(dim=1) & (depths[:, 0] > 0)
    return inside.nonzero()[:, 0].tolist()


def by_angle(cameras: Cameras, indices: list[int], point: Tensor, center: Tensor) -> list[int]:
    """The cameras `indices`, sorted by the angle at a point [3] between their ray and that to `center` [3]."""
    if not indices:
        return []
    rays = torch.nn.functional.normalize((cameras.centers[indices] - point).double(), dim=1)
    own = torch.nn.functional.normalize((center - point).double(), dim=0)
    order = (rays @ own).argsort(descending=True, stable=True).tolist()
    return [indices[i] for i in order]
