"""Depth Anything 3 against numbers of the public code (tests/golden), and the tensors of its public checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cus.estimators.networks.depth_anything_3 import SIZES, DepthAnything3
from cus.estimators.networks.vision_transformer import reference_first
from cus.estimators.predictions import cameras_from_pose_encodings, pose_encodings_from_cameras
from tests.golden.weights import state_dict

GOLDEN = Path(__file__).parent.parent / "golden"
BAR = 1e-4


@pytest.fixture(scope="module")
def network() -> DepthAnything3:
    """The small network with the weights of the rule."""
    with safe_open(GOLDEN / "da3_small.safetensors", framework="pt") as file:
        metadata = file.metadata()
    weights = state_dict(json.loads(metadata["shapes"]))
    for name, value in json.loads(metadata["exceptions"]).items():
        weights[name] = torch.full_like(weights[name], value)
    with torch.device("meta"):
        network = DepthAnything3(SIZES[0])
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return {name: value[0] for name, value in load_file(GOLDEN / "da3_small.safetensors").items()}


def error(values: Tensor, expected: Tensor) -> float:
    assert values.shape == expected.shape
    return float((values - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", ["one", "two", "two_posed", "four"])
def test_depths_confidences_and_cameras_are_those_of_the_public_code(network, reference, case):
    of = {name.removeprefix(f"{case}."): value for name, value in reference.items() if name.startswith(f"{case}.")}
    height, width = of["images"].shape[-2:]
    known = None
    if case == "two_posed":
        known = pose_encodings_from_cameras(torch.linalg.inv(of["in_extrinsics"]), of["in_intrinsics"], width, height)
    found = network(of["images"], known)
    assert error(found.depths, of["depth"]) < BAR and error(found.confidences, of["depth_conf"]) < BAR
    c2w, Ks = cameras_from_pose_encodings(found.cameras, width, height)
    assert error(torch.linalg.inv(c2w)[:, :3], of["extrinsics"]) < BAR and error(Ks, of["intrinsics"]) < BAR


def test_the_backbone_gives_the_features_of_the_public_code(network, reference):
    features, cameras = network.backbone["pretrained"](reference["two.images"])
    assert error(features[-1][..., :64], reference["two.backbone_last_patches"]) < BAR
    assert error(cameras, reference["two.backbone_last_camera"]) < BAR


def test_the_order_of_views_changes_nothing_where_the_reference_is_chosen(network, reference):
    order = torch.tensor([2, 0, 3, 1])
    found, moved = network(reference["four.images"]), network(reference["four.images"][order])
    assert error(moved.depths, found.depths[order]) < BAR and error(moved.cameras, found.cameras[order]) < BAR


def test_the_reference_is_the_view_in_the_middle_of_all_measures():
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(64, generator=generator)
    # Of equal directions the one of middle length; it comes first, and the others keep their order.
    assert reference_first(common * torch.tensor([[1.0], [3.0], [2.0], [1.1]])).tolist() == [2, 0, 1, 3]


def test_heads_are_float32_and_results_close_where_the_backbone_is_in_half_precision(network, reference):
    exact = network(reference["two.images"])
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(reference["two.images"])
    assert rough.depths.dtype == rough.cameras.dtype == torch.float32
    assert 0 < error(rough.depths, exact.depths) < 0.05 and error(rough.confidences, exact.confidences) < 0.05


@pytest.mark.parametrize("size", SIZES, ids=["small", "base"])
def test_every_tensor_of_the_public_checkpoints_has_its_place(size):
    with torch.device("meta"):
        state = DepthAnything3(size).state_dict()
    expected = json.loads((GOLDEN / "da3_checkpoint_keys.json").read_text())[f"da3-{size.name}"]
    assert {name: list(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize("shape", [(2, 3, 28, 30), (2, 4, 28, 28)])
def test_pictures_that_are_no_whole_patches_are_refused(network, shape):
    with pytest.raises(ValueError, match="multiples of 14"):
        network(torch.zeros(shape))
