"""Training clips on disk: a folder of safetensors files, one clip each, pixels as uint8.

Safetensors files are memory-mapped and read in slices, so a short crop of a long clip costs only its own bytes. Caches
of latents (`cus.training.latents`) are stored next to the clips under the same names.
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cus.conditioning import Conditioning, Layers
from cus.datasets.geometry import Geometry, has_geometry, read_geometry
from cus.datasets.shards import SUFFIX as SHARD
from cus.datasets.shards import MemberTensors, is_member, members
from cus.errors import InputError
from cus.files import replacing, require_regular
from cus.tensor_files import from_bytes, save_tensors, to_bytes

FORMAT = "cus-clip-1"
SUFFIX = ".safetensors"
CLIPS = ("clips", "data/make_procedural.py or data/build_clips.py")
# Prefix of the names of tensors of a clip's other warps.
_OTHER = "other."


@dataclass(frozen=True)
class Warp:
    """Another warp of the references: images [T, 3, H, W] in [0, 1], masks [T, H, W] bool."""

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Clip:
    """One training example.

    Attributes:
        references: [V, 3, H, W] in [0, 1], photographs; the first gives the CLIP context.
        targets: [T, 3, H, W] in [0, 1], ground truth of the target cameras.
        conditioning: [T, 3, H, W] in [0, 1], warped references; black where nothing is known.
        masks: [T, H, W] bool, True where `conditioning` is known.
        structure: [T, 3, H, W] in [0, 1], the projected global point cloud (Section III-D), or None.
        info: how the clip was made (trajectory, zoom, seed, ...); any JSON value.
        layers: the two best references' warps with masks and gate, for fused conditioning, or None.
        others: other warps of the same references into the same frames, by name, for comparisons.
        geometry: cameras and depths of references and frames, or None.
    """

    references: Tensor
    targets: Tensor
    conditioning: Tensor
    masks: Tensor
    structure: Tensor | None = None
    info: dict = field(default_factory=dict)
    layers: Layers | None = None
    others: dict[str, Warp] = field(default_factory=dict)
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        frames, channels, height, width = self.targets.shape
        if channels != 3 or self.references.ndim != 4 or self.references.shape[1] != 3:
            raise ValueError(f"images must be [., 3, H, W], got {self.references.shape} and {self.targets.shape}")
        expected = {"conditioning": self.targets.shape, "masks": (frames, height, width)}
        if self.structure is not None:
            expected["structure"] = self.targets.shape
        if self.layers is not None and self.layers.gate.shape != (frames, height, width):
            raise ValueError(f"layers must be {(frames, height, width)}, got {tuple(self.layers.gate.shape)}")
        given = {name: getattr(self, name).shape for name in expected}
        for name, warp in self.others.items():
            expected |= {f"{name}.images": self.targets.shape, f"{name}.masks": (frames, height, width)}
            given |= {f"{name}.images": warp.images.shape, f"{name}.masks": warp.masks.shape}
        if self.geometry is not None:
            expected |= {"frames' depths": (frames, height, width), "depths": self.references[:, 0].shape}
            given |= {"frames' depths": self.geometry.shown.shape, "depths": self.geometry.depths.shape}
        for name, shape in expected.items():
            if tuple(given[name]) != tuple(shape):
                raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(given[name])}")

    @property
    def shown(self) -> Conditioning:
        """The conditioning with layers that a model sees; depths are those of the geometry, 0 without one."""
        depths = torch.zeros_like(self.conditioning[:, 0]) if self.geometry is None else self.geometry.shown
        return Conditioning(self.conditioning, self.masks, depths, self.layers)

    def conditioned_on(self, name: str) -> "Clip":
        """Replace the clip's own conditioning by one of its other warps; "" keeps its own.

        The result has no geometry, whose depths belong to the clip's own conditioning (see
        `cus.datasets.other_warps.shown_by`).

        Raises:
            InputError: the clip has no such warp.
        """
        if not name:
            return self
        check_other(name, self.others, "a clip")
        warp = self.others[name]
        return replace(self, conditioning=warp.images, masks=warp.masks, layers=None, geometry=None)


def check_other(name: str, others: Collection[str], what: str) -> None:
    """Refuse a name that is not among a clip's other warps. Raises InputError, whose message begins with `what`."""
    if name not in others:
        found = ", ".join(sorted(others)) or "none"
        raise InputError(
            f"{what} has no conditioning {name!r} beside its own (there: {found}); build clips with others=[{name}]"
        )


def require_conditioning(path: Path, name: str) -> None:
    """Refuse a warp that the clip in a file lacks; "" is its own. Raises InputError."""
    if name:
        with open_tensors(path, FORMAT, "training clip") as file:
            check_other(name, others_of(file.keys()), str(path))


def save_clip(path: Path, clip: Clip) -> None:
    """Write a clip atomically. Raises InputError if it cannot be written."""
    tensors = {
        "references": to_bytes(clip.references),
        "targets": to_bytes(clip.targets),
        "conditioning": to_bytes(clip.conditioning),
        "masks": clip.masks.to(torch.uint8).contiguous(),
    }
    if clip.structure is not None:
        tensors["structure"] = to_bytes(clip.structure)
    if clip.layers is not None:
        tensors["layer_images"] = to_bytes(clip.layers.images)
        tensors["layer_masks"] = clip.layers.masks.to(torch.uint8).contiguous()
        tensors["gate"] = to_bytes(clip.layers.gate)
    for name, warp in clip.others.items():
        tensors[images_of(name)] = to_bytes(warp.images)
        tensors[masks_of(name)] = warp.masks.to(torch.uint8).contiguous()
    if clip.geometry is not None:
        tensors |= clip.geometry.tensors()
    with replacing(path, parents=True, sweep=False) as part:
        save_tensors(tensors, part, {"format": FORMAT, "info": json.dumps(clip.info)})


def is_clip(path: Path) -> bool:
    """Whether a file is a clip and not truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_clip(path: Path) -> Clip:
    """Read a whole clip. Raises InputError if the file is missing, damaged or something else."""
    with open_tensors(path, FORMAT, "training clip") as file:
        names = set(file.keys())
        return Clip(
            references=from_bytes(file.get_tensor("references")),
            targets=from_bytes(file.get_tensor("targets")),
            conditioning=from_bytes(file.get_tensor("conditioning")),
            masks=file.get_tensor("masks").bool(),
            structure=from_bytes(file.get_tensor("structure")) if "structure" in names else None,
            info=json.loads(file.metadata().get("info", "{}")),
            layers=_layers(file) if "gate" in names else None,
            others={name: _warp(file, name) for name in others_of(names)},
            geometry=read_geometry(file.get_tensor) if has_geometry(names) else None,
        )


def others_of(names: Iterable[str]) -> list[str]:
    """Names of the other warps in a clip with tensors of these names."""
    found = (re.fullmatch(f"{re.escape(_OTHER)}(.+)\\.images", name) for name in names)
    return sorted(match[1] for match in found if match)


def images_of(name: str) -> str:
    """Name of the tensor of a clip's conditioning images, [T, 3, H, W] uint8; "" is its own conditioning."""
    return f"{_OTHER}{name}.images" if name else "conditioning"


@contextlib.contextmanager
def open_tensors(path: Path, form: str, what: str) -> Iterator[Any]:
    """Open a safetensors file of training data for reading parts of it.

    Args:
        path: file to open.
        form: required format in its metadata.
        what: kind of file, for messages.

    Raises:
        InputError: the file is missing, damaged or of another format, or the block reads tensors that are missing or
            have other shapes.
    """
    remedy = "delete it and build it again"
    member = is_member(path)
    require_regular(path.parent if member else path)
    try:
        with MemberTensors(path) if member else safe_open(path, framework="pt") as file:
            got = (file.metadata() or {}).get("format")
            if got != form:
                raise InputError(f"{path} is no {what}: its format is {got}, not {form}; name a folder of such files")
            yield file
    except (OSError, SafetensorError, ValueError, TypeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read the {what} {path}: {reason}; {remedy}") from error


def _layers(file) -> Layers:  # noqa: ANN001  (an open safetensors file)
    masks = file.get_tensor("layer_masks").bool()
    return Layers(from_bytes(file.get_tensor("layer_images")), masks, from_bytes(file.get_tensor("gate")))


def _warp(file, name: str) -> Warp:  # noqa: ANN001
    return Warp(from_bytes(file.get_tensor(images_of(name))), file.get_tensor(masks_of(name)).bool())


def masks_of(name: str) -> str:
    """Name of the tensor of their masks, [T, H, W] uint8."""
    return f"{_OTHER}{name}.masks" if name else "masks"


def clip_paths(folder: Path, content: tuple[str, str] = CLIPS) -> list[Path]:
    """The clips of a folder in order, then those in its tar files.

    Args:
        folder: folder of the files.
        content: what they are, and the script that makes them, for messages.

    Raises:
        InputError: there are none.
    """
    folder = Path(folder)
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    paths += [path for shard in sorted(folder.glob(f"*{SHARD}")) for path in members(shard, SUFFIX)]
    if not paths:
        what, script = content
        said = f"no {what} (*{SUFFIX}, or *{SHARD} with such) in {folder}" if folder.is_dir() else f"no folder {folder}"
        inside = [path.parent for end in (SUFFIX, SHARD) for path in sorted(folder.glob(f"*/*{end}"))]
        remedy = f"name {inside[0]}" if inside else f"{script} makes {what}"
        raise InputError(f"{said}; {remedy}")
    return paths


@dataclass(frozen=True)
class Window:
    """A part of a clip: `frames` from `start`, and the pixels `[y, y + height) x [x, x + width)` of each."""

    start: int
    frames: int
    y: int
    x: int
    height: int
    width: int

    @staticmethod
    def draw(
        length: int, size: tuple[int, int], frames: int, crop: tuple[int, int], align: int, generator: torch.Generator
    ) -> "Window":
        """A random window of `crop` (height, width) pixels in frames of `size`, its corner at multiples of `align`."""
        if frames > length or crop[0] > size[0] or crop[1] > size[1]:
            raise InputError(
                f"a crop of {frames} frames of {crop[1]}x{crop[0]} does not fit into clips of {length} frames of "
                f"{size[1]}x{size[0]}; choose a smaller crop or build larger clips"
            )
        start = _below(length - frames + 1, generator)
        y = _below((size[0] - crop[0]) // align + 1, generator) * align
        x = _below((size[1] - crop[1]) // align + 1, generator) * align
        return Window(start, frames, y, x, *crop)

    def enlarged(self, factor: int) -> "Window":
        """The same window in a grid that is `factor` times finer."""
        return Window(
            self.start, self.frames, self.y * factor, self.x * factor, self.height * factor, self.width * factor
        )

    def of(self, tensor_slice) -> Tensor:  # noqa: ANN001  (a tensor, or a slice of a safetensors file)
        """Cut the window from [T, C, H, W], [T, L, C, H, W] or [T, H, W]."""
        time, rows = slice(self.start, self.start + self.frames), slice(self.y, self.y + self.height)
        columns = slice(self.x, self.x + self.width)
        axes = len(tensor_slice.get_shape() if hasattr(tensor_slice, "get_shape") else tensor_slice.shape)
        between = (slice(None),) * (axes - 3)
        return tensor_slice[(time, *between, rows, columns)]


class ClipItems(torch.utils.data.Dataset):
    """Endless items from a folder's clips, each clip once per epoch (`EpochOrder`).

    Args:
        folder: folder of the clips.
        seed: seed of the order and of all other draws of an item.
    """

    content = CLIPS

    def __init__(self, folder: Path, seed: int) -> None:
        self.paths, self.seed = clip_paths(folder, self.content), seed
        self.order = EpochOrder(len(self.paths), seed)

    def __len__(self) -> int:
        return 2**31

    def path_of(self, index: int) -> Path:
        """The clip of item `index`."""
        return self.paths[self.order[index]]


class ClipCrops(ClipItems):
    """Random windows of clips as float images; item `i` depends only on the seed and `i`, so training can resume.

    Items are dicts: targets, conditioning [T, 3, h, w] in [0, 1], masks [T, h, w] bool.
    """

    def __init__(self, folder: Path, frames: int, crop: tuple[int, int], seed: int) -> None:
        super().__init__(folder, seed)
        self.frames, self.crop = frames, crop

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(item_seed(self.seed, index))
        path = self.path_of(index)
        with open_tensors(path, FORMAT, "training clip") as file:
            targets = file.get_slice("targets")
            length, _, height, width = targets.get_shape()
            window = Window.draw(length, (height, width), self.frames, self.crop, 1, generator)
            return {
                "targets": from_bytes(window.of(targets)),
                "conditioning": from_bytes(window.of(file.get_slice("conditioning"))),
                "masks": window.of(file.get_slice("masks")).bool(),
            }


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


class EpochOrder:
    """An endless sequence with each of `count` clips once per epoch, in a new random order every epoch.

    Items are numbered through the whole run, across its processes. Whichever process makes item `i`, and wherever a run
    is resumed, the clip is the same, and none is repeated within an epoch.

    Args:
        count: number of clips, at least 1.
        seed: seed of the orders.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(f"an order needs at least one clip, got count={count}")
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __getitem__(self, index: int) -> int:
        """Index of the clip, 0 .. count - 1, of item `index`."""
        epoch, place = divmod(index, self.count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(item_seed(self.seed + 3, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        return int(self._order[place])


def item_seed(seed: int, index: int) -> int:
    """A seed for item `index` of a data set: well mixed (splitmix64), so that neighbours are unrelated."""
    value = (seed * 0x9E3779B97F4A7C15 + index + 0x632BE59BD9B4E019) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return (value ^ (value >> 31)) >> 1
