"""Weight of each image in the fit (Section III-E)."""

import torch
from torch import Tensor

from cus.cameras import Cameras

# One doubling of the magnification counts as this many baselines; see `image_confidence`.
_BASELINES_PER_OCTAVE = 0.25


def image_confidence(
    cameras: Cameras, reference_cameras: Cameras, *, baseline: float | None = None, falloff: float = 1.0
) -> Tensor:
    """W_image: 1 at a reference, decreasing with the distance to the nearest one (the paper gives no formula).

        W = exp(-falloff * d),  d^2 = (distance of the centres / baseline)^2 + (log2(focal / reference focal) / 4)^2

    The reference with the smallest d counts. Distances are in units of the reference baseline, as in 3DGS-Enhancer, so
    the scale of the scene cancels. A longer lens counts too, because a camera that zooms gives the same generated
    detail as one that moves closer; but only a quarter of a baseline per doubling: the colours and geometry of a zoomed
    frame still lie under pixels that a reference saw from the same position. So a x4 zoom on the spot has weight 0.61,
    as has the middle between two references; a baseline outside them gives 0.37.

    Args:
        cameras: N generated views.
        reference_cameras: At least one camera; focal lengths must be for the same image size.
        baseline: Length in scene units; default: the mean distance of each reference to its nearest neighbour.
        falloff: Rate of the exponential, >= 0; 0 gives every image the weight 1.

    Returns:
        Weights [N] in (0, 1].

    Raises:
        ValueError: The baseline is needed (a single reference, or all in one place) or an image size differs.
    """
    if (cameras.width, cameras.height) != (reference_cameras.width, reference_cameras.height):
        raise ValueError("cameras and reference_cameras must be for the same image size; see Cameras.resized")
    centers = reference_cameras.centers
    if baseline is None:
        gaps = torch.cdist(centers, centers).fill_diagonal_(float("inf")).amin(dim=1)
        baseline = float(gaps.mean())
    if not 0 < baseline < float("inf"):
        raise ValueError(f"the references span no baseline ({baseline}); give `baseline` in scene units")
    moved = torch.cdist(cameras.centers, centers) / baseline
    focals, reference_focals = cameras.Ks[:, 0, 0], reference_cameras.Ks[:, 0, 0]
    octaves = torch.log2(focals[:, None] / reference_focals[None])
    distances = torch.hypot(moved, _BASELINES_PER_OCTAVE * octaves)
    return torch.exp(-falloff * distances.amin(dim=1))
