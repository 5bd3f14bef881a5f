"""The inputs of a fit, and the Gaussians that it starts from."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.files import replacing
from cus.splats.complete import complete_cloud
from cus.splats.crops import ViewSource
from cus.splats.fit_config import FitConfig
from cus.splats.fit_views import Views
from cus.splats.gaussians import Gaussians
from cus.splats.initialise import downsample_points, initial_gaussians, sampling_distances
from cus.tensor_files import tensors_digest

# Checkpoints with another layout are refused.
_FORMAT = "closeupshot fit 2"
_REMEDY = (
    "free some space, or fix the folder, and run the same command again: it continues from the previous checkpoint, if "
    "there was one"
)


class ColoredCloud(Protocol):
    """Anything with points [N, 3] and colours [N, 3] in [0, 1], such as a FusedCloud."""

    @property
    def points(self) -> Tensor: ...  # noqa: D102

    @property
    def colors(self) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class Fit:
    """Everything that determines the result of a fit.

    Attributes:
        views: The images with their cameras and weights.
        start: Points and colours [N, 3] each, or Gaussians to continue from.
        config: Settings of the fit.
        seed: Seed of every random draw.
        source: Source of extra views that take turns with the images, or None.
    """

    views: Views
    start: tuple[Tensor, Tensor] | Gaussians
    config: FitConfig
    seed: int
    source: ViewSource | None = None

    def starting_gaussians(self) -> Gaussians:
        """The given Gaussians at the degree of the settings, or new ones from `starting_gaussians`."""
        if isinstance(self.start, tuple):
            return starting_gaussians(self.start, self.views, self.config)
        return self.start.to(self.views.images.device).with_degree(self.config.sh_degree)


def checked_cloud(points: Tensor | ColoredCloud, views: Views) -> tuple[Tensor, Tensor]:
    """Points and colours [N, 3] with the images' dtype and device; bare points take their colours from the images.

    Raises:
        ValueError: Inconsistent shapes.
        InputError: Values that are NaN or infinite.
    """
    positions = points if isinstance(points, Tensor) else points.points
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"expected points [N, 3], got {list(positions.shape)}")
    if not bool(torch.isfinite(positions).all()):
        raise InputError("the point cloud has values that are NaN or infinite")
    positions = positions.to(views.images)
    if isinstance(points, Tensor):
        return positions, colors_of_points(positions, views.images, views.cameras)
    if points.colors.shape != positions.shape:
        raise ValueError(f"expected colours {list(positions.shape)} like the points, got {list(points.colors.shape)}")
    if not bool(torch.isfinite(points.colors).all()):
        raise InputError("the point cloud has colours that are NaN or infinite")
    return positions, points.colors.to(views.images)


def starting_gaussians(cloud: tuple[Tensor, Tensor], views: Views, config: FitConfig) -> Gaussians:
    """Gaussians at the cloud's points and in the pixels that it leaves empty, thinned to the number in the settings."""
    positions, colors = cloud
    if config.fill_holes:
        usable = views.pixel_weights * views.image_weights[:, None, None] > 0
        positions, colors = complete_cloud(
            positions, colors, views.images, views.cameras, views.depths, usable, views.image_weights
        )
    if len(positions) < 4:
        raise InputError(
            f"only {len(positions)} points to start the Gaussians from: the views agree on nothing; "
            "check the depths and cameras, or lower the number of views that must agree"
        )
    spacings = sampling_distances(positions, views.cameras)
    positions, colors = downsample_points(positions, colors, config.start_gaussians, spacings)
    # The rasterizer processes Gaussians by depth, so successive reads should be close in memory.
    order = views.cameras[0].project(positions)[1][0].argsort(stable=True)
    positions, colors = positions[order], colors[order]
    return initial_gaussians(positions, colors, config.sh_degree, sampling_distances(positions, views.cameras))


def colors_of_points(points: Tensor, images: Tensor, cameras: Cameras) -> Tensor:
    """Mean colour of the nearest pixels of each point over the views that contain it [N, 3].

    Occlusion is ignored; points outside all views are grey.
    """
    total, count = points.new_zeros(len(points), 3), points.new_zeros(len(points), 1)
    for i in range(len(cameras)):
        pixels, depths = cameras[i].project(points)
        columns, rows = torch.floor(pixels[0]).long().unbind(1)
        inside = (depths[0] > 0) & (columns >= 0) & (columns < cameras.width) & (rows >= 0) & (rows < cameras.height)
        total[inside] += images[i][:, rows[inside], columns[inside]].T
        count[inside] += 1
    return torch.where(count > 0, total / count.clamp_min(1), torch.full_like(total, 0.5))


def fit_fingerprints(fit: Fit) -> dict[str, str]:
    """What identifies the fit of a checkpoint: a digest of the inputs, and the settings in words."""
    digest = hashlib.sha256()
    views, start = fit.views, fit.start
    tensors = [views.images, views.cameras.viewmats, views.cameras.Ks, views.pixel_weights, views.image_weights]
    given = start if isinstance(start, tuple) else start.tensors().values()
    tensors += [views.references, *given, *([] if views.depths is None else [views.depths])]
    tensors += [photograph for photograph in views.photographs if photograph is not None]
    tensors += [] if views.photograph_weights is None else [views.photograph_weights]
    settings, further = ("", []) if fit.source is None else fit.source.identity()
    for tensor in (*tensors, *further):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.numpy().reshape(-1).view(np.uint8).data)
    words = f"{fit.config!r}, seed={fit.seed}" + (f", {settings}" if settings else "")
    return {"inputs": digest.hexdigest()[:16], "settings": words}


def write_checkpoint(path: Path, tensors: dict[str, Tensor], fingerprints: dict[str, str]) -> None:
    """Write a checkpoint. The earlier one stays until the new one is complete.

    Raises:
        InputError: The disk is full, or the path is not writable.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": _FORMAT} | fingerprints
    metadata["sha256"] = tensors_digest(content, metadata.values())
    if not path.parent.is_dir():
        raise InputError(f"the fit's checkpoint {path} could not be written: there is no folder {path.parent}")
    with replacing(path, _REMEDY, sweep=False) as part:
        part.write_bytes(save(content, metadata))


def read_checkpoint(path: Path, fingerprints: dict[str, str], device: torch.device | str) -> dict[str, Tensor] | None:
    """Read the checkpoint of a fit with the same inputs and settings; None if there is no file.

    Raises:
        InputError: The file belongs to other inputs or settings, or is not a checkpoint.
    """
    if not path.exists():
        return None
    remedy = "delete it to start from scratch, or name another checkpoint"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(f"{path} is not a checkpoint of this version's fit; {remedy}")
            for name, value in fingerprints.items():
                if metadata.get(name) != value:
                    got = f" ({metadata.get(name)}; expected {value})" if name == "settings" else ""
                    raise InputError(f"the checkpoint {path} belongs to a fit with other {name}{got}; {remedy}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"the checkpoint {path} cannot be read ({error}); {remedy}") from error
    if metadata.get("sha256") != tensors_digest(tensors, (_FORMAT, *fingerprints.values())):
        raise InputError(f"the checkpoint {path} is damaged: its checksum does not fit; {remedy}")
    return {name: tensor.to(device) for name, tensor in tensors.items()}
