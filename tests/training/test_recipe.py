"""The four stages as one recipe: done or not done, gone on with, and refused before anything slow."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cus.datasets.clips import clip_paths, load_clip, save_clip
from cus.datasets.structures import read_structure
from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.models.autoencoder import Autoencoder
from cus.training.config import save
from cus.training.published import read_training
from cus.training.recipe import estimate, run
from cus.training.recipe_jobs import Recipe
from cus.training.scripts import settings_of
from tests.conftest import ROOT
from tests.evaluation.small_scenes import one_thread
from tests.train.test_scripts import UNET
from tests.training.made_clips import FRAMES, write_made_clips

MODEL = [
    "model.image_encoder={image_size: 28, patch_size: 14, width: 16, layers: 1, heads: 2, output_dim: 4}",
    "model.image_projector={token_dim: 16, context_dim: 16, dim: 16, depth: 1, heads: 2, head_channels: 8}",
    *UNET,
]
LOOP = ["loop.steps=2", "loop.batch=1", "loop.accumulate=2", "loop.workers=0", "loop.precision=float32"]
LOOP += ["loop.log_every=1", "loop.save_every=1", "loop.sample_every=2", "loop.learning_rate=1e-3"]
SAMPLING = ["sampling.steps=2", "sampling.guidance=1", f"sampling.frames={FRAMES}", "sampling.conditioning=fused"]
PARTS = ["latents", "unet", "generated", "decoder", "coarse", "coarse_held_out", "guided_unet", "guided_generated"]
PARTS += ["guided_decoder"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips in `train/` and `held_out/`, and an autoencoder in `vae/`; do not change them."""
    folder = tmp_path_factory.mktemp("data")
    with one_thread():
        write_made_clips(folder / "train")
        write_made_clips(folder / "held_out", 1, 9)
    torch.manual_seed(0)
    vae = Autoencoder(
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    vae.save_pretrained(folder / "vae")
    (folder / "empty.yaml").write_text("{}")
    return folder


def recipe(clips: Path, out: Path, *more: str) -> Recipe:
    """The recipe with a small model that answers with its conditioning until it is trained."""
    # Residual: a new model's frames are its conditioning images, whatever its autoencoder is worth.
    unet = [f"model.vae={clips / 'vae'}", *MODEL, *SAMPLING, *LOOP, "sampling.residual_scale=1"]
    unet += ["frames=2", "crop=[4,4]", "trained=[unet,image_projector]"]
    decoder = [*LOOP, "crop=[8,8]", "frames=2"]
    given = {
        "out": str(out),
        "clips": str(clips / "train"),
        "held_out": str(clips / "held_out"),
        "unet": str(clips / "empty.yaml"),
        "decoder": str(clips / "empty.yaml"),
        "bf16": False,
    }
    made = settings_of(Recipe, [f"{name}={json.dumps(value)}" for name, value in given.items()])
    made = replace(made, unet_settings=unet, guided_settings=["structure_share=1"], decoder_settings=decoder)
    return replace(made, unet_settings=[*unet, *more]) if more else made


def silent(*_: object) -> None:
    """Takes reports and lines."""


def weights(out: Path, part: str) -> dict[str, torch.Tensor]:
    """Of U-Net and autoencoder of a part's export."""
    found = {}
    for network in ("unet", "vae"):
        state = load_file(out / part / "export" / network / "diffusion_pytorch_model.safetensors")
        found |= {f"{network}.{name}": value for name, value in state.items()}
    return found


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """(folder, lines that were said) of a recipe that went through; do not change it."""
    out, said = tmp_path_factory.mktemp("recipe") / "out", []
    with one_thread():
        run(recipe(clips, out), silent, said.append)
    return out, said


def test_the_parts_run_in_the_papers_order_and_leave_a_model_of_two_passes(whole) -> None:
    out, said = whole
    assert [line.split(":")[0] for line in said if line.split(":")[0] in PARTS] == PARTS
    model = CloseUpShotPipeline.from_pretrained(out / "guided_decoder" / "export")
    assert model.sampling.second_pass and model.vae.skip_convs is not None
    assert not CloseUpShotPipeline.from_pretrained(out / "decoder" / "export").sampling.second_pass


def test_each_stage_starts_from_what_the_paper_says(whole) -> None:
    out, _ = whole
    first, decoder, guided, last = (weights(out, part) for part in ("unet", "decoder", "guided_unet", "guided_decoder"))
    unet = [name for name in first if name.startswith("unet.")]
    # The decoder stages change the decoder alone; the second U-Net begins anew, and not at the first one.
    assert all(torch.equal(first[name], decoder[name]) for name in unet)
    assert all(torch.equal(guided[name], last[name]) for name in unet)
    assert any(not torch.equal(first[name], guided[name]) for name in unet)
    encoder = [name for name in first if name.startswith(("vae.encoder", "vae.quant_conv"))]
    assert encoder and all(torch.equal(first[name], last[name]) for name in encoder)
    begun = {line["step"] for line in map(json.loads, (out / "guided_unet" / "log.jsonl").read_text().splitlines())}
    assert begun == {1, 2}
    # Further: two steps of Adam from zero move a weight by at most two learning rates, four steps by more.
    skips = [name for name in last if "skip" in name]
    furthest = [max(float(state[name].abs().max()) for name in skips) for state in (decoder, last)]
    assert furthest[0] <= 2.1e-3 < furthest[1]


def test_the_second_unet_learns_from_the_structure_images_of_the_first_ones_frames(whole, clips) -> None:
    out, _ = whole
    logged = [json.loads(line) for line in (out / "guided_unet" / "log.jsonl").read_text().splitlines()]
    assert "psnr_guided" in {name for line in logged for name in line}
    for path in clip_paths(clips / "train"):
        structure, clip = read_structure(out / "coarse", path.name), load_clip(path)
        assert structure is not None
        shown = structure.amax(dim=1) > 0
        assert shown.float().mean() > 0.2
        assert (structure - clip.targets).abs().mean(dim=1)[shown].median() < 0.1


def test_the_model_card_names_all_four_stages_in_their_order(whole) -> None:
    facts = read_training(whole[0] / "guided_decoder")
    assert [(stage.name, stage.steps) for stage in facts.stages] == [("U-Net", 2), ("Decoder", 2)] * 2
    told = json.dumps([stage.settings for stage in facts.stages])
    assert str(whole[0]) not in told and '"structure_share": 1' in told


def test_the_same_command_does_nothing_again(whole, clips) -> None:
    out, _ = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    said: list[str] = []
    with one_thread():
        assert run(recipe(clips, out), silent, said.append) == out / "guided_decoder" / "export"
    assert not said and before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


@pytest.mark.slow
def test_a_recipe_that_is_cut_off_again_and_again_ends_in_the_same_weights(whole, clips, tmp_path) -> None:
    ends = iter(["latents: 1 of", "unet: 1 of", "generated: 1 of", "coarse: 1 of", "guided_unet: 2 of"])
    end = next(ends)

    def cut(done: int, total: int, words: str) -> None:
        if end and words.startswith(end):
            raise RuntimeError("cut off")

    cuts = 0
    while True:
        try:
            with one_thread():
                run(recipe(clips, tmp_path / "out"), cut, silent)
            break
        except RuntimeError:
            cuts, end = cuts + 1, next(ends, "")
    assert cuts == 5
    for part in ("unet", "decoder", "guided_decoder"):
        expected, found = weights(whole[0], part), weights(tmp_path / "out", part)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_lossless_first_stage_leaves_the_decoder_stages_out(clips, tmp_path) -> None:
    lossless = replace(recipe(clips, tmp_path / "out", "model.unshuffle=2", "model.vae=''"), decoder="", held_out="")
    with one_thread():
        made = run(lossless, silent, silent)
    assert made == tmp_path / "out" / "guided_unet" / "export" and (made / "model_index.json").is_file()
    parts = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert parts == {"unet", "coarse", "guided_unet"}


@pytest.mark.slow
def test_the_papers_warp_can_be_what_is_learned_from(clips, tmp_path) -> None:
    on_warp = replace(
        recipe(clips, tmp_path / "out", "sampling.conditioning=hierarchical"), conditioning="hierarchical"
    )
    on_warp = replace(on_warp, held_out="", unet_settings=[*on_warp.unet_settings, "loop.steps=1"])
    with one_thread():
        run(replace(on_warp, decoder_settings=[*on_warp.decoder_settings, "loop.steps=1"]), silent, silent)
    cached = load_file(tmp_path / "out" / "latents" / "clip-3.safetensors")["conditioning"]
    own = load_file(tmp_path / "out" / "latents" / "clip-3.safetensors")["targets"]
    assert cached.shape == own.shape
    assert read_structure(tmp_path / "out" / "coarse", "clip-3.safetensors") is not None


@pytest.mark.slow
def test_both_u_nets_start_from_a_model_that_is_given(whole, clips, tmp_path) -> None:
    init = whole[0] / "unet" / "export"
    given = recipe(clips, tmp_path / "out", "loop.steps=1", "loop.learning_rate=1e-5")
    unet = [entry for entry in given.unet_settings if not entry.startswith("model.")]
    given = replace(given, init=str(init), unet_settings=unet, held_out="", guided_settings=["structure_share=0.9"])
    with one_thread():
        run(replace(given, decoder_settings=[*given.decoder_settings, "loop.steps=1"]), silent, silent)
    start = weights(whole[0], "unet")
    for part in ("unet", "guided_unet"):
        found = weights(tmp_path / "out", part)
        changes = [float((found[name] - start[name]).abs().max()) for name in start]
        # Adam's first step moves a weight by the learning rate at most, and some by about that.
        assert 5e-6 < max(changes) < 2e-5
    assert CloseUpShotPipeline.from_pretrained(tmp_path / "out" / "guided_decoder" / "export").sampling.second_pass


REFUSED = [
    ({"unet_settings": ["lora.rank=4", "trained=[unet]"]}, "set lora.rank=0"),
    ({"guided_settings": ["structure_share=0"]}, "set structure_share above 0"),
    ({"decoder_settings": ["loop.precision=bf16"]}, "one loop.precision, got .*decoder_settings bf16"),
    ({"decoder_settings": ["perceptual=0.1"]}, "at least 64 pixels a side, and crop=.* is 16x16 pixels"),
    ({"decoder_settings": ["frames=9"]}, "a crop of 9 frames of .* does not fit"),
    ({"unet_settings": ["crop=[4,99]"]}, "a crop of 2 frames of 99x4 does not fit"),
    ({"unet_settings": ["sampling.frames=2"]}, "clips of 3 frames are longer than the 2"),
    ({"unet_settings": ["sampling.layers=1"]}, "cached latents hold no condition layers"),
    ({"unet_settings": ["model.unshuffle=2"]}, "no decoder to train: set decoder="),
    ({"unet_settings": ["loop.acumulate=3"]}, "did you mean"),
    ({"conditioning": "low"}, "has no conditioning 'low' beside its own"),
    ({"init": "nothing/here/at/all"}, "nothing/here/at/all"),
    ({"unet": "absent.yaml"}, "no config file"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_would_fail_after_hours_is_refused_at_once(clips, tmp_path, change, message) -> None:
    given = recipe(clips, tmp_path / "out")
    for name, value in change.items():
        given = replace(given, **{name: [*getattr(given, name), *value] if isinstance(value, list) else value})
    with pytest.raises(InputError, match=message):
        run(given, silent, silent)
    assert not (tmp_path / "out").exists()


def test_clips_without_cameras_and_depths_are_refused(clips, tmp_path) -> None:
    for path in clip_paths(clips / "train"):
        save_clip(tmp_path / "train" / path.name, replace(load_clip(path), geometry=None))
    with pytest.raises(InputError, match="holds no cameras and depths"):
        run(replace(recipe(clips, tmp_path / "out"), clips=str(tmp_path / "train")), silent, silent)


def test_other_clips_or_settings_than_parts_are_made_of_are_refused(whole, clips, tmp_path) -> None:
    out, _ = whole
    shutil.copytree(clips / "train", tmp_path / "train")
    shutil.copy(clips / "train" / "clip-3.safetensors", tmp_path / "train" / "more.safetensors")
    with pytest.raises(InputError, match="given other settings|was made with other settings|other clips"):
        run(replace(recipe(clips, out), clips=str(tmp_path / "train")), silent, silent)
    with pytest.raises(InputError, match="was made with other settings .*loop.learning_rate was"):
        run(recipe(clips, out, "loop.learning_rate=1e-2"), silent, silent)
    with pytest.raises(InputError, match="unet was done with 2 steps but 5 are requested"):
        run(recipe(clips, out, "loop.steps=5"), silent, silent)


@pytest.mark.slow
def test_a_dry_run_goes_through_all_parts_and_leaves_nothing(clips, tmp_path) -> None:
    said: list[str] = []
    with one_thread():
        estimate(replace(recipe(clips, tmp_path / "out"), processes=4), silent, said.append)
    assert [line.split()[0] for line in said[: len(PARTS)]] == PARTS
    assert all(" s each: " in line and line.endswith("GB") for line in said[: len(PARTS)])
    assert "of 4 at best" in said[-2] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mini", "full"])
def test_shipped_recipes_are_complete_but_for_folders(name, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    from cus.training.recipe_jobs import _decoder, _unet_config

    made = settings_of(Recipe, [f"configs/{name}/recipe.yaml", "out=x", "clips=x"])
    assert _unet_config(made, {"out": "x"}, guided=True).structure_share == 0.5
    assert _unet_config(made, {"out": "x"}, guided=False).sampling.conditioning == "fused"
    if made.decoder:
        assert _decoder(made, "decoder", "", "unet", "generated").settings.perceptual > 0


@pytest.mark.slow
def test_two_processes_equal_one_also_where_they_are_killed_and_one_goes_on(whole, clips, tmp_path) -> None:
    given = recipe(clips, tmp_path / "out")
    save(given, tmp_path / "recipe.yaml")
    for words, rank in (("generated: 0 of", "1"), ("guided_unet: 1 of", "0")):
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
        job = ["-m", "tests.training.recipe_process", str(tmp_path / "recipe.yaml"), words, rank]
        process = subprocess.run(
            [*launcher, "--num_processes", "2", *job],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        assert process.returncode != 0 and "SIGKILL" in process.stderr, process.stdout + process.stderr
    assert (tmp_path / "out" / "done-coarse_held_out.json").is_file()
    assert (tmp_path / "out" / "unet" / "checkpoints" / "step-00000002" / "random_states_1.pkl").is_file()
    with one_thread():
        run(given, silent, silent)
    for part in ("unet", "decoder", "guided_decoder"):
        expected, found = weights(whole[0], part), weights(tmp_path / "out", part)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
