"""Clips in tar files: the same clips, read in place, by training and by other programs."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import torch

from cus.conditioning import Layers
from cus.datasets.clips import Clip, Warp, clip_paths, load_clip, open_tensors, save_clip
from cus.datasets.shards import MemberTensors
from cus.errors import InputError
from cus.training.clip_crops import LayeredCrops
from cus.training.scene_clips import FORMAT
from cus.training.scripts import settings_of
from cus.training.shards import Shards, build, shards_of


def layered_clip(seed: int) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    videos = torch.rand(6, 4, 3, 16, 24, generator=generator)
    masks = torch.rand(4, 4, 16, 24, generator=generator) > 0.3
    layers = Layers(videos[3:5].transpose(0, 1), masks[:2].transpose(0, 1), videos[5, :, 0])
    others = {"hierarchical": Warp(videos[5], masks[2])}
    return Clip(videos[0, :2], videos[1], videos[2], masks[3], None, {"seed": seed}, layers, others)


def write_clips(folder: Path) -> Path:
    """Five clips of training and one held out, with their manifest."""
    entries = []
    for number in range(6):
        split = "held_out" if number == 3 else "train"
        path = folder / split / f"scene_{number}-000-000.safetensors"
        save_clip(path, layered_clip(number))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = path.relative_to(folder).as_posix()
        entries.append({"file": file, "split": split, "bytes": path.stat().st_size, "sha256": digest})
    content = {"format": FORMAT, "licence": "CC0", "seed": 0, "recipe": {}, "splits": {}, "clips": entries}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips")


def packed(clips: Path, out: Path, *more: str) -> list[Path]:
    build(settings_of(Shards, [f"clips={clips}", f"out={out}", *more]), lambda done, total: None)
    return sorted(out.glob("*/*.tar"))


def test_clips_in_tar_files_are_those_of_the_folder(clips, tmp_path):
    shards = packed(clips, tmp_path / "out")
    assert [path.name for path in shards] == ["held_out-00000.tar", "train-00000.tar"]
    for split, count in (("train", 5), ("held_out", 1)):
        inside, outside = clip_paths(tmp_path / "out" / split), clip_paths(clips / split)
        assert [path.name for path in inside] == [path.name for path in outside] and len(inside) == count
        for one, other in zip(inside, outside, strict=True):
            a, b = load_clip(one), load_clip(other)
            assert a.info == b.info and torch.equal(a.masks, b.masks) and torch.equal(a.references, b.references)
            assert a.layers is not None and b.layers is not None and torch.equal(a.layers.images, b.layers.images)
            assert torch.equal(a.others["hierarchical"].images, b.others["hierarchical"].images)


def test_training_reads_the_same_items_from_tar_files(clips, tmp_path):
    packed(clips, tmp_path / "out")
    one, other = (LayeredCrops(folder / "train", 2, (8, 8), 7, 2, 28) for folder in (clips, tmp_path / "out"))
    for index in range(6):
        a, b = one[index], other[index]
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_slices_of_a_member_are_those_of_its_file(clips, tmp_path):
    packed(clips, tmp_path / "out")
    path = clip_paths(tmp_path / "out" / "train")[2]
    with MemberTensors(path) as file:
        whole = file.get_tensor("targets")
        part = file.get_slice("targets")
        assert part.get_shape() == list(whole.shape)
        assert torch.equal(part[1:3, :, 2:9, 4:], whole[1:3, :, 2:9, 4:])
        with pytest.raises(ValueError, match="no tensor depths"):
            file.get_tensor("depths")


def test_tar_files_are_full_from_a_size_on_and_hold_every_clip_once():
    clips = [{"split": split, "bytes": 10 + number, "file": f"{number}"} for number, split in enumerate(["train"] * 7)]
    shards = list(shards_of([*clips, {"split": "held_out", "bytes": 5, "file": "7"}], 25))
    assert [shard.name for shard in shards] == [
        *(f"train/train-{number:05d}.tar" for number in range(3)),
        "held_out/held_out-00000.tar",
    ]
    assert [clip["file"] for shard in shards for clip in shard.clips] == [str(number) for number in range(8)]
    assert all(sum(clip["bytes"] for clip in shard.clips[:-1]) < 25 for shard in shards)


def test_the_same_clips_give_the_same_bytes_by_any_number_of_processes(clips, tmp_path):
    one = [hashlib.sha256(path.read_bytes()).hexdigest() for path in packed(clips, tmp_path / "one")]
    packed(clips, tmp_path / "two", "part=1", "parts=2")
    two = [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in packed(clips, tmp_path / "two", "part=0", "parts=2")
    ]
    assert one == two


def test_a_clip_that_is_not_the_manifests_is_refused_and_leaves_no_tar_file(clips, tmp_path):
    save_clip(clips / "train" / "scene_1-000-000.safetensors", layered_clip(99))
    with pytest.raises(InputError, match="scene_1-000-000.safetensors is not the clip that .* its SHA-256 differs"):
        packed(clips, tmp_path / "out")
    assert not list((tmp_path / "out").glob("train/*.tar"))
    (clips / "train" / "scene_1-000-000.safetensors").unlink()
    with pytest.raises(InputError, match="is missing, which .* lists"):
        packed(clips, tmp_path / "out")


def test_tar_files_of_other_clips_are_refused(clips, tmp_path):
    packed(clips, tmp_path / "out")
    content = json.loads((clips / "manifest.json").read_text())
    (clips / "manifest.json").write_text(json.dumps({**content, "clips": content["clips"][1:]}))
    with pytest.raises(InputError, match="are of other clips than there are now"):
        packed(clips, tmp_path / "out")


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"manifest.json: No such file.*; name a folder that data/build_clips.py"):
        packed(tmp_path, tmp_path / "out")
    (tmp_path / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(InputError, match="lists no clips of data/build_clips.py"):
        packed(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_tar_file_that_is_cut_off_is_named(clips, tmp_path, cut):
    shard = packed(clips, tmp_path / "out")[-1]
    shard.write_bytes(shard.read_bytes()[: int(cut * shard.stat().st_size)])
    with pytest.raises(InputError, match="train-00000.tar.*(cut off|cannot read)?.*make it again"):
        clip_paths(shard.parent)


def test_a_damaged_clip_in_a_tar_file_is_named(tmp_path):
    member = tarfile.TarInfo("bad.safetensors")
    member.size = 20
    (tmp_path / "bytes").write_bytes(b"\xff" * 20)
    with tarfile.open(tmp_path / "a.tar", "w") as tar, (tmp_path / "bytes").open("rb") as stream:
        tar.addfile(member, stream)
    (path,) = clip_paths(tmp_path)
    with (
        pytest.raises(InputError, match="cannot read the training clip .*bad.safetensors"),
        open_tensors(path, FORMAT, "training clip"),
    ):
        pass


def test_webdataset_reads_them(clips, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    shard = packed(clips, tmp_path / "out")[-1]
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"scene_{n}-000-000" for n in (0, 1, 2, 4, 5)]
    for sample in samples:
        entry = json.loads(sample["json"])
        assert hashlib.sha256(sample["safetensors"]).hexdigest() == entry["sha256"]
