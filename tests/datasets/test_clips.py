"""Clips on disk, and the windows that training reads of them."""

import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from cus.datasets.clips import FORMAT, Clip, ClipCrops, Window, clip_paths, load_clip, save_clip
from cus.datasets.posed_views import CONTENT
from cus.errors import InputError


def random_clip(seed: int = 0, structure: bool = True) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    videos = torch.rand(3, 5, 3, 12, 16, generator=generator)
    masks = torch.rand(5, 12, 16, generator=generator) > 0.2
    return Clip(videos[0, :2], videos[1], videos[2], masks, videos[0] if structure else None, {"seed": seed})


@pytest.mark.parametrize("structure", [True, False])
def test_a_clip_comes_back_from_disk_up_to_the_rounding_to_bytes(tmp_path, structure: bool) -> None:
    clip = random_clip(structure=structure)
    save_clip(tmp_path / "a.safetensors", clip)
    loaded = load_clip(tmp_path / "a.safetensors")
    torch.testing.assert_close(loaded.targets, clip.targets, rtol=0, atol=0.5 / 255 + 1e-6)
    assert torch.equal(loaded.masks, clip.masks)
    assert (loaded.structure is not None) == structure
    assert loaded.info == clip.info
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_same_clip_has_the_same_bytes_and_keeps_any_words(tmp_path) -> None:
    info = {"scene": 'Fassade "süd" \\ 日本\n', "seed": 1}
    for number in range(8):
        save_clip(tmp_path / f"{number}.safetensors", replace(random_clip(), info=info))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert load_clip(tmp_path / "0.safetensors").info == info


def test_damaged_and_foreign_files_are_refused(tmp_path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not a clip")
    with pytest.raises(InputError, match="bad.safetensors"):
        load_clip(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="no folder"):
        clip_paths(tmp_path / "empty")


def test_clips_with_tensors_missing_or_of_other_shapes_are_refused_also_where_parts_are_read(tmp_path) -> None:
    path = tmp_path / "bad.safetensors"
    for tensors in (
        {"targets": torch.zeros(2, 3, 8, 8)},
        {
            "targets": torch.zeros(8),
            "references": torch.zeros(3),
            "conditioning": torch.zeros(8),
            "masks": torch.zeros(8),
        },
    ):
        save_file(tensors, path, {"format": FORMAT})
        for read in (load_clip, lambda path: ClipCrops(path.parent, 1, (4, 4), 0)[0]):
            with pytest.raises(InputError, match="cannot read the training clip .*bad.safetensors.*build it again"):
                read(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "other"})
    with pytest.raises(InputError, match="its format is other, not cus-clip-1"):
        ClipCrops(tmp_path, 1, (4, 4), 0)[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="a named pipe"):
        load_clip(path)


def test_crops_are_cut_from_their_clip_and_depend_on_seed_and_index_alone(tmp_path) -> None:
    for seed in range(3):
        save_clip(tmp_path / f"{seed}.safetensors", random_clip(seed))
    crops = ClipCrops(tmp_path, frames=2, crop=(8, 8), seed=5)
    item = crops[11]
    assert item["targets"].shape == (2, 3, 8, 8) and item["masks"].shape == (2, 8, 8)
    again = ClipCrops(tmp_path, frames=2, crop=(8, 8), seed=5)[11]
    assert all(torch.equal(item[key], again[key]) for key in item)
    assert not torch.equal(item["targets"], crops[12]["targets"])


def test_a_crop_larger_than_its_clip_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        Window.draw(5, (12, 16), 6, (8, 8), 1, torch.Generator())


def test_a_folder_without_clips_is_told_what_it_lacks_or_where_there_are_some(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no folder .*none; data/make_procedural.py or data/build_clips"):
        clip_paths(tmp_path / "none")
    with pytest.raises(InputError, match="no sets of posed views .* in .*; data/make_views.py makes sets"):
        clip_paths(tmp_path, CONTENT)
    (tmp_path / "train").mkdir()
    save_clip(tmp_path / "train" / "a.safetensors", random_clip())
    with pytest.raises(InputError, match=r"no clips .*; name .*train$"):
        clip_paths(tmp_path)
