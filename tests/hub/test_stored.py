"""Models of the Hub, from a real server on the loopback: what is fetched, when the cache serves, what errors say."""

import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.hub.errors import HubAccess
from cus.hub.fetch import parse_id
from cus.hub.stored import open_model, weight_files
from tests.diffusion.tiny import pictures, tiny_pipeline
from tests.hub.client import connect, put_folder, unused_endpoint
from tests.hub.repositories import Repository
from tests.hub.server import Account, Hub, running

PARTS = ("image_encoder", "image_projector", "prompt", "unet", "vae")
FILES = {"model_index.json", "scheduler/scheduler_config.json"} | {
    f"{part}/{name}" for part in PARTS for name in ("config.json", "diffusion_pytorch_model.safetensors")
}


class Trap:
    """Unpickled, it would leave a mark."""

    def __reduce__(self) -> tuple:
        return (open, ("unpickled", "w"))


@pytest.fixture(scope="module")
def pipeline() -> CloseUpShotPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def frames(saved: Path) -> torch.Tensor:
    return CloseUpShotPipeline.from_pretrained(saved)(pictures(1), pictures())


@pytest.fixture
def hub(saved: Path, tmp_path: Path, monkeypatch) -> Iterator[Hub]:
    """A Hub that holds org/tiny, with files beside the model that nobody asked for; this process uses it."""
    with running() as server:
        server.repositories["org/tiny"] = Repository("org/tiny")
        put_folder(server, "org/tiny", saved)
        extras = {"unet/diffusion_pytorch_model.bin": pickle.dumps(Trap()), "unet/unet.py": b"raise SystemExit\n"}
        server.repositories["org/tiny"].put(extras | {"README.md": b"# tiny\n", "optimizer.pt": b"x" * 1000})
        connect(monkeypatch, server.endpoint, tmp_path / "home")
        yield server


def asked(hub: Hub) -> set[str]:
    """Names of all files that the client asked anything about."""
    return {path.split("/", 5)[5] for _, path in hub.log if "/resolve/" in path}


def contents(hub: Hub) -> list[str]:
    """What was sent of large files, by digest."""
    return [path.rpartition("/")[2] for method, path in hub.log if method == "GET" and path.startswith("/content/")]


def refusal(source: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        CloseUpShotPipeline.from_pretrained(source, **options)
    return str(caught.value)


def with_variant(pipeline: CloseUpShotPipeline, folder: Path) -> Path:
    half = tiny_pipeline().to(torch.float16)
    half.save_pretrained(folder, variant="fp16")
    return folder


def test_a_model_of_the_hub_makes_the_frames_of_the_one_that_was_stored_and_nothing_else_is_asked_for(hub, frames):
    loaded = CloseUpShotPipeline.from_pretrained("org/tiny")
    assert torch.equal(loaded(pictures(1), pictures()), frames)
    assert asked(hub) == FILES
    assert loaded.name_or_path == f"org/tiny@{hub.repositories['org/tiny'].branches['main']}"
    assert not Path("unpickled").exists()


def test_what_is_cached_is_not_sent_again_and_a_new_commit_sends_what_changed_alone(hub, pipeline, saved):
    CloseUpShotPipeline.from_pretrained("org/tiny")
    assert len(contents(hub)) == len(set(contents(hub))) == 5
    hub.log.clear()
    CloseUpShotPipeline.from_pretrained("org/tiny")
    assert contents(hub) == [] and asked(hub) == {"model_index.json"}
    weights = load_file(saved / "prompt/diffusion_pytorch_model.safetensors")
    changed = {name: tensor + 1 for name, tensor in weights.items()}
    save_file(changed, saved.parent / "changed.safetensors", {"format": "pt"})
    data = (saved.parent / "changed.safetensors").read_bytes()
    hub.repositories["org/tiny"].put({"prompt/diffusion_pytorch_model.safetensors": data})
    loaded = CloseUpShotPipeline.from_pretrained("org/tiny")
    assert len(contents(hub)) == 1
    assert torch.equal(loaded.prompt.positive, pipeline.prompt.positive + 1)


def test_index_and_configs_can_be_had_without_any_weights(hub, saved):
    assert (
        open_model("org/tiny").index == open_model(saved).index == json.loads((saved / "model_index.json").read_text())
    )
    assert open_model("org/tiny").config("unet") == open_model(saved).config("unet")
    assert open_model("org/tiny").config("scheduler")["_class_name"] == "NoiseSchedule"
    assert asked(hub) == {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"}
    assert open_model("mini").config("unet")["model_channels"] == 80
    with pytest.raises(InputError, match="has no text_encoder; it has image_encoder"):
        open_model("org/tiny").config("text_encoder")


def test_a_revision_is_a_branch_or_commit_given_after_the_at_sign_or_by_name(hub, pipeline, saved, tmp_path):
    repository = hub.repositories["org/tiny"]
    first = repository.branches["main"]
    repository.branches["v2"] = first
    other = tiny_pipeline()
    torch.nn.init.ones_(other.prompt.positive)
    other.save_pretrained(tmp_path / "other")
    put_folder(hub, "org/tiny", tmp_path / "other", "v2")
    for source, revision in (("org/tiny@v2", None), ("org/tiny", "v2"), ("org/tiny@v2", "v2")):
        loaded = CloseUpShotPipeline.from_pretrained(source, revision=revision)
        assert torch.equal(loaded.prompt.positive, other.prompt.positive)
    assert torch.equal(
        CloseUpShotPipeline.from_pretrained(f"org/tiny@{first}").prompt.positive, pipeline.prompt.positive
    )
    assert "give one" in refusal("org/tiny@v2", revision="main")
    message = refusal("org/tiny@v3")
    assert "no revision 'v3'" in message and "main, v2" in message


def test_variants_and_shards_are_fetched_and_loaded_alone(hub, tmp_path, pipeline):
    hub.repositories["org/both"] = Repository("org/both")
    tiny_pipeline().save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    with_variant(tiny_pipeline(), tmp_path / "half")
    put_folder(hub, "org/both", tmp_path / "half")
    put_folder(hub, "org/both", tmp_path / "sharded")
    shards = {path.name for path in (tmp_path / "sharded/unet").glob("*-of-*.safetensors")}
    assert len(shards) > 2
    loaded = CloseUpShotPipeline.from_pretrained("org/both").unet.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in pipeline.unet.state_dict().items())
    unet = {name.removeprefix("unet/") for name in asked(hub) if name.startswith("unet/")}
    assert unet == shards | {"config.json", "diffusion_pytorch_model.safetensors.index.json"}
    hub.log.clear()
    half = CloseUpShotPipeline.from_pretrained("org/both", variant="fp16", dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in asked(hub) and not shards & {n[5:] for n in asked(hub)}
    assert "no variant 'bf16'; there is fp16, the standard one" in refusal("org/both", variant="bf16")


def test_where_only_a_variant_is_there_the_standard_weights_are_not_taken_for_it(hub, tmp_path):
    folder = with_variant(tiny_pipeline(), tmp_path / "half")
    assert "there is fp16" in refusal(str(folder))
    assert CloseUpShotPipeline.from_pretrained(folder, variant="fp16").unet is not None
    assert [path.name for path in weight_files(folder, "unet", "fp16")] == ["diffusion_pytorch_model.fp16.safetensors"]


def test_a_missing_shard_is_named_before_anything_large_is_sent(hub, tmp_path):
    hub.repositories["org/gap"] = Repository("org/gap")
    tiny_pipeline().save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    lost = sorted((tmp_path / "sharded/unet").glob("*-of-*.safetensors"))[1]
    lost.unlink()
    put_folder(hub, "org/gap", tmp_path / "sharded")
    assert lost.name in refusal("org/gap") and lost.name in refusal(str(tmp_path / "sharded"))
    assert contents(hub) == []


def test_an_index_that_leads_elsewhere_is_not_followed(hub, saved, tmp_path):
    index = json.loads((saved / "model_index.json").read_text())
    repository = hub.repositories["org/tiny"]
    repository.put({"model_index.json": json.dumps(index | {"unet": ["os", "system"]}).encode()})
    assert "asks for os.system" in refusal("org/tiny")
    repository.put({"model_index.json": json.dumps(index | {"../unet": ["cus.models.unet", "UNet"]}).encode()})
    assert "damaged" in refusal("org/tiny")
    repository.put({"model_index.json": json.dumps(index | {"_class_name": "AnotherPipeline"}).encode()})
    assert "holds a AnotherPipeline" in refusal("org/tiny")
    weight_map = {"a": "../../prompt/diffusion_pytorch_model.safetensors"}
    name = "unet/diffusion_pytorch_model.safetensors.index.json"
    repository.put({"model_index.json": json.dumps(index).encode()})
    repository.put({name: json.dumps({"weight_map": weight_map}).encode()})
    assert "damaged" in refusal("org/tiny")
    assert contents(hub) == []


def test_without_a_network_the_cache_serves_with_one_note_and_with_hf_hub_offline_without(
    hub, frames, monkeypatch, caplog, tmp_path
):
    CloseUpShotPipeline.from_pretrained("org/tiny")
    connect(monkeypatch, unused_endpoint(), tmp_path / "home")
    with caplog.at_level(logging.WARNING, logger="cus"):
        loaded = CloseUpShotPipeline.from_pretrained("org/tiny")
    notes = [record.getMessage() for record in caplog.records if record.name.startswith("cus")]
    assert torch.equal(loaded(pictures(1), pictures()), frames)
    assert len(notes) == 1 and hub.repositories["org/tiny"].branches["main"][:7] in notes[0]
    caplog.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    CloseUpShotPipeline.from_pretrained("org/tiny")
    CloseUpShotPipeline.from_pretrained("org/tiny", local_files_only=True)
    assert not [record for record in caplog.records if record.name.startswith("cus")]


def test_without_network_and_cache_the_message_says_what_forbids_or_prevents_asking(hub, monkeypatch, tmp_path):
    assert "local_files_only forbids" in refusal("org/tiny", local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refusal("org/tiny")
    connect(monkeypatch, unused_endpoint(), tmp_path / "home")
    assert "cannot be reached" in refusal("org/tiny") and "connect, or name a folder" in refusal("org/tiny")
    assert hub.log == []


def test_a_partly_fetched_model_is_not_taken_for_whole_without_a_network(hub, monkeypatch, tmp_path):
    open_model("org/tiny")
    connect(monkeypatch, unused_endpoint(), tmp_path / "home")
    assert "incomplete" in refusal("org/tiny")
    assert open_model("org/tiny").index["_class_name"] == "CloseUpShotPipeline"


def test_a_hub_that_fails_is_told_from_one_that_has_no_such_model(hub):
    hub.down = True
    assert "the Hub failed on org/tiny" in refusal("org/tiny")
    hub.down = False
    CloseUpShotPipeline.from_pretrained("org/tiny")
    hub.down = True
    assert CloseUpShotPipeline.from_pretrained("org/tiny").unet is not None


def test_models_that_are_not_there_or_not_for_everyone_say_how_to_log_in(hub, monkeypatch, tmp_path):
    assert "nor a model that you can see" in refusal("org/none")
    hub.repositories["org/tiny"].private = True
    assert "hf auth login" in refusal("org/tiny")
    connect(monkeypatch, hub.endpoint, tmp_path / "home", token="wrong")
    assert "does not accept the access token" in refusal("org/tiny")
    connect(monkeypatch, hub.endpoint, tmp_path / "home", token="secret")
    assert CloseUpShotPipeline.from_pretrained("org/tiny").unet is not None
    assert "nor a model that you can see" in refusal("org/none")


def test_a_token_that_may_not_read_is_told_from_a_hub_that_cannot_be_reached(hub, monkeypatch, tmp_path):
    hub.accounts["blind"] = Account("blind", ("org",), reads=False)
    connect(monkeypatch, hub.endpoint, tmp_path / "home", token="blind")
    message = refusal("org/tiny")
    assert "the access token may not do this" in message and "reached" not in message


def test_a_gated_model_says_where_to_ask_and_loads_for_those_admitted(hub, monkeypatch, tmp_path):
    repository = hub.repositories["org/tiny"]
    repository.gated = True
    assert f"ask for access at {hub.endpoint}/org/tiny" in refusal("org/tiny")
    connect(monkeypatch, hub.endpoint, tmp_path / "home", token="secret")
    assert "is gated" in refusal("org/tiny")
    repository.admitted.add("tester")
    assert CloseUpShotPipeline.from_pretrained("org/tiny").unet is not None


def test_a_repository_without_a_pipeline_says_so(hub):
    hub.repositories["org/notes"] = Repository("org/notes")
    assert "has no model_index.json" in refusal("org/notes")


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, frames):
    weights = hub.repositories["org/tiny"].files()["unet/diffusion_pytorch_model.safetensors"]
    hub.breaks[weights.sha256] = len(weights.data) // 2
    loaded = CloseUpShotPipeline.from_pretrained("org/tiny")
    assert torch.equal(loaded(pictures(1), pictures()), frames)
    assert contents(hub).count(weights.sha256) == 2


def test_what_has_arrived_before_a_failure_is_not_sent_again(hub, frames):
    lost = hub.repositories["org/tiny"].files()["unet/diffusion_pytorch_model.safetensors"].sha256
    hub.lost.add(lost)
    assert "the Hub failed on org/tiny" in refusal("org/tiny")
    hub.lost.clear()
    assert torch.equal(CloseUpShotPipeline.from_pretrained("org/tiny")(pictures(1), pictures()), frames)
    sent = contents(hub)
    assert sent.count(lost) == 2 and len(sent) == len(set(sent)) + 1


def test_too_small_a_disk_is_known_before_anything_is_fetched(hub):
    hub.claims["vae/diffusion_pytorch_model.safetensors"] = 10**16
    message = refusal("org/tiny")
    assert "needs 10000000.00 GB more" in message and "HF_HOME" in message
    assert contents(hub) == []


def test_a_cache_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refusal("org/tiny", cache_dir=tmp_path / "file")


def test_progress_is_told_in_bytes_up_to_all_of_them_and_only_where_something_is_fetched(hub, capfd):
    told: list[tuple[int, int]] = []
    sizes = [len(blob.data) for path, blob in hub.repositories["org/tiny"].files().items() if path in FILES]
    weights = hub.repositories["org/tiny"].files()["unet/diffusion_pytorch_model.safetensors"]
    # The client waits a second before it takes a broken connection up: time to be asked how far it is.
    hub.breaks[weights.sha256] = len(weights.data) // 2
    CloseUpShotPipeline.from_pretrained("org/tiny", on_fetched=lambda done, total: told.append((done, total)))
    index = len(hub.repositories["org/tiny"].files()["model_index.json"].data)
    assert told[-1] == (sum(sizes) - index, sum(sizes) - index) and len(told) > 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert "Fetching" not in capfd.readouterr().err
    told.clear()
    CloseUpShotPipeline.from_pretrained("org/tiny", on_fetched=lambda done, total: told.append((done, total)))
    assert told == []


def test_fetching_again_replaces_what_the_cache_holds(hub):
    CloseUpShotPipeline.from_pretrained("org/tiny")
    hub.log.clear()
    CloseUpShotPipeline.from_pretrained("org/tiny", force_download=True)
    assert len(contents(hub)) == 5


def test_damaged_weights_in_the_cache_are_refused(hub):
    pipeline = CloseUpShotPipeline.from_pretrained("org/tiny")
    commit = pipeline.name_or_path.rpartition("@")[2]
    cached = Path(constants.HF_HUB_CACHE) / "models--org--tiny/snapshots" / commit / "unet"
    file = cached / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "get it again" in refusal("org/tiny")
    assert CloseUpShotPipeline.from_pretrained("org/tiny", force_download=True).unet is not None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("org/name@v2", ("org/name", "v2")),
        ("org/name@refs/pr/1", ("org/name", "refs/pr/1")),
        ("./name", None),
        ("/name", None),
        ("~/name", None),
        ("a/b/c", None),
        ("name", None),
        ("org/", None),
    ],
)
def test_names_are_hub_ids_with_a_revision_or_paths(name: str, expected: tuple | None):
    assert parse_id(name) == expected


def test_a_folder_is_never_sought_on_the_hub_and_code_is_never_run(hub, saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    Path("org").mkdir()
    (Path("org") / "tiny").symlink_to(saved)
    assert open_model("org/tiny", access=HubAccess(revision="none")).index["_class_name"] == "CloseUpShotPipeline"
    assert hub.log == []
    with pytest.raises(ValueError, match="no code of others"):
        CloseUpShotPipeline.from_pretrained(saved, custom_pipeline="org/code")
