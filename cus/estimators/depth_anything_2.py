"""Depth Anything V2 (Yang et al. 2024, arXiv 2406.09414), metric models: depth of one photograph in metres.

The network comes from transformers. It does not estimate the focal length. The relative models are refused: they give
inverse depth up to a factor and an offset, and without the offset the shape is unknown.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.framing import FramedViews, FrameRule
from cus.estimators.networks.depth_anything_3 import DEVIATION, MEAN
from cus.estimators.one_view import OneViewNetwork
from cus.estimators.predictions import Prediction
from cus.estimators.transformers_weights import check_config, load_pretrained


class DepthAnything2(OneViewNetwork):
    """Depth Anything V2, metric."""

    name = "depth-anything-2"
    title = "Depth Anything V2"
    repositories = (
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
    )
    aliases = {"indoor": repositories[0], "outdoor": repositories[1]}
    licence = "small: Apache-2.0; base and large: CC BY-NC 4.0"
    rule = FrameRule(longest_side=784, patch=14, step=14, fill=None, one_size=True)

    def check(self, path: Path, weights: str) -> None:
        """Check the configuration."""
        config = check_config(path, "depth_anything", self.title)
        kind = config.get("depth_estimation_type", "relative")
        if kind != "metric":
            raise InputError(
                f"the weights in {path.parent} give {kind} depth, up to an unknown summand; use metric ones such as "
                f"{self.repositories[0]}"
            )

    def predict(
        self,
        path: Path,
        framed: FramedViews,
        given: Cameras | None,
        device: torch.device,
        report: Callable[[int], None],
    ) -> Prediction:
        """Predict depth in metres."""
        from transformers import DepthAnythingForDepthEstimation  # imported here because it takes seconds

        model: Any = load_pretrained(DepthAnythingForDepthEstimation, path, self.title).to(device)
        report(1)
        picture = framed.pictures[0][None].to(device)
        mean, deviation = (picture.new_tensor(value)[:, None, None] for value in (MEAN, DEVIATION))
        with torch.no_grad():
            depth = model(pixel_values=(picture - mean) / deviation).predicted_depth
        depth = F.interpolate(depth[:, None], picture.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
        report(2)
        return self.in_metres(depth, framed, given)
