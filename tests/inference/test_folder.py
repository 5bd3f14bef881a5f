import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cus.errors import InputError
from cus.inference.folder import RunFolder, State


def visible(folder: RunFolder) -> list[str]:
    return sorted(p.name for p in folder.path.iterdir() if not p.name.startswith("."))


def again(folder: RunFolder, resume: bool = False, overwrite: bool = False, inputs: Iterable[Path] = ()) -> RunFolder:
    """The folder as a later command finds it."""
    folder.close()
    later = RunFolder(folder.path)
    later.prepare(resume=resume, overwrite=overwrite, inputs=inputs)
    return later


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "out")
    folder.prepare(resume=False, overwrite=False)
    return folder


def test_a_stage_is_given_back_only_for_the_inputs_it_was_made_from(folder):
    state = State({"a": torch.arange(6.0).reshape(2, 3).T}, ("a note",))
    folder.save("scene", "key", state)
    again = folder.load("scene", "key")
    assert again is not None and torch.equal(again.tensors["a"], state.tensors["a"]) and again.notes == ("a note",)
    assert folder.load("scene", "other key") is None
    assert folder.load("frames", "key") is None


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def foreign(path: Path) -> None:
    save_file({"a": torch.zeros(3)}, path, {"fingerprint": "key", "notes": "[]"})


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b""),
        lambda path: flipped(path, -3),
        lambda path: flipped(path, path.read_bytes().index(b"a note")),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"')),
        foreign,
        made_a_folder,
    ],
)
def test_a_damaged_stage_is_made_again_and_said_to_be(folder, damage):
    folder.save("scene", "key", State({"a": torch.rand(3)}, ("a note",)))
    damage(folder.path / "state" / "scene.safetensors")
    later = again(folder, resume=True)
    assert later.load("scene", "key") is None and later.damaged == ["scene"]
    later.save("scene", "key", State({"a": torch.ones(3)}))
    assert later.load("scene", "key") is not None and later.damaged == ["scene"]


def test_a_write_that_fails_leaves_the_earlier_file(folder):
    folder.write("points.ply", lambda part: part.write_text("first"))

    def fails(part):
        part.write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        folder.write("points.ply", fails)
    assert (folder.path / "points.ply").read_text() == "first"
    assert visible(folder) == ["points.ply"]


def test_a_full_disk_is_explained(folder):
    def full(part):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="disk is full.*--resume"):
        folder.write("points.ply", full)


def test_an_earlier_run_is_never_lost_unasked(folder):
    folder.write_json("run.json", {})
    (folder.path / "mine.txt").write_text("not the run's")
    with pytest.raises(InputError, match="already holds a run"):
        again(folder, overwrite=False)
    again(folder, resume=True)
    assert (folder.path / "run.json").exists()
    again(folder, overwrite=True)
    assert visible(folder) == ["mine.txt", "run.json"], "nothing is finished that could take its place"


def test_overwriting_replaces_the_earlier_run_with_the_first_finished_stage(folder):
    for name in ("frames/0000.png", "frames/0001.png", "run.json", "state/splat.safetensors"):
        folder.write(name, lambda part: part.write_text("old"))
    (folder.path / "frames" / "mine.png").write_text("put there by hand")
    new = again(folder, overwrite=True)
    assert not new.speaks_of_this_run() and (folder.path / "run.json").exists()
    new.save("scene", "key", State({"a": torch.ones(3)}))
    left = [p.relative_to(folder.path).as_posix() for p in sorted(folder.path.rglob("*")) if p.is_file()]
    assert [name for name in left if not name.startswith(".")] == ["frames/mine.png", "state/scene.safetensors"]


def test_resuming_keeps_the_states_that_may_be_reused_until_the_run_is_done(folder):
    folder.save("splat", "old", State({"a": torch.ones(3)}))
    folder.write("splat.ply", lambda part: part.write_text("old"))
    new = again(folder, resume=True)
    new.save("scene", "key", State({"a": torch.ones(3)}))
    assert not (folder.path / "splat.ply").exists() and new.load("splat", "old") is not None
    del new.produced["state/splat.safetensors"]
    new.drop_earlier(states=True)
    assert [p.name for p in (folder.path / "state").iterdir()] == ["scene.safetensors"]


@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", ["frames/IMG_1.jpg", "transforms.json", "state/notes.txt", "depth", "splat.ply/a"])
def test_what_the_user_has_put_there_is_refused_and_stays(tmp_path, name, mode):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match=f"holds {name.split('/')[0]}.*which no run made.*move it away"):
        again(RunFolder(tmp_path / "out"), **mode)
    assert mine.read_text() == "mine" and visible(RunFolder(tmp_path / "out")) == [name.split("/")[0]]


def test_a_file_under_a_name_that_a_run_would_write_is_refused_in_the_runs_own_folders_too(folder):
    folder.write("frames/0000.png", lambda part: part.write_text("ours"))
    (folder.path / "frames" / "0007.png").write_text("mine")
    with pytest.raises(InputError, match="frames/0007.png, which no run made"):
        again(folder, overwrite=True)
    (folder.path / "frames" / "0007.png").unlink()
    (folder.path / "frames" / ".DS_Store").write_text("clutter")
    with pytest.raises(InputError, match="no command made it"):
        (folder.path / "points.ply").write_text("mine, since the start")
        folder.write("points.ply", lambda part: part.write_text("ours"))
    assert (folder.path / "points.ply").read_text() == "mine, since the start"


def test_links_are_not_followed_out_of_the_folder(folder, tmp_path):
    folder.write("frames/0000.png", lambda part: part.write_text("ours"))
    (folder.path / "frames" / "0000.png").rename(tmp_path / "0000.png")
    (folder.path / "frames").rmdir()
    (folder.path / "frames").symlink_to(tmp_path)
    folder.remove(["frames/0000.png"])
    assert (tmp_path / "0000.png").read_text() == "ours"
    with pytest.raises(InputError, match="holds frames/"):
        again(folder, overwrite=True)


@pytest.mark.parametrize("mode", [{"resume": True}, {"overwrite": True}])
def test_an_input_among_the_files_of_the_run_is_refused(folder, tmp_path, mode):
    folder.write("frames/0000.png", lambda part: part.write_text("ours"))
    (tmp_path / "link.png").symlink_to(folder.path / "frames" / "0000.png")
    for given in (folder.path / "frames" / "0000.png", tmp_path / "link.png", folder.path / "frames"):
        with pytest.raises(InputError, match="is to be read, but it was written by a run.*copy it elsewhere"):
            again(folder, inputs=[given], **mode)
    (folder.path / "photo.jpg").write_text("mine")
    again(folder, inputs=[folder.path / "photo.jpg"], **mode)


def test_a_record_that_points_outside_is_not_believed(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    outside = ["../mine.txt", str(tmp_path / "mine.txt"), "frames/../../mine.txt"]
    with (folder.path / ".closeupshot-files").open("a") as record:
        record.writelines(f"{json.dumps(name)}\n" for name in outside)
        record.write('["damaged')
    new = again(folder, overwrite=True)
    new.save("scene", "key", State({"a": torch.ones(3)}))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_two_runs_at_once_are_refused(folder):
    with pytest.raises(InputError, match=f"another run is at work in .*: process {os.getpid()}, started 20"):
        RunFolder(folder.path).prepare(resume=True, overwrite=False)
    folder.close()
    RunFolder(folder.path).prepare(resume=True, overwrite=False)


def test_folders_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "file").prepare(resume=False, overwrite=False)
    with pytest.raises(InputError, match="cannot write"):
        RunFolder(tmp_path / "file" / "below").prepare(resume=False, overwrite=False)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write to read-only folders")
def test_a_read_only_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot write"):
        RunFolder(tmp_path / "out").prepare(resume=False, overwrite=False)


def test_a_relative_folder_holds_its_own_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(Path("out"))
    folder.prepare(resume=False, overwrite=False)
    folder.save("scene", "key", State({"a": torch.ones(3)}))
    assert (tmp_path / "out" / "state" / "scene.safetensors").is_file()
    assert folder.load("scene", "key") is not None
