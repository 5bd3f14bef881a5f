"""VGGT (Wang et al. 2025): cameras and depths of all views in one pass of a network.

Assumptions on the package, https://github.com/facebookresearch/vggt, all of it used only in this file:

- `vggt.models.vggt.VGGT(img_size, patch_size, embed_dim, enable_camera, enable_point, enable_depth, enable_track)` is
  a torch module; with `enable_point` and `enable_track` off it has no tensors named `point_head.*` and
  `track_head.*`, and all others are those of the published checkpoints.
- `model(images)` takes [B, S, 3, H, W] in [0, 1], H and W multiples of 14, longest side 518 as in training, pictures of
  other shapes padded with white in the middle of a common frame. It runs its heads in float32 by itself, also under
  autocast.
- It returns a dict with `pose_enc` [B, S, 9], `depth` [B, S, H, W, 1] and `depth_conf` [B, S, H, W], >= 1.
- The nine numbers are encodings as in `cus.estimators.predictions`, of the world-to-camera transform.
- The first view is the world frame (approximately, because it is predicted, too), and the mean distance of the points
from it is about 1.
"""

import json
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cus.cameras import Cameras
from cus.errors import InputError, first_line
from cus.estimators.estimator import Network, half_precision
from cus.estimators.framing import FramedViews, FrameRule
from cus.estimators.predictions import Prediction, cameras_from_pose_encodings

UNUSED = ("point_head.", "track_head.")


class VGGT(Network):
    """VGGT, for two or more views."""

    name = "vggt"
    title = "VGGT"
    repositories = ("facebook/VGGT-1B", "facebook/VGGT-1B-Commercial")
    files = ("model.safetensors", "model.pt", "vggt_1B_commercial.pt")
    licence = "facebook/VGGT-1B: for research only; facebook/VGGT-1B-Commercial: commercial use, under its own terms"
    package = "vggt"
    install = (
        "pip install --no-deps git+https://github.com/facebookresearch/vggt && pip install einops huggingface_hub "
        "safetensors (--no-deps, because the package asks for numpy<2 and works without)"
    )
    rule = FrameRule(longest_side=518, patch=14, step=14, fill=1.0, one_size=True)

    def import_package(self) -> object:
        """Import the network's class."""
        return _network_class()

    def read(self, path: Path) -> nn.Module:
        """Read a checkpoint, without the unused heads."""
        options: dict[str, Any] = {}
        if (path.parent / "config.json").is_file():
            try:
                config = dict(json.loads((path.parent / "config.json").read_text()))
            except (OSError, ValueError, TypeError) as error:
                raise InputError(f"{path.parent / 'config.json'} cannot be read ({error}); get it again") from error
            options = {name: config[name] for name in ("img_size", "patch_size", "embed_dim") if name in config}
        model = _network_class()(**options, enable_point=False, enable_track=False)
        state = {name: value for name, value in _read_state(path).items() if not name.startswith(UNUSED)}
        wanted = model.state_dict()
        missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
        if missing or unknown:
            raise InputError(
                f"{path} does not hold the weights of VGGT: missing {missing[:3]}, unknown {unknown[:3]}; get it again"
            )
        other = [name for name, value in state.items() if value.shape != wanted[name].shape]
        if other:
            shapes = f"{tuple(state[other[0]].shape)}, expected {tuple(wanted[other[0]].shape)}"
            raise InputError(f"{path} holds another size of VGGT: {other[0]} is {shapes}; get it again")
        model.load_state_dict(state, strict=True)
        return model

    def run(self, model: nn.Module, framed: FramedViews, given: Cameras | None) -> dict[str, Tensor]:
        """Run the network; on CUDA the aggregator runs in half precision, the heads do not. A CPU takes float32."""
        pictures = torch.stack(framed.pictures)
        half = half_precision(pictures.device) if pictures.is_cuda else None
        with nullcontext() if half is None else torch.autocast("cuda", dtype=half):
            return model(pictures[None])

    def prediction(self, output: dict[str, Tensor], framed: FramedViews, given: Cameras | None) -> Prediction:
        """Its cameras, depths and confidences."""
        height, width = framed.pictures[0].shape[-2:]
        viewmats, Ks = cameras_from_pose_encodings(output["pose_enc"][0].float(), width, height)
        depths, confidences = output["depth"][0, ..., 0].float(), output["depth_conf"][0].float()
        return Prediction(self.title, viewmats, Ks, list(depths), list(confidences))


def _network_class() -> Any:
    from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports]

    return VGGT


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Only tensors are unpickled: a file that would execute code is refused.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise InputError(f"{path} cannot be read as weights ({first_line(error)}); get it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds something else than a table of tensors; get it again")
    return state
