"""Folders of remote storage, as local ones: fsspec's memory stands in for a bucket."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFile

from cus.datasets.clips import clip_paths, load_clip
from cus.errors import InputError
from cus.remote import Destination, RemoteFolder, is_remote, local_folder
from cus.training.clip_crops import LayeredCrops
from cus.training.scripts import settings_of
from cus.training.shards import Shards, build
from tests.training.test_shards import write_clips


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty store in memory, and an empty cache."""
    monkeypatch.setenv("CLOSEUPSHOT_CACHE", str(tmp_path / "cache"))
    local_folder.cache_clear()
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()
    local_folder.cache_clear()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips")


def upload(system: Any, folder: Path, root: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.mark.parametrize(
    "name", ["s3://bucket/clips", "hf://datasets/a/b", "memory://x", "gs://a", "simplecache::s3://b"]
)
def test_remote_folders_are_told_from_local_ones_by_their_protocol(name: str) -> None:
    assert is_remote(name) != name.startswith("simplecache::")
    assert not any(map(is_remote, ("runs/clips", "C:\\clips", "a:b", "", "/a//b")))


def test_training_reads_the_same_items_from_remote_clips(clips: Path, bucket: Any) -> None:
    upload(bucket, clips, "/b/clips")
    folder = local_folder("memory://b/clips/train")
    one, other = (LayeredCrops(path, 2, (8, 8), 7, 2, 28) for path in (clips / "train", folder))
    for index in range(6):
        a, b = one[index], other[index]
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_only_what_is_new_is_fetched_again(clips: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(bucket, clips, "/b/clips")
    fetched: list[str] = []
    fetch = RemoteFolder.fetch
    monkeypatch.setattr(RemoteFolder, "fetch", lambda self, name, to: (fetched.append(name), fetch(self, name, to)))
    folder = local_folder("memory://b/clips/train")
    assert len(fetched) == 5
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    first, second = (f"/b/clips/train/{name}" for name in names[:2])
    bucket.pipe(first, bucket.cat(second))
    bucket.rm(second)
    local_folder.cache_clear()
    assert local_folder("memory://b/clips/train/") == folder and fetched[5:] == [names[0]]
    assert [path.name for path in clip_paths(folder)] == [names[0], *names[2:]]


def test_shards_moved_to_a_remote_folder_are_those_of_a_local_one(clips: Path, bucket: Any, tmp_path: Path) -> None:
    upload(bucket, clips, "/b/clips")
    for out, source in ((str(tmp_path / "out"), str(clips)), ("memory://b/shards", "memory://b/clips")):
        for _ in range(2):
            build(settings_of(Shards, [f"clips={source}", f"out={out}"]), lambda done, total: None)
    local = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in tmp_path.glob("out/*/*.tar")}
    remote = {name: bucket.cat(f"/b/shards/{name}") for name in RemoteFolder("memory://b/shards").files()}
    assert {name: data for name, data in remote.items() if name.endswith(".tar")} == local and len(local) == 2
    assert json.loads(remote["manifest.json"])["licence"] == "CC0"
    assert not list(Destination("memory://b/shards").path.rglob("*.tar")), "they need no space here"
    paths = clip_paths(local_folder("memory://b/shards/train"))
    assert [load_clip(path).info for path in paths] == [{"seed": seed} for seed in (0, 1, 2, 4, 5)]


def test_a_remote_folder_of_something_else_is_refused(clips: Path, bucket: Any) -> None:
    bucket.pipe("/b/mine/manifest.json", b"{}")
    with pytest.raises(InputError, match="b/mine holds manifest.json, and no settings.yaml; name another out="):
        build(settings_of(Shards, [f"clips={clips}", "out=memory://b/mine"]), lambda done, total: None)
    assert bucket.cat("/b/mine/manifest.json") == b"{}"


def test_what_cannot_be_reached_is_told_in_one_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nowhere://a: Protocol not known.*expected s3://"):
        local_folder("nowhere://a")
    with pytest.raises(InputError, match="there are no training data at memory://b/none"):
        local_folder("memory://b/none")
    bucket.pipe("/b/clips/a.safetensors", b"1")
    monkeypatch.setattr(bucket, "get_file", lambda *_: (_ for _ in ()).throw(ConnectionError("reset by peer")))
    with pytest.raises(InputError, match=r"cannot fetch a.safetensors of memory://b/clips \(ConnectionError: reset by"):
        local_folder("memory://b/clips")


def test_a_protocol_whose_package_is_missing_names_it() -> None:
    said = "Install no_such_package to access Files"
    fsspec.register_implementation("files", "no_such_package.Files", clobber=True, errtxt=said)
    with pytest.raises(InputError, match=r"files://a needs another package \(Install no_such_package.*with pip"):
        local_folder("files://a")


def test_names_that_lead_out_of_the_folder_are_not_fetched(bucket: Any) -> None:
    bucket.store["/b/clips/../../x.json"] = MemoryFile(bucket, "/b/x", b"1")
    bucket.pipe("/b/clips/a.json", b"{}")
    assert list(RemoteFolder("memory://b/clips").files()) == ["a.json"]


def test_copies_are_whole_files(bucket: Any) -> None:
    data = bytes(range(256)) * 40
    bucket.pipe("/b/clips/sub/a.tar", data)
    folder = local_folder("memory://b/clips")
    assert hashlib.sha256((folder / "sub/a.tar").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {".copied.json", ".lock", "a.tar"}
