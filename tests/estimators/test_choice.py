"""Which estimator is taken, what is downloaded and what is not, and what the user reads where something is missing."""

import os
import pickle
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cus.errors import InputError
from cus.estimators import ESTIMATORS, estimate_scene
from cus.estimators.choice import choose, prepare
from cus.estimators.vggt import VGGT
from tests.estimators import planes
from tests.estimators.photographs import CHECKPOINTS, photographs
from tests.hub.client import connect, put_folder
from tests.hub.repositories import Repository
from tests.hub.server import Hub, running

PHOTOS = photographs([(160, 120)] * 2, (0.1, 0.6))
OWN = {"vggt": "facebook/VGGT-1B", "dust3r": "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"}
COMMERCIAL = "facebook/VGGT-1B-Commercial"
BOTH = pytest.mark.parametrize("network", ["vggt", "dust3r"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub with the checkpoints, and an empty cache."""
    with running() as hub:
        connect(monkeypatch, hub.endpoint, tmp_path / "home")
        for network, repository in OWN.items():
            CHECKPOINTS[network](tmp_path / network, PHOTOS)
            hub.repositories[repository] = Repository(repository)
            put_folder(hub, repository, tmp_path / network)
        hub.repositories[COMMERCIAL] = Repository(COMMERCIAL, gated=True, admitted={"tester"})
        # Tensors alone, without a configuration: of the size that the package has by default.
        state = load_file(tmp_path / "vggt" / "model.safetensors") | {"aggregator.width": torch.zeros(8)}
        torch.save(state, tmp_path / "checkpoint.pt")
        hub.repositories[COMMERCIAL].put({"vggt_1B_commercial.pt": (tmp_path / "checkpoint.pt").read_bytes()})
        yield hub


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_auto_takes_stereo_where_no_network_can_be_had_and_says_why(hub):
    if find_spec("vggt") is not None:
        pytest.skip("vggt is installed here")
    choice = choose("auto")
    assert choice.estimator == "stereo" and not hub.log
    assert choice.note == (
        "estimator: stereo (auto: VGGT is not installed; Depth Anything 3's weights are not on this machine (da3 "
        "downloads them))"
    )


def test_auto_downloads_nothing_and_takes_vggt_once_its_weights_are_there(stand_ins, hub, tmp_path):
    choice = prepare("auto")
    assert choice.name == "stereo" and "weights are not on this machine" in choice.note and not hub.log
    prepare("vggt")
    hub.log.clear()
    scene = estimate_scene(PHOTOS.images)
    assert not hub.log
    assert scene.notes[-1] == "estimator: vggt with facebook/VGGT-1B (auto: its weights are on this machine)"
    assert (scene.depths / PHOTOS.depths).std() < 0.1


def test_auto_takes_the_commercial_checkpoint_where_it_alone_is_there(stand_ins, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    prepare(f"vggt:{COMMERCIAL}")
    assert choose("auto").estimator == f"vggt:{COMMERCIAL}"


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        ("import a_package_that_is_not_there\n", "No module named 'a_package_that_is_not_there'"),
        ("raise RuntimeError('built for another machine')\n", "built for another machine"),
    ],
)
def test_auto_says_why_a_package_that_is_installed_cannot_be_used(stand_ins, monkeypatch, tmp_path, code, trouble):
    (tmp_path / "vggt").mkdir()
    (tmp_path / "vggt" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert f"VGGT cannot be imported: {trouble}" in choose("auto").note
    with pytest.raises(InputError, match="cannot be imported.*pip install"):
        prepare("vggt")


def test_auto_takes_stereo_where_vggt_does_not_fit_into_memory(stand_ins, monkeypatch, tmp_path):
    photos = photographs([(320, 240)] * 2, (0.1, 0.6))
    CHECKPOINTS["vggt"](tmp_path / "weights", photos, memory=torch.tensor([1.0]))
    with running() as hub:
        connect(monkeypatch, hub.endpoint, tmp_path / "home")
        hub.repositories[OWN["vggt"]] = Repository(OWN["vggt"])
        put_folder(hub, OWN["vggt"], tmp_path / "weights")
        prepare("vggt")
        with pytest.raises(InputError, match="memory is too small for VGGT"):
            estimate_scene(photos.images, estimator="vggt")
        scene = estimate_scene(photos.images, photos.cameras)
    assert "estimator: stereo (auto: VGGT with 2 photographs needs more memory" in scene.notes[-1]


@BOTH
def test_a_named_estimator_downloads_its_weights_once(stand_ins, hub, monkeypatch, network):
    scene = estimate_scene(PHOTOS.images, estimator=network)
    assert scene.notes[-1] == f"estimator: {network} with {OWN[network]}"
    assert sum(method == "GET" and "/content/" in path for method, path in hub.log) == 1
    hub.log.clear()
    offline(monkeypatch)
    estimate_scene(PHOTOS.images, estimator=network)
    assert not hub.log


@BOTH
def test_weights_that_cannot_be_had_offline_are_named_with_their_licence(stand_ins, hub, monkeypatch, network):
    offline(monkeypatch)
    with pytest.raises(InputError, match=f"{OWN[network]} .*commercial.*not in the Hub's cache.*'stereo'"):
        prepare(network)


def test_a_hub_that_does_not_answer_is_told(stand_ins, monkeypatch, tmp_path):
    connect(monkeypatch, "http://127.0.0.1:1", tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client tries again for half a minute
    with pytest.raises(InputError, match="Hub cannot be reached"):
        prepare("vggt")


def test_a_licence_that_has_to_be_accepted_is_told(stand_ins, hub, monkeypatch):
    with pytest.raises(InputError, match=f"licence is accepted.*huggingface.co/{COMMERCIAL}.*hf auth login"):
        prepare(f"vggt:{COMMERCIAL}")
    monkeypatch.setenv("HF_TOKEN", "secret")
    scene = estimate_scene(PHOTOS.images, estimator=f"vggt:{COMMERCIAL}")
    assert COMMERCIAL in scene.notes[-1]


def test_repositories_without_such_weights_are_refused(stand_ins, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.repositories["org/other"] = Repository("org/other")
    hub.repositories["org/other"].put({"README.md": b"nothing here"})
    with pytest.raises(InputError, match="org/other holds none of model.safetensors"):
        prepare("vggt:org/other")
    with pytest.raises(InputError, match="knows no org/nothing"):
        prepare("vggt:org/nothing")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("sterio", "must be one of auto, stereo, vggt, dust3r, map-anything, da3"),
        ("stereo:org/name", "stereo takes no weights"),
        ("auto:org/name", "auto takes no weights"),
        ("vggt:", "no weights after vggt:"),
        ("da3:", "no weights after da3:"),
    ],
)
def test_names_that_mean_nothing_are_refused(estimator, message):
    with pytest.raises(InputError, match=message):
        choose(estimator)


@pytest.mark.parametrize("weights", ["nowhere", "./no/where", "a/b/c", "org/name with spaces"])
def test_weights_that_are_neither_a_path_nor_an_id_are_refused(stand_ins, weights):
    with pytest.raises(InputError, match="no weights at"):
        prepare(f"vggt:{weights}")


@BOTH
def test_folders_without_weights_are_refused(stand_ins, tmp_path, network):
    with pytest.raises(InputError, match="has no weights; expected one of model.safetensors"):
        prepare(f"{network}:{tmp_path}")


def test_stereo_is_named_too():
    views = planes.cameras((0.0, 0.5), width=320, height=240, focal=340.0)
    scene = estimate_scene(planes.render(views)[0], views, "stereo")
    assert scene.notes[-1] == "estimator: stereo"
    networks = {"vggt", "dust3r", "map-anything", "da3", "depth-pro", "depth-anything-2", "mono"}
    assert set(ESTIMATORS) == {"auto", "stereo"} | networks


@BOTH
@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "damaged", "config"])
def test_weights_of_something_else_are_refused(stand_ins, tmp_path, network, change):
    checkpoint = CHECKPOINTS[network](tmp_path, PHOTOS)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.endswith("viewmats"))
    if change == "missing":
        del state[name]
    elif change == "unknown":
        state["blocks.0.weight"] = torch.zeros(2)
    elif change == "shape":
        state[name] = torch.zeros(3, 4, 4)
    save_file(state, file)
    if change == "config":
        (tmp_path / "config.json").write_text("{")
    if change == "damaged":
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=str(tmp_path)) as refused:
        estimate_scene(PHOTOS.images, estimator=checkpoint)
    assert "again" in str(refused.value)


def test_a_pickle_that_would_run_code_is_refused(stand_ins, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "model.pt").write_bytes(pickle.dumps({"weight": Harm()}, protocol=2))
    with pytest.raises(InputError, match="cannot be read as weights"):
        VGGT().load(tmp_path / "model.pt")
    assert not (tmp_path / "harm").exists()
    torch.save(["no", "table"], tmp_path / "model.pt")
    with pytest.raises(InputError, match="something else than a table"):
        VGGT().load(tmp_path / "model.pt")


def test_a_pickled_checkpoint_of_dust3r_is_refused(stand_ins, tmp_path):
    file = tmp_path / "DUSt3R.pth"
    file.write_bytes(b"anything")
    with pytest.raises(InputError, match="can be read safely"):
        prepare(f"dust3r:{file}")


def test_the_heads_that_are_not_needed_are_not_built(stand_ins, tmp_path):
    CHECKPOINTS["vggt"](tmp_path, PHOTOS)
    model = VGGT().load(tmp_path / "model.safetensors")
    assert model.point_head is None and model.track_head is None and model.depth_head is not None
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
