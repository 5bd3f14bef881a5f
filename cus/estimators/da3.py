"""Depth Anything 3 (Lin et al. 2025), small and base: cameras and depths of any number of views by a network.

The network itself is `cus.estimators.networks.depth_anything_3`; this file handles its public weights, and the
conversion of inputs and outputs.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError, first_line
from cus.estimators.estimator import Network, half_precision
from cus.estimators.framing import FramedViews, FrameRule, normalised
from cus.estimators.networks.depth_anything_3 import SIZES, DepthAnything3, Size, Views
from cus.estimators.predictions import (
    Prediction,
    cameras_from_pose_encodings,
    in_first_camera,
    pose_encodings_from_cameras,
)

NAME = "Depth Anything 3"
REPOSITORIES = ("depth-anything/DA3-SMALL", "depth-anything/DA3-BASE")
ALIASES = dict(zip((size.name for size in SIZES), REPOSITORIES, strict=True))
PREFIX = "model."  # of all names in the public files
WIDTH_OF = "backbone.pretrained.cls_token"  # a tensor that determines the size, [1, 1, width]
TYPES = ("F32", "F16", "BF16")
LEAST_FIELD = 0.0175  # minimum field of view in radians; smaller ones, such as 0, are no lens
LEAST_UNIT = 0.1  # fraction of the largest distance between given cameras


class DA3(Network):
    """Depth Anything 3, for one or more views. It also uses known cameras."""

    name = "da3"
    title = NAME
    fewest = 1
    repositories = REPOSITORIES
    aliases = ALIASES
    licence = "small and base: Apache-2.0"
    # The public code crops views to one shape; here all of every view is used, and its border is repeated.
    rule = FrameRule(longest_side=504, patch=14, step=14, fill=None, one_size=True)

    def check(self, path: Path, weights: str) -> None:
        """Check names and shapes with `size_of_checkpoint`."""
        size_of_checkpoint(path)

    def read(self, path: Path) -> DepthAnything3:
        """Read a checkpoint in float32; it is checked before memory is allocated."""
        model = _empty(size_of_checkpoint(path))
        with safe_open(path, framework="pt") as file:
            prefix = _prefix(file.keys())
            state = {name.removeprefix(prefix): file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        model.load_state_dict(state, strict=True, assign=True)
        return model

    def run(self, model: DepthAnything3, framed: FramedViews, given: Cameras | None) -> Views:
        """Run the network, its backbone in half precision if that is faster on the device."""
        pictures = normalised(torch.stack(framed.pictures))
        known = None if given is None else encoded_cameras(given, framed)
        half = half_precision(pictures.device)
        with nullcontext() if half is None else torch.autocast(pictures.device.type, dtype=half):
            return model(pictures, known)

    def prediction(self, output: Views, framed: FramedViews, given: Cameras | None) -> Prediction:
        """Cameras, depths and confidences. Raises InputError for a view without a plausible lens."""
        fields = output.cameras[:, 7:]
        for view in range(len(fields)):
            # NaN is refused later, together with all other invalid values.
            if bool(((fields[view] < LEAST_FIELD) | (fields[view] > torch.pi - LEAST_FIELD)).any()):
                raise InputError(
                    f"{NAME} finds no lens that view {view + 1} could be seen through (fields of view of "
                    f"{', '.join(f'{field:.4g}' for field in fields[view].rad2deg().tolist())} degrees); leave it out, "
                    "or use the estimator 'stereo'"
                )
        height, width = output.depths.shape[-2:]
        c2w, Ks = cameras_from_pose_encodings(output.cameras, width, height)
        return Prediction(NAME, torch.linalg.inv(c2w), Ks, list(output.depths), list(output.confidences))


def size_of_checkpoint(path: Path) -> Size:
    """The size of the network in a file; reads only its header.

    Raises:
        InputError: another kind of file, a damaged one, or tensors that do not match the small or base network.
    """
    known = " or ".join(f"{size.name} ({ALIASES[size.name]})" for size in SIZES)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - a file is no mapping
            held = {name: tuple(part.get_shape()) for name, part in slices.items()}
            types = {name: part.get_dtype() for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({first_line(error)}); get it again, or use another: {known}"
        ) from error
    prefix = _prefix(held)
    shape = held.get(prefix + WIDTH_OF, ())
    size = next((size for size in SIZES if shape == (1, 1, size.width)), None)
    if size is None and len(shape) == 3:
        raise InputError(
            f"{path} holds another size of {NAME} (or another network on DINOv2): its tokens have {shape[2]} channels, "
            f"expected {' or '.join(str(size.width) for size in SIZES)}; use {known}"
        )
    expected = {prefix + name: tuple(value.shape) for name, value in _empty(size or SIZES[0]).state_dict().items()}
    missing, unknown = sorted(expected.keys() - held.keys()), sorted(held.keys() - expected.keys())
    if size is None or missing or unknown:
        raise InputError(
            f"{path} does not hold the weights of {NAME}: missing {missing[:3]}, unknown {unknown[:3]}; get it again, "
            f"or use another: {known}"
        )
    for name, wanted in expected.items():
        if held[name] != wanted or types[name] not in TYPES:
            raise InputError(
                f"{path} does not hold the weights of {NAME} {size.name}: {name} is {types[name]} {held[name]}, "
                f"expected {' or '.join(TYPES)} {wanted}; get it again, or use another: {known}"
            )
    return size


def encoded_cameras(given: Cameras, framed: FramedViews) -> Tensor:
    """[V, 9] given cameras as the network's input: in the first one's frame, scaled to distances of about 1.

    As in the public code, the unit is the median distance from the first camera, including itself. There it is at least
    0.1 in the unit of the given cameras, whatever that is, and always for two views, since half of their distances are
    0. Here it is the distance of the two, and for more views at least `LEAST_UNIT` of the largest, so that depths do
    not depend on the unit of the given cameras.

    Args:
        given: V cameras of the images.
        framed: V framed views.
    """
    c2w = torch.linalg.inv(in_first_camera(given.viewmats.double()))
    distances = c2w[:, :3, 3].norm(dim=1)
    unit = distances.max() if len(given) == 2 else distances.median().clamp(min=LEAST_UNIT * float(distances.max()))
    if unit > 0:
        c2w[:, :3, 3] /= unit
    width, height = framed.placements[0].frame
    return pose_encodings_from_cameras(c2w, framed.Ks_of_frames(given.Ks), width, height)


def _empty(size: Size) -> DepthAnything3:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return DepthAnything3(size)


def _prefix(names: Iterable[str]) -> str:
    return PREFIX if all(name.startswith(PREFIX) for name in names) else ""
