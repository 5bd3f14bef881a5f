"""Alignment of estimated cameras with given ones: the similarity between the two worlds, and its residuals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.errors import InputError

# Below this ratio of the second to the first extent, centres lie on a line and the rotation about it is undetermined.
LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Alignment:
    """x_given = scale * rotation @ x_estimated + translation, and the residuals.

    Attributes:
        scale: given units per estimated unit; multiplies depths.
        rotation: [3, 3] float64 rotation from the estimated to the given world.
        translation: [3] float64 translation in given units.
        rotation_errors: [V] degrees between the given and the aligned orientation of each camera.
        position_errors: [V] distances between the given and the aligned centres, in units of the baseline: the largest
            distance between two given centres.
        focal_errors: [V] relative excess of the estimated focal lengths over the given ones (geometric means of x and
            y, in units of the picture's width); a similarity cannot correct it.
    """

    scale: float
    rotation: Tensor
    translation: Tensor
    rotation_errors: Tensor
    position_errors: Tensor
    focal_errors: Tensor

    def cameras(self, estimated: Cameras) -> Cameras:
        """Transform cameras of the estimated world to the given one."""
        viewmats = torch.zeros_like(estimated.viewmats, dtype=torch.float64)
        viewmats[:, :3, :3] = estimated.viewmats[:, :3, :3].double() @ self.rotation.T
        centers = self.points(_centers(estimated))
        viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ centers[:, :, None])[..., 0]
        viewmats[:, 3, 3] = 1
        return Cameras(viewmats.to(estimated.viewmats.dtype), estimated.Ks, estimated.width, estimated.height)

    def points(self, points: Tensor) -> Tensor:
        """Transform points [..., 3] of the estimated world to the given one."""
        turned = points @ self.rotation.to(points).T
        return self.scale * turned + self.translation.to(points)


def align_cameras(estimated: Cameras, given: Cameras) -> Alignment:
    """Find the similarity that maps estimated cameras to given ones.

    Three or more centres that are not on a line determine it in the least squares sense (Umeyama 1991). Two centres, or
    centres on a line, leave the rotation about the line undetermined: then the rotation is the mean of those between
    the cameras' orientations (the nearest rotation to their sum), and scale and translation are the least squares
    solution for it. Intrinsics play no part.

    Args:
        estimated: V cameras in their own world and unit.
        given: V given cameras, in the same order.

    Raises:
        InputError: fewer than two cameras, all centres in one place in either world, or baselines in opposite
            directions.
        ValueError: different numbers of cameras.
    """
    if len(estimated) != len(given):
        raise ValueError(f"expected as many estimated as given cameras, got {len(estimated)} and {len(given)}")
    if len(given) < 2:
        raise InputError(f"cameras can be aligned from two on, got {len(given)}: one says nothing of the scale")
    source, target = _centers(estimated), _centers(given)
    source_mean, target_mean = source.mean(dim=0), target.mean(dim=0)
    a, b = source - source_mean, target - target_mean
    for name, offsets, centers in (("estimated", a, source), ("given", b, target)):
        if float(offsets.norm()) <= 1e-6 * max(1.0, float(centers.norm())):
            raise InputError(
                f"the {name} cameras stand in one place, so no scale can be told; give views with parallax"
            )
    own_turns = given.viewmats[:, :3, :3].double().cpu().mT @ estimated.viewmats[:, :3, :3].double().cpu()
    on_a_line = min(_spread(a), _spread(b)) < LEAST_SPREAD
    rotation = _nearest_rotation(own_turns.sum(dim=0) if on_a_line else b.T @ a)
    scale = float((b * (a @ rotation.T)).sum() / (a**2).sum())
    if scale <= 0:
        raise InputError(
            "the estimated cameras cannot be aligned: turned as the photographs say, they stand the other way round "
            "than the given ones; are both in the same order, and the estimate sound?"
        )
    translation = target_mean - scale * rotation @ source_mean
    baseline = float(torch.cdist(target, target).max())
    position_errors = (scale * a @ rotation.T - b).norm(dim=1) / baseline
    focal_errors = _relative_focals(estimated) / _relative_focals(given) - 1
    return Alignment(scale, rotation, translation, _degrees(rotation.T @ own_turns), position_errors, focal_errors)


def _centers(cameras: Cameras) -> Tensor:
    """Camera centres [V, 3] in float64 on the CPU."""
    viewmats = cameras.viewmats.double().cpu()
    return -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]


def _relative_focals(cameras: Cameras) -> Tensor:
    """Focal lengths [V] as fractions of the picture's width, float64."""
    Ks = cameras.Ks.double().cpu()
    return (Ks[:, 0, 0] * Ks[:, 1, 1]).sqrt() / cameras.width


def _spread(offsets: Tensor) -> float:
    """Ratio of the second to the first singular value of centred positions [V, 3]; 0 on a line."""
    values = torch.linalg.svdvals(offsets)
    return float(values[1] / values[0])


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """[3, 3] the rotation R with the largest trace of R^T M."""
    u, _, vh = torch.linalg.svd(matrix)
    signs = torch.ones(3, dtype=matrix.dtype)
    signs[2] = torch.sign(torch.linalg.det(u @ vh))
    return u @ torch.diag(signs) @ vh


def _degrees(rotations: Tensor) -> Tensor:
    """Angles [V] of rotations [V, 3, 3]; computed by the chord, which is accurate for small angles."""
    chord = (rotations - torch.eye(3, dtype=rotations.dtype)).flatten(1).norm(dim=1) / 8**0.5
    return torch.rad2deg(2 * torch.asin(chord.clamp(max=1.0)))
