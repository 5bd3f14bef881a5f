"""Networks from transformers for one photograph: Depth Pro and Depth Anything V2, metric.

Depth Pro (Bochkovskii et al. 2024, arXiv 2410.02073) takes a square picture, into which every photograph is stretched,
and gives inverse depth for a focal length equal to the picture's width, and the horizontal field of view.

Depth Anything V2 (Yang et al. 2024, arXiv 2406.09414) does not estimate the focal length. Its relative models are
refused: they give inverse depth up to a factor and an offset, and without the offset the shape is unknown.

Their weights are a folder with `config.json` and `model.safetensors`, read strictly.
"""

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.framing import FramedViews, FrameRule, normalised
from cus.estimators.one_view import OneViewNetwork
from cus.estimators.predictions import Prediction
from cus.hub.weights import CONFIG

LEAST_INVERSE, LARGEST_INVERSE = 1e-4, 1e4  # as in Depth Pro's public code


class _FromTransformers(OneViewNetwork):
    """A network whose code is in transformers.

    Attributes:
        kind: its `model_type` in `config.json`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def network_class(self) -> Any:
        """Its class in transformers, imported only here because that takes seconds."""

    def config(self, path: Path) -> dict[str, Any]:
        """The configuration next to weights. Raises InputError if it is missing or belongs to another network."""
        file = path.parent / CONFIG
        try:
            config = json.loads(file.read_text())
        except FileNotFoundError as error:
            raise InputError(
                f"{self.title} needs {CONFIG} next to {path.name}, but {path.parent} has none; download the whole "
                "repository"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({error}); get it again") from error
        found = config.get("model_type") if isinstance(config, dict) else None
        if found != self.kind:
            raise InputError(
                f"{file} is of a model of type {found!r}, and {self.title} is {self.kind!r}; name other weights"
            )
        return config

    def read(self, path: Path) -> nn.Module:
        """Read the network in float32; all tensors must match."""
        from transformers.utils import logging

        kind = self.network_class()
        # Its progress bar would break into the command's own.
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            model, found = kind.from_pretrained(path.parent, local_files_only=True, output_loading_info=True)
        finally:
            if shown:
                logging.enable_progress_bar()
        for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if found[trouble]:
                names = sorted(str(name) for name in found[trouble])[:3]
                raise InputError(
                    f"{path} does not hold the weights of {self.title}: {trouble.removesuffix('_keys')} {names}; get "
                    "it again"
                )
        return model.float()


class DepthPro(_FromTransformers):
    """Depth Pro, for one view."""

    name = "depth-pro"
    title = "Depth Pro"
    kind = "depth_pro"
    repositories = ("apple/DepthPro-hf",)
    licence = "Apple's machine learning research model licence (apple-amlr): for research only"
    rule = FrameRule(longest_side=1536, patch=2, step=2, fill=None, one_size=True)
    sees_lens = True

    def network_class(self) -> Any:
        """Its class in transformers."""
        from transformers import DepthProForDepthEstimation

        return DepthProForDepthEstimation

    def check(self, path: Path, weights: str) -> None:
        """Check the configuration."""
        if not self.config(path).get("use_fov_model"):
            raise InputError(f"the weights in {path.parent} do not tell the field of view; use {self.repositories[0]}")

    def run(self, model: Any, framed: FramedViews, given: Cameras | None) -> Any:
        """The network's output for the picture stretched to its square."""
        side = round(model.config.patch_size / model.config.scaled_images_ratios[0])
        square = F.interpolate(framed.pictures[0][None], (side, side), mode="bilinear", align_corners=False)
        return model(pixel_values=2 * square.clamp(0, 1) - 1)

    def prediction(self, output: Any, framed: FramedViews, given: Cameras | None) -> Prediction:
        """Depth in metres, and the lens."""
        height, width = framed.pictures[0].shape[-2:]
        inverse = F.interpolate(output.predicted_depth[:, None], (height, width), mode="bilinear", align_corners=False)
        # Valid for a focal length equal to the frame's width; ours is relative to the longer side.
        over_focal = max(width, height) / width / inverse[0, 0].clamp(LEAST_INVERSE, LARGEST_INVERSE)
        return self.seen_through(over_focal, framed, given, float(output.field_of_view[0]), metric=True)


class DepthAnything2(_FromTransformers):
    """Depth Anything V2, metric, for one view."""

    name = "depth-anything-2"
    title = "Depth Anything V2"
    kind = "depth_anything"
    repositories = (
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
    )
    aliases = {"indoor": repositories[0], "outdoor": repositories[1]}
    licence = "small: Apache-2.0; base and large: CC BY-NC 4.0"
    rule = FrameRule(longest_side=784, patch=14, step=14, fill=None, one_size=True)

    def network_class(self) -> Any:
        """Its class in transformers."""
        from transformers import DepthAnythingForDepthEstimation

        return DepthAnythingForDepthEstimation

    def check(self, path: Path, weights: str) -> None:
        """Check the configuration."""
        kind = self.config(path).get("depth_estimation_type", "relative")
        if kind != "metric":
            raise InputError(
                f"the weights in {path.parent} give {kind} depth, up to an unknown summand; use metric ones such as "
                f"{self.repositories[0]}"
            )

    def run(self, model: Any, framed: FramedViews, given: Cameras | None) -> Tensor:
        """[1, h', w'] depth in metres."""
        return model(pixel_values=normalised(framed.pictures[0])[None]).predicted_depth

    def prediction(self, output: Tensor, framed: FramedViews, given: Cameras | None) -> Prediction:
        """Depth in metres, through the given or a guessed lens."""
        size = framed.pictures[0].shape[-2:]
        depth = F.interpolate(output[:, None], size, mode="bilinear", align_corners=False)[0, 0]
        return self.in_metres(depth, framed, given)
