"""`cus-push` and `push_to_hub` against a real server on the loopback, and back again by `cus-infer --model`."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from cus.cli.infer import main as infer
from cus.cli.push import main
from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.evaluation.records import Record
from cus.evaluation.results import write_results
from cus.evaluation.rows import Frames, Warp
from cus.evaluation.settings import EvalSettings
from cus.evaluation.tables import MetricColumn
from cus.training import config
from cus.training.unet import UNetConfig
from cus.training.vae import VaeConfig
from tests.diffusion.tiny import pictures, tiny_pipeline
from tests.hub.client import connect, put_folder, run, unused_endpoint
from tests.hub.repositories import Repository
from tests.hub.server import Account, Hub, running
from tests.hub.test_stored import FILES

COURTYARD = Path(__file__).resolve().parents[2] / "examples" / "courtyard"


@pytest.fixture(scope="module")
def pipeline() -> CloseUpShotPipeline:
    return tiny_pipeline()


@pytest.fixture
def model(pipeline, tmp_path: Path) -> Path:
    pipeline.save_pretrained(tmp_path / "runs" / "unet" / "export")
    return tmp_path / "runs" / "unet" / "export"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Iterator[Hub]:
    """An empty Hub that this process uses, logged in as one who may write to org."""
    with running() as server:
        connect(monkeypatch, server.endpoint, tmp_path / "home", token="secret")
        yield server


def refused(capsys, *arguments: str | Path) -> str:
    """The message of a command that must refuse."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message.split("error:")[1]


def pushed(*arguments: str | Path) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def training_run(model: Path) -> Path:
    """What train/unet.py leaves beside its export, after a run of train/vae.py on 3 clips."""
    out = model.parent
    clips = out.parent / "clips"
    clips.mkdir()
    for index in range(3):
        (clips / f"clip-{index:07d}.safetensors").write_bytes(b"")
    (clips / "settings.yaml").write_text("scenes: collage\n")
    vae = out.parent / "vae"
    (vae / "export").mkdir(parents=True)
    config.save(VaeConfig(out=str(vae), clips=str(clips), held_out=str(clips)), vae / "config.yaml")
    (vae / "checkpoints" / "step-00000250").mkdir(parents=True)
    (vae / "checkpoints" / "step-00000500").mkdir()
    settings = UNetConfig(out=str(out), latents=str(clips), init="someone/base@v1", frames=6)
    settings.model.vae = str(vae / "export")
    config.save(settings, out / "config.yaml")
    return out


def evaluation(folder: Path, model: Path | str) -> Path:
    """What cus-eval leaves: two cases of one scene, PSNR 20 and 30 dB for the model, one dB less for the warp."""
    settings = EvalSettings(model=str(model), rows=[Warp(name="hierarchical"), Frames()], size=96)
    settings.check()
    records = [
        Record("attic", f"case{case}", row, label, {"level": "easy"}, {"frame": {"psnr": score}}, None, 1.0)
        for row, label, less in (("hierarchical", "Hierarchical warp", 1.0), ("frames", "Generated frame", 0.0))
        for case, score in ((0, 20.0 - less), (1, 30.0 - less))
    ]
    columns = [MetricColumn("psnr", "PSNR", "dB", True)]
    write_results(
        folder, records, columns, settings.row_names, settings.summary(), axes=["level"], baseline="hierarchical"
    )
    return folder


def with_tensor(model: Path, component: str, change) -> None:
    """Rewrite one tensor of a component."""
    file = model / component / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors |= change(name, tensors[name])
    save_file(tensors, file, {"format": "pt"})


def test_what_is_pushed_comes_back_as_it_was_and_nothing_else_was_uploaded(hub, model, capsys):
    (model / "optimizer.bin").write_bytes(b"x" * 10)
    (model / "unet" / "notes.txt").write_text("mine")
    pushed(model, "org/tiny", "--message", "First")
    repository = hub.repositories["org/tiny"]
    files = repository.files()
    assert set(files) == FILES | {"README.md"} and not repository.private
    assert all(files[name].data == (model / name).read_bytes() for name in FILES)
    assert repository.messages[repository.branches["main"]] == "First"
    said = capsys.readouterr().err
    assert f"{hub.endpoint}/org/tiny" in said and "left out optimizer.bin" in said
    local = CloseUpShotPipeline.from_pretrained(model)(pictures(1), pictures())
    assert torch.equal(CloseUpShotPipeline.from_pretrained("org/tiny")(pictures(1), pictures()), local)


def test_the_pipeline_pushes_itself_to_private_branches_variants_and_proposals(hub, pipeline):
    url = pipeline.push_to_hub("org/own", private=True, variant="fp16", revision="half", commit_message="Half")
    repository = hub.repositories["org/own"]
    assert url == f"{hub.endpoint}/org/own/tree/half" and repository.private
    assert set(repository.files("main")) == set()
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in repository.files("half")
    assert CloseUpShotPipeline.from_pretrained("org/own@half", variant="fp16").unet is not None
    proposal = pipeline.push_to_hub("org/own", create_pr=True, card="---\nlicense: mit\n---\n\n# Mine\n")
    assert proposal == f"{hub.endpoint}/org/own/discussions/2"
    assert repository.files("main") == {} and b"# Mine" in repository.files("refs/pr/2")["README.md"].data
    assert pipeline.push_to_hub("org/own") == f"{hub.endpoint}/org/own"
    repository.put({"README.md": b"---\nlicense: mit\n---\n\n# Edited\n"})
    pipeline.push_to_hub("org/own")
    assert b"# Edited" in repository.files()["README.md"].data


def test_older_shards_do_not_outlive_a_push_and_other_variants_do(hub, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    pushed(tmp_path / "sharded", "org/tiny")
    shards = {name for name in hub.repositories["org/tiny"].files() if "-of-" in name or name.endswith("index.json")}
    assert len(shards - {"model_index.json"}) > 3
    pipeline.push_to_hub("org/tiny", variant="fp16")
    assert shards <= set(hub.repositories["org/tiny"].files())
    other = tiny_pipeline()
    torch.nn.init.ones_(other.prompt.positive)
    other.push_to_hub("org/tiny")
    files = set(hub.repositories["org/tiny"].files())
    assert not [name for name in files if "-of-" in name] and "unet/diffusion_pytorch_model.fp16.safetensors" in files
    assert bool((CloseUpShotPipeline.from_pretrained("org/tiny").prompt.positive == 1).all())


def test_the_card_holds_what_is_recorded_and_nothing_else(hub, model, tmp_path):
    results = evaluation(tmp_path / "eval", model)
    pushed(model, "org/tiny", "--run", training_run(model), "--results", results, "--license", "mit", "--dry-run")
    assert hub.log == []
    card = ModelCard((model / "README.md").read_text())
    data = card.data.to_dict()
    assert (data["license"], data["base_model"], data["library_name"]) == ("mit", ["someone/base"], "closeupshot")
    result = data["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == 25.0 and result["metrics"][0]["name"] == "PSNR (dB)"
    assert "attic" in result["dataset"]["name"] and "Easy set" in result["dataset"]["name"]
    assert len(data["model-index"][0]["results"]) == 1
    text = card.content
    parameters = sum(p.numel() for p in CloseUpShotPipeline.from_pretrained(model).unet.parameters())
    assert f"| `unet` | {parameters:,} |" in text and "| `residual_scale` | 0 |" in text
    assert "| Hierarchical warp | 24.00" in text and "| **Generated frame** (this model) | 25.00" in text
    assert "2 cases in 1 scene: attic." in text
    assert "**Autoencoder**: 500 steps. Data: 3 clips of procedural scenes (collage)." in text
    assert "**U-Net**: a number of steps that is not recorded. Data: 3 clips of procedural scenes (collage)." in text
    assert text.index("**Autoencoder**") < text.index("**U-Net**") and "| `frames` | 6 |" in text
    assert "--model org/tiny" in text and 'from_pretrained("org/tiny")' in text
    assert str(tmp_path) not in text


def test_a_card_of_a_bare_model_says_what_is_not_known(hub, model):
    pushed(model, "org/tiny", "--dry-run")
    card = ModelCard((model / "README.md").read_text())
    assert not {"license", "base_model", "model-index"} & set(card.data.to_dict())
    for words in ("How it was trained is not recorded", "No measurement is recorded", "licence is not stated"):
        assert words in card.content


def test_a_card_that_was_edited_is_uploaded_as_it_is(hub, model, capsys):
    (model / "README.md").write_text("---\nlicense: mit\n---\n\n# My words\n")
    assert "--new-card" in refused(capsys, model, "org/tiny", "--license", "apache-2.0")
    pushed(model, "org/tiny")
    assert b"My words" in hub.repositories["org/tiny"].files()["README.md"].data
    pushed(model, "org/tiny", "--license", "apache-2.0", "--new-card")
    assert b"license: apache-2.0" in hub.repositories["org/tiny"].files()["README.md"].data
    assert "README.md.bak-1" not in hub.repositories["org/tiny"].files()
    assert "My words" in (model / "README.md.bak-1").read_text()
    pushed(model, "org/tiny", "--license", "mit", "--new-card")
    assert "My words" in (model / "README.md.bak-1").read_text()
    assert "license: apache-2.0" in (model / "README.md.bak-2").read_text()
    (model / "README.md").write_text("---\nlicense: [mit\n---\n\n# My words\n")
    assert "is no model card" in refused(capsys, model, "org/tiny")


def test_numbers_and_runs_of_other_models_stay_out_of_a_card(hub, model, tmp_path, capsys):
    other = evaluation(tmp_path / "other", "mini")
    assert "measured mini, not this model" in refused(capsys, model, "org/tiny", "--results", other, "--dry-run")
    assert "holds no evaluation" in refused(capsys, model, "org/tiny", "--results", tmp_path, "--dry-run")
    again = evaluation(tmp_path / "again", "org/tiny@v1")
    pushed(model, "org/tiny", "--results", again, "--dry-run")
    assert "no training run" in refused(capsys, model, "org/tiny", "--run", model.parent, "--new-card")
    assert "has exported nothing" in refused(capsys, model, "org/tiny", "--run", tmp_path, "--new-card")
    training = training_run(model)
    copy = tmp_path / "copy"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("README.md"))
    pushed(copy, "org/tiny", "--run", training, "--dry-run")
    with_tensor(copy, "unet", lambda name, tensor: {name: tensor + 1})
    assert "does not hold what" in refused(capsys, copy, "org/tiny", "--run", training, "--new-card", "--dry-run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, tensor: {name: torch.full_like(tensor, float("nan"))}, "not numbers"),
        (lambda name, tensor: {name: tensor[None]}, "must be"),
        (lambda name, tensor: {"unknown": tensor.clone()}, "unknown"),
    ],
)
def test_weights_that_are_not_those_of_the_model_are_not_uploaded(hub, model, capsys, change, message):
    with_tensor(model, "unet", change)
    assert message in refused(capsys, model, "org/tiny")
    assert "org/tiny" not in hub.repositories and not (model / "README.md").exists()


def test_folders_that_hold_no_whole_model_are_refused(hub, model, tmp_path, capsys):
    assert "no such folder" in refused(capsys, tmp_path / "none", "org/tiny")
    assert "no model_index.json" in refused(capsys, tmp_path, "org/tiny")
    index = json.loads((model / "model_index.json").read_text())
    index["sampling"]["stepps"] = 3
    (model / "model_index.json").write_text(json.dumps(index))
    assert "stepps" in refused(capsys, model, "org/tiny")
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "incomplete" in refused(capsys, model, "org/tiny")
    assert hub.repositories == {}


def test_who_may_not_write_is_told_before_the_folder_is_looked_at(hub, model, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "empty"
    broken.mkdir()
    assert "tester cannot write to other/tiny" in refused(capsys, broken, "other/tiny")
    assert "cannot be a repository" in refused(capsys, broken, "tiny")
    connect(monkeypatch, hub.endpoint, tmp_path / "home", token="wrong")
    assert "does not accept the access token" in refused(capsys, broken, "org/tiny")
    connect(monkeypatch, hub.endpoint, tmp_path / "home")
    assert "nobody is logged in" in refused(capsys, broken, "org/tiny")
    hub.accounts["reader"] = Account("reader", ("org",), writes=False)
    connect(monkeypatch, hub.endpoint, tmp_path / "home", token="reader")
    assert "may not do this" in refused(capsys, model, "org/tiny")
    connect(monkeypatch, unused_endpoint(), tmp_path / "home", token="secret")
    assert "cannot be reached" in refused(capsys, broken, "org/tiny")


def test_saving_does_not_upload_past_the_checks(pipeline, tmp_path):
    with pytest.raises(ValueError, match="call push_to_hub"):
        pipeline.save_pretrained(tmp_path / "model", push_to_hub=True)
    assert not (tmp_path / "model").exists()


def test_nothing_goes_to_a_public_repository_that_was_meant_to_be_private(hub, model, capsys):
    hub.repositories["org/tiny"] = Repository("org/tiny")
    assert "exists and is public" in refused(capsys, model, "org/tiny", "--private")
    assert hub.repositories["org/tiny"].files() == {}


def test_a_push_that_broke_goes_on_without_what_has_arrived(hub, pipeline, monkeypatch):
    first = pipeline.push_to_hub("org/tiny")
    hub.log.clear()
    assert pipeline.push_to_hub("org/tiny") == first
    assert not [path for method, path in hub.log if method == "PUT"]
    hub.down = True
    with pytest.raises(InputError, match="the Hub failed"):
        pipeline.push_to_hub("org/tiny")


def asking(model: str, out: Path) -> list[str]:
    """Arguments of a small run of cus-infer on the shipped example."""
    views = [str(COURTYARD / name) for name in ("a.jpg", "b.jpg")]
    small = [
        "--photo-size",
        "256",
        "--frames",
        "2",
        "--size",
        "64",
        "--no-splat",
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    return ["--views", *views, "--model", model, "--out", str(out), *small]


def frames_in(out: Path) -> list[bytes]:
    return [(out / "frames" / name).read_bytes() for name in ("0000.png", "0001.png")]


@pytest.mark.slow
def test_the_commands_push_and_infer_as_users_run_them(model, tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    with running() as hub:
        done = run("cus.cli.push", str(model), "org/tiny@v1", hub=hub, home=home, token="secret")
        assert done.returncode == 0, done.stderr
        assert f"{hub.endpoint}/org/tiny/tree/v1" in done.stderr
        hub.log.clear()
        done = run("cus.cli.infer", *asking("org/tiny@v1", out), hub=hub, home=home)
        assert done.returncode == 0, done.stderr
        assert {path.split("/", 5)[5] for _, path in hub.log if "/resolve/" in path} == FILES
    assert len(frames_in(out)) == 2


def test_a_resumed_run_takes_its_frames_from_the_same_commit_without_a_network_and_makes_new_ones_for_another(
    hub, model, tmp_path, monkeypatch, caplog
):
    hub.repositories["org/tiny"] = Repository("org/tiny")
    commit = put_folder(hub, "org/tiny", model)
    out = tmp_path / "out"
    ask = asking("org/tiny", out)
    assert infer(ask) == 0
    summary = json.loads((out / "run.json").read_text())
    assert summary["settings"]["model"] == f"org/tiny@{commit}" and summary["reused"] == []
    before = frames_in(out)
    connect(monkeypatch, unused_endpoint(), tmp_path / "home")
    caplog.clear()
    assert infer([*ask, "--resume"]) == 0
    assert len([message for message in caplog.messages if "using the cached commit" in message]) == 1
    assert "frames" in json.loads((out / "run.json").read_text())["reused"] and frames_in(out) == before
    connect(monkeypatch, hub.endpoint, tmp_path / "home")
    with_tensor(model, "unet", lambda name, tensor: {name: tensor + 3})
    put_folder(hub, "org/tiny", model)
    assert infer([*ask, "--resume"]) == 0
    assert "frames" not in json.loads((out / "run.json").read_text())["reused"] and frames_in(out) != before
