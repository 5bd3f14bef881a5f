"""What networks predict in their frames, and its conversion to a scene estimate: checks, world, unit, known cameras."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.framing import FramedViews
from cus.estimators.known_cameras import with_known_cameras, with_known_focals
from cus.scene import SceneEstimate

# A view whose 90th percentile is below this has nothing that the network itself is confident of.
LEAST_TRUST = 0.05


@dataclass(frozen=True)
class Prediction:
    """A network's output for V framed views.

    Attributes:
        source: the network's name, for notes and errors.
        viewmats: [V, 4, 4] world-to-camera, rigid, in any world and unit.
        Ks: [V, 3, 3] intrinsics in pixels of the frames, the centre of the top-left pixel at (0.5, 0.5).
        depths: V of [h, w] z-depths in that unit; values <= 0 mean none.
        confidences: V of [h, w], confidences in [1, infinity).
        metric: whether the unit is the metre.
        follows_lens: whether depths are valid for these intrinsics, and proportional to the focal length otherwise.
    """

    source: str
    viewmats: Tensor
    Ks: Tensor
    depths: Sequence[Tensor]
    confidences: Sequence[Tensor]
    metric: bool = False
    follows_lens: bool = False

    def check(self, framed: FramedViews) -> None:
        """Refuse values that are not numbers, and views without any confident depth. Raises InputError."""
        for values in ([self.viewmats, self.Ks], self.depths, self.confidences):
            if not all(bool(torch.isfinite(value).all()) for value in values):
                raise InputError(
                    f"{self.source} gave values that are not numbers for these photographs; use the estimator "
                    "'stereo', and get the weights again if it happens with other photographs, too"
                )
        for view, confidence in enumerate(framed.inside(self.confidences)):
            if float(trust(confidence).flatten().quantile(0.9)) < LEAST_TRUST:
                raise InputError(
                    f"{self.source} finds nothing in view {view + 1} that it is sure of: does it overlap with the "
                    "others, and show surfaces that do not move? Leave it out or use another photograph"
                )


def scene_from(
    prediction: Prediction,
    framed: FramedViews,
    images: Tensor,
    valid: Tensor | None,
    given: Cameras | None,
    focals: Tensor | None,
) -> SceneEstimate:
    """Convert a prediction to an estimate in the photographs' own pixels.

    Without given cameras the first camera becomes the identity, known focal lengths are kept (`with_known_focals`), and
    the unit is the scene scale. Given cameras are kept unchanged, and the depths are transformed to their world
    (`with_known_cameras`).

    Args:
        prediction: prediction for the framed views.
        framed: the views that the network saw.
        images: [V, 3, H, W], batch of the photographs.
        valid: [V, H, W] bool or None: False where depth is to be ignored.
        given: known cameras of the images, or None.
        focals: [V] focal lengths in pixels of the images, NaN where unknown, or None.

    Raises:
        InputError: values that are not numbers, a view without any confident depth, no depth at all, or given cameras
            that do not fit.
    """
    prediction.check(framed)
    height, width = images.shape[-2:]
    on_device = [value.to(images) for value in (prediction.viewmats, framed.Ks_of_images(prediction.Ks))]
    cameras = Cameras(in_first_camera(on_device[0]), on_device[1], width, height)
    depths, confidences = framed.maps_of_images(
        [depth.to(images) for depth in prediction.depths],
        [trust(confidence).to(images) for confidence in prediction.confidences],
        images,
    )
    if valid is not None:
        depths, confidences = depths * valid, confidences * valid
    scene = SceneEstimate(images, cameras, depths, confidences)
    if not bool(scene.reliable.any(dim=(1, 2)).all()):
        raise InputError(f"{prediction.source} finds no depth in one of the photographs; use the estimator 'stereo'")
    if given is not None:
        return with_known_cameras(scene, given, valid, prediction.source)
    if focals is not None:
        own = scene.cameras.Ks[:, 0, 0]
        scene = with_known_focals(scene, focals, prediction.source)
        if prediction.follows_lens:
            scene = replace(scene, depths=scene.depths * (scene.cameras.Ks[:, 0, 0] / own)[:, None, None])
    of_what = f"metres by {prediction.source}" if prediction.metric else f"of {prediction.source}'s own"
    note = (
        f"the unit of length is the mean distance of the reliable points from the first camera: {scene.scale:.4g} "
        f"{of_what}"
    )
    return scene.in_own_unit().with_notes(note)


def in_first_camera(viewmats: Tensor) -> Tensor:
    """[V, 4, 4] rigid world-to-camera matrices in the first camera's frame, where it is exactly the identity."""
    first = torch.linalg.inv(viewmats[0].double())
    moved = (viewmats.double() @ first).to(viewmats.dtype)
    moved[0] = torch.eye(4, dtype=viewmats.dtype, device=viewmats.device)
    moved[:, 3] = moved[0, 3].clone()
    return moved


class MemoryShortage(InputError):
    """The GPU's memory is too small for a network: another estimator may work."""


@contextmanager
def explained_memory(source: str, views: int) -> Iterator[None]:
    """Explain what to do if the GPU's memory is too small. Raises MemoryShortage, an InputError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryShortage(
            f"the GPU's memory is too small for {source} with {views} photographs; use fewer photographs, close other "
            "programs on the GPU, or use the estimator 'stereo' (or the device 'cpu', which is slow)"
        ) from error


def trust(confidences: Tensor) -> Tensor:
    """Convert unbounded confidences c >= 1, as given by DUSt3R and VGGT, to [0, 1): 1 - 1 / c.

    Both networks output c = 1 + exp(x) for a raw value x, so this is the logistic function of x: increasing, and the
    same for every picture, whereas a rank within the picture would rate the best part of a hopeless one as certain.
    Their losses, c * error - alpha * log(c), are minimal at c = alpha / error: 1 / c is proportional to the expected
    error.

    Args:
        confidences: confidences in any shape; values below 1 count as 1.
    """
    return 1.0 - 1.0 / confidences.clamp(min=1.0)


def cameras_from_pose_encodings(encodings: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """(transforms [V, 4, 4], Ks [V, 3, 3]) of pose encodings [V, 9] for frames of width x height pixels.

    These are cameras as nine numbers, as output by VGGT and Depth Anything 3: translation and quaternion (x, y, z, w)
    of a rigid transform with OpenCV axes, then the vertical and the horizontal field of view of the frame in radians,
    its principal point in the middle. The transform is world to camera in VGGT, and camera to world in Depth Anything
    3. A quaternion may have any length but zero.
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
