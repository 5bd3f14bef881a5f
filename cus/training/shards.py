"""Clips packed into tar files of similar size, for copying and sharing; data/make_shards.py is their command."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from omegaconf import MISSING

from cus.datasets.shards import SUFFIX
from cus.errors import InputError
from cus.files import read_json
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.remote import Destination, local_folder
from cus.training import config
from cus.training.scene_clips import FORMAT, MANIFEST, SPLITS, share_of
from cus.training.scripts import REMEDY

SETTINGS = "settings.yaml"
PLANNED = (SETTINGS, MANIFEST, *(f"{split}/*{SUFFIX}" for split in SPLITS))
# Fields that a shard's manifest keeps of the manifest of the clips.
_ABOUT = ("licence", "seed", "recipe", "splits")


@dataclass
class Shards:
    """Settings of the shards.

    Attributes:
        clips: folder filled by data/build_clips.py, or the URL of one on remote storage.
        out: output folder of the tar files: `train/train-00000.tar`, ..., `held_out/`, and `manifest.json`; or the URL
            of one on remote storage (s3://, hf://, ...), to which full tar files are moved.
        megabytes: size in MB from which a tar file is full.
        part: index of this process's share, 0 .. parts - 1; only with `parts`.
        parts: number of processes; 0: as started by `accelerate launch`.
    """

    clips: str = MISSING
    out: str = MISSING
    megabytes: int = limited(1000, low=1)
    part: int = limited(0, low=0)
    parts: int = limited(0, low=0)


@dataclass(frozen=True)
class _Shard:
    """One tar file: its name relative to `out`, and the manifest's entries of its clips."""

    name: str
    clips: list[dict[str, Any]]


def build(settings: Shards, on_progress: Callable[[int, int], None]) -> None:
    """Pack missing shards.

    Raises:
        InputError: no manifest, clips that do not match it, or a folder that is not writable.
    """
    part, parts = share_of(settings.part, settings.parts)
    source = local_folder(settings.clips)
    manifest = read_json(source / MANIFEST, "name a folder that data/build_clips.py has filled")
    if manifest.get("format") != FORMAT or not manifest.get("clips"):
        raise InputError(f"{source / MANIFEST} lists no clips of data/build_clips.py")
    shards = list(shards_of(manifest["clips"], settings.megabytes * 10**6))
    place = Destination(settings.out)
    place.check_free(PLANNED, SETTINGS)
    folder = OutputFolder(place.path, "shards of clips", REMEDY)
    folder.open(PLANNED, inputs=[source / MANIFEST], share=f"-{part}-of-{parts}")
    try:
        place.bring(folder, SETTINGS, MANIFEST)
        remote = place.remote is not None
        config.write(settings, folder, SETTINGS, ("out", "clips", "part", "parts"), elsewhere=remote)
        place.send(folder.path / SETTINGS, SETTINGS)
        content = {name: manifest[name] for name in _ABOUT if name in manifest}
        listed = [{"file": s.name, "clips": [c["file"] for c in s.clips]} for s in shards]
        content = {"format": FORMAT, **content, "shards": listed, "clips": manifest["clips"]}
        _write_once(folder, json.dumps(content, indent=1))
        place.send(folder.path / MANIFEST, MANIFEST)
        mine = shards[part::parts]
        for done, shard in enumerate(mine):
            on_progress(done, len(mine))
            if not (folder.is_ours(shard.name) or place.has(shard.name)):
                folder.write(shard.name, lambda path, shard=shard: _pack(path, source, shard))
            if folder.is_ours(shard.name):
                place.move(folder, [shard.name])
        on_progress(len(mine), len(mine))
    finally:
        folder.close()


def _write_once(folder: OutputFolder, text: str) -> None:
    """Write the manifest unless it exists; a different one is refused, because it belongs to the packed clips."""
    path = folder.path / MANIFEST
    if not folder.is_ours(MANIFEST):
        folder.write(MANIFEST, lambda part: part.write_text(text, encoding="utf-8"))
    elif path.read_text(encoding="utf-8") != text:
        raise InputError(
            f"the tar files in {folder.path} are of other clips than there are now (their {MANIFEST} differs); give "
            "another out="
        )


def shards_of(clips: list[dict[str, Any]], size: int) -> Iterator[_Shard]:
    """Clips of each split in the manifest's order, with a new tar file whenever one has reached `size` bytes."""
    for split in SPLITS:
        chosen = [clip for clip in clips if clip["split"] == split]
        packed: list[dict[str, Any]] = []
        count = 0
        for place, clip in enumerate(chosen):
            packed.append(clip)
            if sum(c["bytes"] for c in packed) >= size or place == len(chosen) - 1:
                yield _Shard(f"{split}/{split}-{count:05d}{SUFFIX}", packed)
                packed, count = [], count + 1


def _pack(path: Path, source: Path, shard: _Shard) -> None:
    """Write a tar file, deterministically. Raises InputError if a clip does not match the manifest."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for clip in shard.clips:
            file = source / clip["file"]
            try:
                with file.open("rb") as stream:
                    hashed = _Hashed(stream)
                    tar.addfile(_member(file.name, os.stat(file).st_size), hashed)
            except FileNotFoundError as error:
                raise InputError(f"{file} is missing, which {source / MANIFEST} lists; build it again") from error
            if hashed.digest.hexdigest() != clip["sha256"]:
                raise InputError(f"{file} is not the clip that {source / MANIFEST} lists: its SHA-256 differs")
            entry = json.dumps(clip).encode()
            tar.addfile(_member(f"{file.stem}.json", len(entry)), io.BytesIO(entry))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


class _Hashed(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and hash up to `size` bytes."""
        data = self.stream.read(size)
        self.digest.update(data)
        return data
