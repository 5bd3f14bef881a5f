"""MapAnything (Keetha et al. 2025, arXiv 2509.13414): metric cameras and depths of all views in one pass of a network.

Assumptions on the package, https://github.com/facebookresearch/map-anything, all of it used only in this file:

- `mapanything.models.MapAnything.from_pretrained(folder)` reads `config.json` and `model.safetensors`, like
  huggingface_hub's mixin for torch modules.
- `model.infer(views, ...)` takes a list of dicts: `img` [1, 3, H, W], normalised with ImageNet's mean and deviation,
  and `data_norm_type` ["dinov2"]; H and W are multiples of 14, the same for all views, the longest side 518. Known
  cameras are `intrinsics` [1, 3, 3] and `camera_poses` [1, 4, 4], camera-to-world with OpenCV axes, for all views, and
  `is_metric_scale` [1] bool.
- It returns a dict for each view, with `depth_z` [1, H, W, 1] (0 where it sees no surface), `conf` [1, H, W], >= 1,
  `intrinsics` and `camera_poses` in one world, in metres. The first pixel is at (0, 0) there and at (0.5, 0.5) here.
"""

from pathlib import Path
from typing import Any

import torch

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.estimator import Network, half_precision
from cus.estimators.framing import FramedViews, FrameRule, normalised
from cus.estimators.predictions import Prediction


class MapAnything(Network):
    """MapAnything, for two or more views."""

    name = "map-anything"
    title = "MapAnything"
    repositories = ("facebook/map-anything-apache", "facebook/map-anything")
    licence = "facebook/map-anything-apache: Apache-2.0; facebook/map-anything: CC BY-NC 4.0, not for commercial use"
    package = "mapanything"
    install = "pip install git+https://github.com/facebookresearch/map-anything"
    rule = FrameRule(longest_side=518, patch=14, step=14, fill=1.0, one_size=True)

    def import_package(self) -> object:
        """Import the network's class."""
        return _network_class()

    def check(self, path: Path, weights: str) -> None:
        """Refuse a file without `config.json` next to it."""
        if not (path.parent / "config.json").is_file():
            raise InputError(f"{path.parent} lacks config.json; get the checkpoint {weights} again")

    def read(self, path: Path) -> Any:
        """Read `config.json` and the weights next to it."""
        return _network_class().from_pretrained(str(path.parent))

    def run(self, model: Any, framed: FramedViews, given: Cameras | None) -> list[dict[str, Any]]:
        """The network's output for each view; known cameras are shown to it. In half precision on CUDA only."""
        views = []
        for index, picture in enumerate(framed.pictures):
            views.append({"img": normalised(picture)[None], "data_norm_type": ["dinov2"]})
            if given is not None:
                K = framed.Ks_of_frames(given.Ks)[index].clone()
                K[:2, 2] -= 0.5
                views[-1] |= {
                    "intrinsics": K[None],
                    "camera_poses": given.c2w[index][None],
                    "is_metric_scale": torch.tensor([False], device=picture.device),
                }
        device = framed.pictures[0].device
        return model.infer(
            views,
            memory_efficient_inference=False,
            use_amp=device.type == "cuda",
            amp_dtype="fp16" if device.type == "cuda" and half_precision(device) == torch.float16 else "bf16",
            apply_mask=True,
            mask_edges=False,
        )

    def prediction(self, output: list[dict[str, Any]], framed: FramedViews, given: Cameras | None) -> Prediction:
        """Its cameras, and depths in metres."""
        c2w = torch.cat([view["camera_poses"] for view in output]).float()
        Ks = torch.cat([view["intrinsics"] for view in output]).float()
        Ks[:, :2, 2] += 0.5
        depths, confidences = ([view[name][0].float() for view in output] for name in ("depth_z", "conf"))
        depths = [depth[..., 0] for depth in depths]
        return Prediction(self.title, torch.linalg.inv(c2w), Ks, depths, confidences, metric=True)


def _network_class() -> Any:
    from mapanything.models import MapAnything  # pyright: ignore[reportMissingImports]

    return MapAnything
