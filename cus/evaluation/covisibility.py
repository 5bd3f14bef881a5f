"""The part of a target that the references can show: only there can a picture be wrong rather than invented."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import divide_reliability, hierarchical_warp
from cus.errors import InputError
from cus.scene import SceneEstimate

BORDER = 2


def covisible(scene: SceneEstimate, camera: Cameras, border: int = BORDER) -> Tensor:
    """The pixels of a target that the references see, according to their depths.

    A pixel is covisible if the hierarchical warp (Algorithm 1) covers it from *reliable* depths alone: the top 90 % of
    each reference by confidence, minus the depth edges (Section III-B), with background behind them suppressed (Eq. 5).
    Its coarse levels reach slightly too far, so `border` pixels are removed along every hole, but not at the picture's
    own border. The mask depends on the estimator's depths: it is the same for all rows of one case, and may differ
    between runs with different estimators.

    Args:
        scene: references with cameras and depths.
        camera: one target camera in the same world.
        border: number of pixels to remove along holes.

    Returns:
        [h, w] bool on the scene's device; all False if the references see nothing of the target.
    """
    if len(camera) != 1:
        raise ValueError(f"expected one target camera, got {len(camera)}")
    if border < 0:
        raise ValueError(f"border must not be negative, got {border}")
    reliable, _ = divide_reliability(scene)
    shape = (camera.height, camera.width)
    if not bool(reliable.any()):
        return torch.zeros(shape, dtype=torch.bool, device=scene.images.device)
    known = replace(scene, depths=scene.depths * reliable, confidences=scene.confidences * reliable)
    try:
        mask = hierarchical_warp(known, camera).masks[0]
    except InputError:  # "the target sees nothing of the scene" is a valid result here
        return torch.zeros(shape, dtype=torch.bool, device=scene.images.device)
    if border == 0:
        return mask
    holes = (~mask).float()[None, None]
    return F.max_pool2d(holes, 2 * border + 1, stride=1, padding=border)[0, 0] < 0.5
