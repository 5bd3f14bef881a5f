"""Suppression of background that leaks through a sparse foreground (Eq. 5), for surfaces drawn as meshes.

A dense depth map is a closed mesh that leaks nothing at any magnification, so Eq. 5 has nothing to do there. It remains
for samples of a surface that are too far apart to be meshed.
"""

from collections.abc import Sequence

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.occlusion import dilated_depths
from cus.conditioning.references import Reference
from cus.conditioning.warp import project_depths, splat, winners


def suppression_limits(references: Sequence[Reference], target: Cameras, tolerance: float) -> Tensor | None:
    """D_dilate + tau_D: the largest depth [H, W] that a reliable surface may have at each target pixel.

    Args:
        references: the scene's references.
        target: one camera.
        tolerance: tau_D in scene units.

    Returns:
        None if no reference has sparse samples that are certain enough to hide anything.
    """
    depths, spacings = [], []
    for reference in references:
        sparse = reference.hides & (reference.spacing > 1)
        if not bool(sparse.any()):
            continue
        _, index, z = winners(splat(project_depths(reference.depths, reference.camera, target), sparse))
        depths.append(z)
        spacings.append(reference.spacing_in(target, index, z))
    return dilated_depths(depths, spacings) + tolerance if depths else None
