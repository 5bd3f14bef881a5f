import errno
import os
from pathlib import Path

import pytest
import torch

from cus.errors import InputError
from cus.inference.folder import RunFolder, State


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


def test_a_damaged_stage_is_made_again(folder):
    folder.save("scene", "key", State({"a": torch.ones(3)}))
    path = folder.path / "state" / "scene.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    assert folder.load("scene", "key") is None


def test_a_write_that_fails_leaves_the_earlier_file(folder):
    folder.write("points.ply", lambda part: part.write_text("first"))

    def fails(part):
        part.write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        folder.write("points.ply", fails)
    assert (folder.path / "points.ply").read_text() == "first"
    assert [p.name for p in folder.path.iterdir()] == ["points.ply"]


def test_a_full_disk_is_explained(folder):
    def full(part):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="disk is full.*--resume"):
        folder.write("points.ply", full)


def test_an_earlier_run_is_never_lost_unasked(folder):
    folder.write("run.json", lambda part: part.write_text("{}"))
    folder.write("mine.txt", lambda part: part.write_text("not the run's"))
    with pytest.raises(InputError, match="already holds a run"):
        folder.prepare(resume=False, overwrite=False)
    folder.prepare(resume=True, overwrite=False)
    assert (folder.path / "run.json").exists()
    folder.prepare(resume=False, overwrite=True)
    assert [p.name for p in folder.path.iterdir()] == ["mine.txt"]


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
