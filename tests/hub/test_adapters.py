"""LoRAs of the Hub: pushed by the command, found by name, checked before anything is loaded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from cus.cli.push import main
from cus.diffusion.loading import find_fitting_lora, find_model
from cus.diffusion.lora import FILE, TARGETS, add_lora, save_lora
from cus.errors import InputError
from cus.evaluation.rows import Frames
from cus.evaluation.runner import evaluate
from cus.training import config
from cus.training.unet import LoraSettings, UNetConfig
from tests.diffusion.tiny import pictures, tiny_pipeline
from tests.evaluation.small_scenes import one_thread, small, write_scenes
from tests.hub.client import connect, put_folder, unused_endpoint
from tests.hub.repositories import Repository
from tests.hub.server import Hub, running

pytest.importorskip("peft")
INPUTS = pictures(1), pictures(3)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """The export of a run with a random LoRA, and the frames that its pipeline makes."""
    run, pipeline = tmp_path_factory.mktemp("runs") / "lora", tiny_pipeline()
    add_lora(pipeline.unet, 4, 8.0, TARGETS)
    for name, parameter in pipeline.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    (run / "export").mkdir(parents=True)
    save_lora(pipeline.unet, run / "export")
    settings = UNetConfig(out=str(run), latents="x", init="someone/base@v1", lora=LoraSettings(rank=4))
    config.save(settings, run / "config.yaml")
    return run / "export", pipeline(*INPUTS)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Iterator[Hub]:
    with running() as server:
        connect(monkeypatch, server.endpoint, tmp_path / "home", token="secret")
        yield server


def test_a_pushed_lora_comes_back_by_its_name_and_works_without_a_network(hub, adapter, tmp_path, monkeypatch) -> None:
    folder, expected = adapter
    (folder / "optimizer.bin").write_bytes(b"mine")
    assert main([str(folder), "org/lora", "--run", str(folder.parent)]) == 0
    repository = hub.repositories["org/lora"]
    assert set(repository.files()) == {FILE, "README.md"}
    assert repository.messages[repository.branches["main"]] == "Upload LoRA"
    first = tiny_pipeline()
    first.load_lora_weights("org/lora")
    assert torch.equal(first(*INPUTS), expected)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", unused_endpoint())
    again = tiny_pipeline()
    again.load_lora_weights("org/lora@main")
    assert torch.equal(again(*INPUTS), expected)


def test_its_card_names_the_model_that_it_changes_and_how_both_are_used(hub, adapter) -> None:
    folder, _ = adapter
    assert main([str(folder), "org/lora", "--run", str(folder.parent), "--dry-run", "--new-card"]) == 0
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.base_model == ["someone/base"] and card.data.to_dict()["base_model_relation"] == "adapter"
    assert "lora" in card.data.tags
    assert "--model someone/base --lora org/lora" in card.text and 'load_lora_weights("org/lora")' in card.text
    assert "| `r` | 4 |" in card.text and "| `lora_alpha` | 8 |" in card.text and "| `lora.rank` | 4 |" in card.text
    assert "to_k_image" in card.text and "Sampling defaults" not in card.text


def test_a_lora_without_its_model_or_with_values_that_are_not_numbers_is_not_pushed(hub, adapter, tmp_path, capsys):
    (tmp_path / "lora").mkdir()
    tensors = load_file(adapter[0] / FILE)
    save_file(tensors, tmp_path / "lora" / FILE)
    assert main([str(tmp_path / "lora"), "org/lora"]) == 2
    assert "name that with --base-model" in capsys.readouterr().err
    first = sorted(tensors)[0]
    save_file({**tensors, first: tensors[first] * torch.inf}, tmp_path / "lora" / FILE)
    assert main([str(tmp_path / "lora"), "org/lora", "--base-model", "a/b"]) == 2
    assert "not numbers" in capsys.readouterr().err and "org/lora" not in hub.repositories


def test_what_is_no_lora_is_told_before_the_model_is_loaded(hub, adapter, tmp_path) -> None:
    tiny_pipeline(unshuffle=2).save_pretrained(tmp_path / "model")
    hub.repositories["org/empty"] = Repository("org/empty")
    hub.repositories["org/empty"].put({"README.md": b"# nothing\n"})
    with pytest.raises(InputError, match="org/empty on the Hub is no LoRA: it has no pytorch_lora_weights"):
        find_fitting_lora("org/empty", find_model(str(tmp_path / "model")))
    with pytest.raises(InputError, match="neither a folder here nor a model that you can see"):
        find_fitting_lora("org/none", find_model(str(tmp_path / "model")))
    # Of mini's network, which is a larger one.
    with pytest.raises(InputError, match="does not fit the U-Net of mini: "):
        find_fitting_lora(str(adapter[0]), find_model("mini"))


def test_rows_of_an_evaluation_take_a_lora_which_is_pinned_to_its_commit(hub, adapter, tmp_path) -> None:
    hub.repositories["org/lora"] = Repository("org/lora")
    commit = put_folder(hub, "org/lora", adapter[0])
    tiny_pipeline().save_pretrained(tmp_path / "model")
    with_lora = Frames(name="with", label="With LoRA", lora="org/lora")
    scenes = write_scenes(tmp_path / "scenes", "one")
    settings = small(Frames(name="without"), with_lora, model=str(tmp_path / "model"), metrics=["psnr"], baseline="")
    with one_thread():
        outcome = evaluate(scenes, tmp_path / "out", settings)
    scores = {record.row: record.scores["frame"]["psnr"] for record in outcome.records}
    assert scores["with"] != scores["without"]
    assert f"org/lora@{commit}" in (tmp_path / "out" / "results.json").read_text()
