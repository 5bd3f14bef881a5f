"""The nearest reference, warped by its depth: the result of plain enlargement."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import hierarchical_warp
from cus.evaluation.rows.row import Row
from cus.evaluation.work import CaseWork, nearest_index
from cus.scene import SceneEstimate


@dataclass(frozen=True, kw_only=True)
class Nearest(Row):
    """The nearest reference, warped by its depth and enlarged bicubically."""

    kind: str = "nearest"
    label: str = "Nearest reference, warped"

    def picture(self, case: CaseWork) -> Tensor:  # noqa: D102
        return nearest_reference(case.scene, case.camera)


def nearest_reference(scene: SceneEstimate, camera: Cameras) -> Tensor:
    """The reference nearest to a camera, sampled bicubically through its own depths; black where it shows nothing.

    The camera's depth is that of the hierarchical warp of that reference alone, so that only the sampling of colours
    differs from it.

    Args:
        scene: references with cameras and depths.
        camera: one target camera.

    Returns:
        [3, h, w] RGB in [0, 1].
    """
    i = nearest_index(scene.cameras, camera)
    part = slice(i, i + 1)
    alone = SceneEstimate(scene.images[part], scene.cameras[part], scene.depths[part], scene.confidences[part])
    warped = hierarchical_warp(alone, camera)
    pixels, depths = alone.cameras.project(camera.backproject(warped.depths)[0].flatten(0, 1))
    size = pixels.new_tensor([alone.cameras.width, alone.cameras.height])
    grid = (2 * pixels[0] / size - 1).view(1, camera.height, camera.width, 2)
    seen = warped.masks[0] & (depths[0].view(camera.height, camera.width) > 0)
    image = F.grid_sample(alone.images, grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    return torch.where(seen, image.clamp(0, 1), 0.0)
