"""Weights with which Depth Anything 3 sees a wall: its own network, all of whose answers are known beforehand."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

KEYS = json.loads((Path(__file__).parent.parent / "golden" / "da3_checkpoint_keys.json").read_text())
WIDTH = 384
MARK = math.sqrt(WIDTH / 2)  # of the first channel of a camera token that says "not the reference"
DEPTH = math.e  # of the wall everywhere, in the network's unit


def wall_state(step: float = 0.0, fields: tuple[float, float] = (0.2, 0.93), depth: float = DEPTH) -> dict[str, Tensor]:
    """float16 tensors of the small network, named as in the public file.

    Layers of zeros leave tokens what they are, so what the camera decoder reads is what the camera tokens say.

    Args:
        step: how far to the right of the reference all other cameras stand, in the network's unit, whether cameras are
            given or not.
        fields: vertical and horizontal field of view in radians.
        depth: of every pixel, in the network's unit.
    """
    state = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in KEYS["da3-small"].items()}
    state["backbone.pretrained.camera_token"][0, 1, 0] = MARK
    # Given cameras whose x is positive come out of the normalisations with the same mark.
    state["cam_enc.pose_branch.fc1.weight"][0, 0] = 100.0
    state["cam_enc.pose_branch.fc2.weight"][:2, 0] = torch.tensor([1.0, -1.0])
    state["cam_enc.token_norm.weight"][:] = 1.0
    state["cam_enc.trunk_norm.weight"][0] = 1.0
    state["cam_dec.backbone.0.weight"][0, 0] = 1 / 16
    state["cam_dec.backbone.2.weight"][0, 0] = 1.0
    state["cam_dec.fc_t.weight"][0, 0] = step * 16 / MARK
    state["cam_dec.fc_qvec.bias"][3] = 1.0
    state["cam_dec.fc_fov.0.bias"][:] = torch.tensor(fields)
    state["head.scratch.output_conv2.2.bias"][:] = torch.tensor([math.log(depth), math.log(4.0)])
    return {f"model.{name}": value for name, value in state.items()}


def wall_checkpoint(folder: Path, **options) -> str:
    """Writes `wall_state` as the Hub's repositories hold it, and names it as an estimator."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(wall_state(**options), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_name": "da3-small"}))
    return f"da3:{folder}"
