"""Depth Pro and Depth Anything V2 through small networks of transformers' own classes, from a folder to a scene."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.estimators.choice import REGISTRY, choose, prepare
from cus.estimators.framing import frame_views
from cus.estimators.one_view import FIELD
from tests.hub.client import connect, put_folder
from tests.hub.repositories import Repository
from tests.hub.server import running

HIGH, WIDE = 40, 60
BACKBONE = {
    "model_type": "dinov2",
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "mlp_ratio": 2,
}


def depth_pro() -> Any:
    from transformers import DepthProConfig, DepthProForDepthEstimation

    part = BACKBONE | {"image_size": 32, "patch_size": 8}
    config = DepthProConfig(
        patch_size=32,
        fusion_hidden_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[10, 8],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.25],
        scaled_images_feature_dims=[12, 12],
        merge_padding_value=1,
        num_fov_head_layers=1,
        use_fov_model=True,
        image_model_config=dict(part),
        patch_model_config=dict(part),
        fov_model_config=dict(part),
    )
    return DepthProForDepthEstimation(config)


def depth_anything_2(kind: str = "metric") -> Any:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

    backbone = BACKBONE | {
        "image_size": 56,
        "patch_size": 14,
        "out_indices": [1, 2, 3, 4],
        "reshape_hidden_states": False,
    }
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20,
    )
    return DepthAnythingForDepthEstimation(config)


MAKERS = {"depth-pro": depth_pro, "depth-anything-2": depth_anything_2}
BOTH = pytest.mark.parametrize("name", list(MAKERS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, make in MAKERS.items():
        torch.manual_seed(1)
        folders[name] = tmp_path_factory.mktemp(name)
        model = make()
        if name == "depth-pro":
            # A head of random weights may say nothing at all; this one says 0.25 and some 60 degrees.
            with torch.no_grad():
                model.head.layers[4].bias.fill_(0.25)
                model.head.layers[4].weight.mul_(0.05)
                model.fov_model.head.layers[-1].bias.fill_(60.0)
        model.save_pretrained(folders[name])
    return folders


def photograph() -> torch.Tensor:
    return torch.rand(1, 3, HIGH, WIDE, generator=torch.Generator().manual_seed(0))


@BOTH
def test_one_photograph_has_depth_in_metres(folders, name):
    scene = estimate_scene(photograph(), estimator=f"{name}:{folders[name]}")
    assert len(scene) == 1 and bool((scene.depths > 0).all()) and torch.equal(scene.cameras.viewmats[0], torch.eye(4))
    assert scene.scale == pytest.approx(1, abs=1e-4)
    told = " ".join(scene.notes)
    assert f"metres by {REGISTRY[name].title}" in told
    assert (f"{FIELD:g} degrees along the longer side are taken" in told) == (name == "depth-anything-2")


def test_depth_pro_gives_what_the_processor_of_transformers_makes_of_it(folders):
    from transformers import DepthProForDepthEstimation, DepthProImageProcessor

    network: Any = REGISTRY["depth-pro"]
    framed = frame_views(photograph(), None, network.rule)
    with torch.no_grad():
        output = network.run(network.load(folders["depth-pro"] / "model.safetensors"), framed, None)
    said = network.prediction(output, framed, None)
    height, width = framed.pictures[0].shape[-2:]

    model = DepthProForDepthEstimation.from_pretrained(folders["depth-pro"]).eval()
    processor = DepthProImageProcessor(size={"height": 64, "width": 64})
    with torch.no_grad():
        found = model(**processor(images=framed.pictures[0], do_rescale=False, return_tensors="pt"))
    wanted = processor.post_process_depth_estimation(found, target_sizes=[(height, width)])[0]
    assert float(said.Ks[0, 0, 0]) == pytest.approx(float(wanted["focal_length"]), rel=1e-3)
    torch.testing.assert_close(said.depths[0], wanted["predicted_depth"], rtol=1e-3, atol=1e-4)


def test_depth_anything_gives_what_the_model_says_of_the_framed_picture(folders):
    from transformers import DepthAnythingForDepthEstimation

    network: Any = REGISTRY["depth-anything-2"]
    framed = frame_views(photograph(), None, network.rule)
    with torch.no_grad():
        output = network.run(network.load(folders["depth-anything-2"] / "model.safetensors"), framed, None)
    said = network.prediction(output, framed, None)
    model = DepthAnythingForDepthEstimation.from_pretrained(folders["depth-anything-2"]).eval()
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = model(pixel_values=((framed.pictures[0] - mean) / deviation)[None]).predicted_depth[0]
    torch.testing.assert_close(said.depths[0], wanted)
    assert 0 < float(wanted.min()) and float(wanted.max()) < 20


@BOTH
def test_a_known_lens_is_kept_and_scales_what_depends_on_it(folders, name):
    estimator, focals = f"{name}:{folders[name]}", torch.tensor([100.0])
    scene = estimate_scene(photograph(), estimator=estimator, focals=focals)
    assert float(scene.cameras.Ks[0, 0, 0]) == pytest.approx(100.0)
    assert not any("are taken" in note for note in scene.notes)
    K = torch.tensor([[[100.0, 0, WIDE / 2], [0, 100.0, HIGH / 2], [0, 0, 1]]])
    given = estimate_scene(photograph(), Cameras(torch.eye(4)[None], K, WIDE, HIGH), estimator)
    # By either way the same shape; given cameras keep the metre, else the unit is the scene scale.
    torch.testing.assert_close(given.depths / given.scale, scene.depths, rtol=1e-3, atol=1e-3)
    metres = next(note for note in scene.notes if "metres" in note)
    assert f"{given.scale:.3g}"[:3] in metres


@BOTH
def test_weights_of_another_network_are_refused_by_name(folders, name, tmp_path):
    other = next(key for key in MAKERS if key != name)
    with pytest.raises(InputError, match=f"is of a model of type .* and {REGISTRY[name].title} is"):
        prepare(f"{name}:{folders[other]}", 1)
    (tmp_path / "model.safetensors").write_bytes((folders[name] / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"needs config.json next to model.safetensors"):
        prepare(f"{name}:{tmp_path}", 1)
    (tmp_path / "config.json").write_text((folders[name] / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folders[name] / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read as"):
        estimate_scene(photograph(), estimator=f"{name}:{tmp_path}")


@BOTH
def test_tensors_that_are_missing_are_named(folders, name, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(folders[name] / "model.safetensors")
    gone = sorted(state)[0]
    save_file(
        {key: value for key, value in state.items() if key != gone}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    (tmp_path / "config.json").write_text((folders[name] / "config.json").read_text())
    with pytest.raises(InputError, match="missing"):
        estimate_scene(photograph(), estimator=f"{name}:{tmp_path}")


def test_relative_models_are_refused_with_a_metric_one_as_remedy(tmp_path):
    depth_anything_2("relative").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="relative depth.*Metric-Indoor"):
        prepare(f"depth-anything-2:{tmp_path}", 1)


def test_depth_pro_without_its_field_of_view_is_refused(folders, tmp_path):
    config = json.loads((folders["depth-pro"] / "config.json").read_text()) | {"use_fov_model": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folders["depth-pro"] / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="do not tell the field of view"):
        prepare(f"depth-pro:{tmp_path}", 1)


@BOTH
def test_the_licence_and_the_repository_are_named_where_nothing_can_be_downloaded(name, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=f"{REGISTRY[name].repositories[0]}"):  # pyright: ignore
        prepare(name, 1)


@BOTH
def test_from_a_download_to_depth_once_and_then_without_a_network(name, folders, monkeypatch, tmp_path):
    from huggingface_hub import constants

    repository = REGISTRY[name].repositories[0]  # pyright: ignore[reportAttributeAccessIssue]
    with running() as hub:
        connect(monkeypatch, hub.endpoint, tmp_path / "home")
        hub.repositories[repository] = Repository(repository)
        put_folder(hub, repository, folders[name])
        scene = estimate_scene(photograph(), estimator=name)
        assert scene.notes[-1] == f"estimator: {name} with {repository}"
        hub.log.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        again = estimate_scene(photograph())
        assert not hub.log and torch.equal(again.depths, scene.depths)
        assert again.notes[-1].startswith(f"estimator: {name} with {repository} (auto: ")


def test_short_names_stand_for_the_published_weights():
    assert choose("depth-anything-2:outdoor").weights == "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf"
