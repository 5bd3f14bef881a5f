"""Converts results of a run's stages to tensors for saving, and back."""

from dataclasses import fields

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, FusedCloud, Layers
from cus.inference.folder import State
from cus.scene import SceneEstimate
from cus.splats import Gaussians
from cus.tensor_files import from_bytes, to_bytes

LAYERS = "layers."  # prefix of the layers' tensors in a saved conditioning


def scene_state(scene: SceneEstimate, valid: Tensor) -> State:
    """An estimate for saving, with its valid pixels [V, H, W] bool."""
    cameras = {"viewmats": scene.cameras.viewmats, "Ks": scene.cameras.Ks}
    maps = {"images": scene.images, "depths": scene.depths, "confidences": scene.confidences, "valid": valid}
    found = {"left_out": torch.tensor(scene.left_out, dtype=torch.int64)}
    if scene.focal_range is not None:
        found["focal_range"] = torch.tensor(scene.focal_range, dtype=torch.float64)
    return State(maps | cameras | found, scene.notes)


def scene_from(state: State) -> SceneEstimate:
    """Restore the estimate saved by `scene_state`."""
    tensors = state.tensors
    height, width = tensors["images"].shape[-2:]
    cameras = Cameras(tensors["viewmats"], tensors["Ks"], width, height)
    left_out = tuple(tensors["left_out"].tolist()) if "left_out" in tensors else ()
    maps = tensors["images"], cameras, tensors["depths"], tensors["confidences"]
    focal_range = None
    if "focal_range" in tensors:
        low, high = tensors["focal_range"].tolist()
        focal_range = low, high
    return SceneEstimate(*maps, notes=state.notes, left_out=left_out, focal_range=focal_range)


def state_of(value: Conditioning | Gaussians) -> State:
    """The tensors of a dataclass for saving; a conditioning's layers in 8 bits, like photographs."""
    values = {field.name: getattr(value, field.name) for field in fields(value)}
    tensors = {name: tensor for name, tensor in values.items() if isinstance(tensor, Tensor)}
    layers = value.layers if isinstance(value, Conditioning) else None
    if layers is not None:
        tensors |= {f"{LAYERS}{name}": to_bytes(getattr(layers, name)) for name in ("images", "gate")}
        tensors[f"{LAYERS}masks"] = layers.masks
    return State(tensors)


def conditioning_from(state: State) -> Conditioning:
    """Restore the conditioning saved by `state_of`."""
    tensors = state.tensors
    layers = None
    if f"{LAYERS}gate" in tensors:
        images, masks, gate = (tensors[f"{LAYERS}{name}"] for name in ("images", "masks", "gate"))
        layers = Layers(from_bytes(images), masks, from_bytes(gate))
    resolved = tensors.get("resolved")
    return Conditioning(tensors["images"], tensors["masks"], tensors["depths"], layers, resolved)


def cloud_state(cloud: FusedCloud) -> State:
    """A point cloud for saving."""
    tensors = {"points": cloud.points, "colors": cloud.colors, "counts": cloud.counts}
    return State(tensors | {"needed": torch.tensor(cloud.needed)})


def cloud_from(state: State) -> FusedCloud:
    """Restore the cloud saved by `cloud_state`."""
    tensors = state.tensors
    return FusedCloud(tensors["points"], tensors["colors"], tensors["counts"], int(tensors["needed"]))


def frames_state(frames: Tensor) -> State:
    """Frames [T, 3, H, W] for saving."""
    return State({"frames": frames})


def frames_from(state: State) -> Tensor:
    """Restore the frames saved by `frames_state`."""
    return state.tensors["frames"]
