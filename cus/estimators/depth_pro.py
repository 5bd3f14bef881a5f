"""Depth Pro (Bochkovskii et al. 2024, arXiv 2410.02073): sharp metric depth and the focal length of one photograph.

The network comes from transformers. It takes a square picture, into which every photograph is stretched, and gives
inverse depth for a focal length equal to the picture's width, and the horizontal field of view.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.framing import FramedViews, FrameRule
from cus.estimators.one_view import OneViewNetwork
from cus.estimators.predictions import Prediction
from cus.estimators.transformers_weights import check_config, load_pretrained

LEAST_INVERSE, LARGEST_INVERSE = 1e-4, 1e4  # as in the public code


class DepthPro(OneViewNetwork):
    """Depth Pro, for one view."""

    name = "depth-pro"
    title = "Depth Pro"
    repositories = ("apple/DepthPro-hf",)
    licence = "Apple's machine learning research model licence (apple-amlr): for research only"
    rule = FrameRule(longest_side=1536, patch=2, step=2, fill=None, one_size=True)
    sees_lens = True

    def check(self, path: Path, weights: str) -> None:
        """Check the configuration."""
        config = check_config(path, "depth_pro", self.title)
        if not config.get("use_fov_model"):
            raise InputError(f"the weights in {path.parent} do not tell the field of view; use {self.repositories[0]}")

    def predict(
        self,
        path: Path,
        framed: FramedViews,
        given: Cameras | None,
        device: torch.device,
        report: Callable[[int], None],
    ) -> Prediction:
        """Predict depth in metres, and the lens."""
        from transformers import DepthProForDepthEstimation  # imported here because it takes seconds

        model: Any = load_pretrained(DepthProForDepthEstimation, path, self.title).to(device)
        report(1)
        picture = framed.pictures[0][None].to(device)
        height, width = picture.shape[-2:]
        side = round(model.config.patch_size / model.config.scaled_images_ratios[0])
        square = F.interpolate(picture, (side, side), mode="bilinear", align_corners=False)
        with torch.no_grad():
            found = model(pixel_values=2 * square.clamp(0, 1) - 1)
        inverse = F.interpolate(found.predicted_depth[:, None], (height, width), mode="bilinear", align_corners=False)
        # Valid for a focal length equal to the frame's width; ours is relative to the longer side.
        over_focal = max(width, height) / width / inverse[0, 0].clamp(LEAST_INVERSE, LARGEST_INVERSE)
        report(2)
        return self.seen_through(over_focal, framed, given, float(found.field_of_view[0]), metric=True)
