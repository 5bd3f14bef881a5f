"""Small sets of posed pictures of one scene, for training depth without depth labels.

One safetensors file per set. It may contain exact depths for evaluation; training never reads them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.datasets.clips import ClipItems, item_seed, open_tensors
from cus.errors import InputError
from cus.files import replacing
from cus.tensor_files import from_bytes, save_tensors, to_bytes

FORMAT = "cus-posed-views-1"
KIND = "set of posed views"
CONTENT = ("sets of posed views", "data/make_views.py")


@dataclass(frozen=True)
class PosedViews:
    """Pictures of one static scene.

    Attributes:
        images: [V, 3, H, W] in [0, 1], neighbours next to each other.
        cameras: V cameras of the images.
        depths: [V, H, W] exact z-depths in scene units, 0 = none (the sky), or None.
        info: how the set was made; any JSON value.
    """

    images: Tensor
    cameras: Cameras
    depths: Tensor | None = None
    info: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        views, channels, height, width = self.images.shape
        if channels != 3 or (len(self.cameras), self.cameras.height, self.cameras.width) != (views, height, width):
            raise ValueError(f"images must be [V, 3, H, W] of the cameras, got {tuple(self.images.shape)}")
        if self.depths is not None and self.depths.shape != (views, height, width):
            raise ValueError(f"depths must be {(views, height, width)}, got {tuple(self.depths.shape)}")


def save_views(path: Path, views: PosedViews) -> None:
    """Write a set atomically. Raises InputError if it cannot be written."""
    tensors = {
        "images": to_bytes(views.images).contiguous(),
        "viewmats": views.cameras.viewmats.contiguous(),
        "Ks": views.cameras.Ks.contiguous(),
    }
    if views.depths is not None:
        tensors["depths"] = views.depths.contiguous()
    with replacing(path, parents=True, sweep=False) as part:
        save_tensors(tensors, part, {"format": FORMAT, "info": json.dumps(views.info)})


def load_views(path: Path) -> PosedViews:
    """Read a set with all its contents. Raises InputError if the file is missing, damaged or something else."""
    with open_tensors(path, FORMAT, KIND) as file:
        images, cameras = _pictures(file)
        depths = file.get_tensor("depths") if "depths" in set(file.keys()) else None
        return PosedViews(images, cameras, depths, json.loads(file.metadata().get("info", "{}")))


class ViewItems(ClipItems):
    """A view with its nearest neighbours, randomly mirrored and recoloured; endless and resumable.

    Item `i` depends only on the seed and `i`. Items are dicts:

    - image: [3, H, W] in [0, 1], the view whose depth is estimated;
    - others: [S, 3, H, W], its neighbours, nearest first;
    - viewmats: [S, 4, 4], from its camera to the neighbours';
    - Ks: [1 + S, 3, 3], its own first.

    Args:
        folder: folder of the sets. Depths in them are not read.
        others: number of neighbours per item, S.
        seed: seed of all random draws.
        recolor: largest relative change of brightness, contrast and each channel; the same for all views of an item.
        shrink: factor by which stored views are shrunk.
    """

    content = CONTENT

    def __init__(self, folder: Path, others: int, seed: int, recolor: float = 0.2, shrink: int = 1) -> None:
        super().__init__(folder, seed)
        self.others, self.recolor, self.shrink = others, recolor, shrink

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(item_seed(self.seed, index))
        path = self.path_of(index)
        with open_tensors(path, FORMAT, KIND) as file:
            images, cameras = _pictures(file)
        if len(images) <= self.others:
            raise InputError(f"{path} has {len(images)} views; others={self.others} needs {self.others + 1}")
        chosen = int(torch.randint(len(images), (1,), generator=generator))
        # Nearest first; equal distances in index order.
        order = sorted(range(len(images)), key=lambda view: (abs(view - chosen), view))[: 1 + self.others]
        images, cameras = shrunk(images[order], cameras[order], self.shrink)
        images = self._recolored(images, generator)
        if torch.rand(1, generator=generator) < 0.5:
            images, cameras = images.flip(-1), mirrored(cameras)
        return {
            "image": images[0],
            "others": images[1:],
            "viewmats": cameras.viewmats[1:] @ cameras.c2w[:1],
            "Ks": cameras.Ks,
        }

    def _recolored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        gains = 1 + self.recolor * (2 * torch.rand(5, generator=generator) - 1)
        mean = images.mean()
        changed = ((images - mean) * gains[3] + mean) * gains[4] * gains[:3, None, None]
        return changed.clamp(0, 1)


def shrunk(images: Tensor, cameras: Cameras, times: int) -> tuple[Tensor, Cameras]:
    """Shrink pictures `times` times by area, with their cameras. Raises InputError if the size is not divisible."""
    if times == 1:
        return images, cameras
    if cameras.width % times or cameras.height % times:
        raise InputError(
            f"views of {cameras.width}x{cameras.height} cannot be shrunk {times} times; choose another factor"
        )
    return F.avg_pool2d(images, times), cameras.resized(cameras.width // times, cameras.height // times)


def mirrored(cameras: Cameras) -> Cameras:
    """Cameras of the scene mirrored left to right, which see the mirrored pictures."""
    flip = torch.diag(cameras.viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] = cameras.width - Ks[:, 0, 2]
    return Cameras(flip @ cameras.viewmats @ flip, Ks, cameras.width, cameras.height)


def _pictures(file) -> tuple[Tensor, Cameras]:  # noqa: ANN001  (an open safetensors file)
    images = from_bytes(file.get_tensor("images"))
    return images, Cameras(file.get_tensor("viewmats"), file.get_tensor("Ks"), images.shape[-1], images.shape[-2])
