"""Photographs that may enter training, and the scenes and clips that are made of them."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cus.datasets.clips import load_clip, save_clip
from cus.errors import InputError
from procedural import collage
from procedural.photo_clips import PhotoClipRecipe, make_photo_clips
from procedural.photo_scenes import random_photo_scene
from procedural.photographs import Photograph, as_taken, read_manifest
from procedural.textures import random_texture


def write_photo(path: Path, seed: int) -> None:
    texture = (random_texture(np.random.default_rng(seed))[:500, :640] * 255).astype(np.uint8)
    cv2.imwrite(str(path), texture)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Photograph]:
    """Two pictures with a manifest."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(2):
        write_photo(folder / f"{index}.jpg", index)
    listed = [{"file": f"{i}.jpg", "licence": "CC BY 4.0", "source": "drawn", "credit": "us"} for i in range(2)]
    (folder / "list.json").write_text(json.dumps({"photographs": listed}))
    return read_manifest(folder / "list.json")


def test_what_is_recorded_of_a_photograph_names_no_folder(photographs) -> None:
    assert photographs[1].entry() == {"file": "1.jpg", "licence": "CC BY 4.0", "source": "drawn", "credit": "us"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "0.jpg", "licence": "CC BY-NC-SA 4.0"}, "does not permit"),
        ({"file": "0.jpg"}, "no manifest"),
        ({"file": "absent.jpg", "licence": "CC0"}, "absent.jpg"),
        ({"file": "small.png", "licence": "CC0"}, "480 pixels"),
    ],
)
def test_photographs_that_may_not_or_cannot_be_used_are_refused(tmp_path, entry: dict, message: str) -> None:
    write_photo(tmp_path / "0.jpg", 0)
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "list.json").write_text(json.dumps({"photographs": [entry]}))
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "list.json")


def test_pictures_as_taken_differ_in_exposure_and_stay_pictures() -> None:
    given = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    taken = as_taken(given, np.random.default_rng(3))
    assert taken.min() >= 0 and taken.max() <= 1
    assert 0 < (taken - given).abs().mean() < 0.1
    gains = taken.mean((1, 2, 3)) / given.mean((1, 2, 3))
    assert abs(float(gains[0] - gains[1])) > 1e-3


def test_photographs_that_were_shrunk_have_less_noise_and_no_traces_of_jpeg() -> None:
    gray = torch.full((1, 3, 64, 64), 0.5)
    spreads = []
    for shrunk in (False, True):
        taken = [as_taken(gray, np.random.default_rng(seed), 0.0, shrunk) for seed in range(8)]
        spreads.append(float(torch.stack([picture.std() for picture in taken]).mean()))
    assert 0 < spreads[1] < 0.6 * spreads[0]


def test_rays_end_on_the_relief_and_nowhere_before_it(photographs) -> None:
    scene, used = random_photo_scene(photographs, 7)
    assert set(used) <= {0, 1}
    relief = scene.solids[0]
    directions = torch.nn.functional.pad(
        torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) - 0.5, (0, 1), value=1.0
    )
    origin = torch.zeros(3)
    t, _, _ = relief.intersect(origin, directions)
    hit = t < collage.FAR
    start, slopes = relief.axes @ (origin - relief.center), directions @ relief.axes.T
    assert hit.float().mean() > 0.9
    assert relief._above(start, slopes, t, -1.0)[hit].abs().max() < 2e-3 * relief.amplitude + 1e-3


def test_the_same_seed_gives_the_same_clips_with_layers(tmp_path, photographs) -> None:
    recipe = PhotoClipRecipe(
        frames=2, width=96, height=64, window_width=48, window_height=32, windows=2, path_frames=6, exact_fraction=1.0
    )
    clips = make_photo_clips(photographs, recipe, 4)
    again = make_photo_clips(photographs, recipe, 4)
    assert clips and len(clips) == len(again)
    first = clips[0]
    assert torch.equal(first.conditioning, again[0].conditioning) and first.layers is not None
    assert first.info["photographs"] and set(first.info["photographs"]) <= {"0.jpg", "1.jpg"}
    known = first.masks[:, None].expand_as(first.targets)
    assert (first.targets - first.conditioning)[known].abs().mean() < 0.2
    save_clip(tmp_path / "a.safetensors", first)
    loaded = load_clip(tmp_path / "a.safetensors")
    assert loaded.layers is not None and torch.equal(loaded.layers.masks, first.layers.masks)
    torch.testing.assert_close(loaded.layers.images, first.layers.images, rtol=0, atol=0.5 / 255 + 1e-6)
    torch.testing.assert_close(loaded.layers.gate, first.layers.gate, rtol=0, atol=0.5 / 255 + 1e-6)


def test_references_are_as_sharp_as_photographs_that_were_shrunk(photographs) -> None:
    """Coarser mip levels have a tenth to a sixth less gradient energy, and a model learns to sharpen."""
    sizes = {"width": 192, "height": 128, "window_width": 48, "window_height": 32, "windows": 1}
    recipe = PhotoClipRecipe(
        frames=1, path_frames=6, exact_fraction=1.0, photograph_scales=[1], least_psnr=0.0, **sizes
    )
    (clip,) = make_photo_clips(photographs, recipe, 4)
    scene, _ = random_photo_scene(photographs, 4, plane=True)
    cameras = collage.reference_cameras(4, 192, 128)
    shrunk = F.avg_pool2d(collage.pictures(scene, cameras.resized(4 * 192, 4 * 128), 2), 4)
    gains = clip.references.mean((2, 3), keepdim=True) / shrunk.mean((2, 3), keepdim=True)
    energy, expected = (
        float(x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean())
        for x in (clip.references, (shrunk * gains).clamp(0, 1))
    )
    assert 0.9 < energy / expected < 1.1


def test_windows_of_an_estimate_that_put_things_elsewhere_are_left_out(photographs) -> None:
    recipe = PhotoClipRecipe(
        frames=1, width=96, height=64, window_width=48, window_height=32, windows=2, path_frames=6, exact_fraction=1.0
    )
    assert make_photo_clips(photographs, recipe, 4)
    assert not make_photo_clips(photographs, replace(recipe, least_psnr=60.0), 4)


def test_clips_of_several_conditionings_and_guides_are_the_same_clips(tmp_path, photographs) -> None:
    recipe = PhotoClipRecipe(
        frames=2, width=96, height=64, window_width=48, window_height=32, windows=2, path_frames=6, exact_fraction=1.0
    )
    plain = make_photo_clips(photographs, recipe, 4)
    asked: list[int] = []

    def guide(references, path, count):
        asked.append(len(path))
        if len(asked) == 2:
            raise InputError("nothing agrees")
        rows = torch.arange(path.height).view(-1, 1) * 1000 + torch.arange(path.width)
        return rows.expand(count, 3, -1, -1)

    several = make_photo_clips(photographs, replace(recipe, others=["hierarchical", "low", "high"]), 4, guide)
    assert len(several) == len(plain) == 2
    for clip, expected in zip(several, plain, strict=True):
        assert torch.equal(clip.targets, expected.targets) and torch.equal(clip.conditioning, expected.conditioning)
    coverage = {name: float(warp.masks.float().mean()) for name, warp in several[0].others.items()}
    assert coverage["high"] < coverage["low"] and coverage["high"] < coverage["hierarchical"]
    # The window of the whole picture, and a clip of which nothing agrees says so.
    structure = several[0].structure
    assert structure is not None and structure[0, 0, 1, 2] - structure[0, 0, 0, 0] == 1002
    assert several[1].structure is None and several[1].info["without_structure"] == "nothing agrees"
    save_clip(tmp_path / "a.safetensors", several[1])
    loaded = load_clip(tmp_path / "a.safetensors").conditioned_on("low")
    assert loaded.layers is None and torch.equal(loaded.masks, several[1].others["low"].masks)
    torch.testing.assert_close(loaded.conditioning, several[1].others["low"].images, rtol=0, atol=0.5 / 255 + 1e-6)
    with pytest.raises(InputError, match="no conditioning 'points' beside its own .there: hierarchical, high, low"):
        loaded.conditioned_on("points")
