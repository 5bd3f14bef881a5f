"""Photographs of the planes' scene in one batch, of any sizes, with the truth; and checkpoints that know it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cus.cameras import Cameras
from tests.estimators import planes

STAND_INS = Path(__file__).parent / "stand_ins"
VIEWS = 4  # that a stand-in's checkpoint knows


@dataclass(frozen=True)
class Photographs:
    """A batch as `read_photos` makes it, padded at the right and the bottom, and the truth.

    Attributes:
        images, valid, depths: [V, ...] of the batch; depths are 0 in the padding.
        cameras: the true ones, of the batch.
        focals: [V, 2] over each photograph's own width and height.
    """

    images: Tensor
    valid: Tensor
    depths: Tensor
    cameras: Cameras
    focals: Tensor


def photographs(sizes: Sequence[tuple[int, int]], baselines: Sequence[float], focal: float = 1.1) -> Photographs:
    """Views of (width, height) from x = baseline; the focal length is in units of the longest side."""
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    images = torch.zeros(len(sizes), 3, height, width)
    depths = torch.zeros(len(sizes), height, width)
    valid = torch.zeros(len(sizes), height, width, dtype=torch.bool)
    viewmats, Ks = [], []
    for view, ((w, h), x) in enumerate(zip(sizes, baselines, strict=True)):
        camera = planes.cameras((x,), w, h, focal * max(w, h))
        picture, depth = planes.render(camera)
        images[view, :, :h, :w], depths[view, :h, :w], valid[view, :h, :w] = picture[0], depth[0], True
        viewmats.append(camera.viewmats[0])
        Ks.append(camera.Ks[0])
    focals = torch.tensor([[focal * max(size) / side for side in size] for size in sizes])
    return Photographs(images, valid, depths, Cameras(torch.stack(viewmats), torch.stack(Ks), width, height), focals)


def vggt_checkpoint(folder: Path, photos: Photographs, **changes: Tensor) -> str:
    """Writes a checkpoint of the stand-in that knows these photographs, and names it as an estimator."""
    state = {f"{head}.{name}": torch.ones(shape) for head in HEADS for name, shape in (("weight", (1, 1)), ("bias", 1))}
    state |= {f"aggregator.{name}": value for name, value in _known(photos, photos.focals, **changes).items()}
    save_file(state, _made(folder) / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"img_size": 518, "patch_size": 14, "embed_dim": 5}))
    return f"vggt:{folder}"


def dust3r_checkpoint(folder: Path, photos: Photographs, **changes: Tensor) -> str:
    """The same for the stand-in of DUSt3R, which knows one focal length a view."""
    save_file(_known(photos, photos.focals.amin(dim=1), **changes), _made(folder) / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"width": 5}))
    return f"dust3r:{folder}"


def map_anything_checkpoint(folder: Path, photos: Photographs, **changes: Tensor) -> str:
    """The same for the stand-in of MapAnything, which is VGGT's behind another interface."""
    vggt_checkpoint(folder, photos, **changes)
    (folder / "config.json").write_text("{}")
    return f"map-anything:{folder}"


CHECKPOINTS = {"vggt": vggt_checkpoint, "dust3r": dust3r_checkpoint, "map-anything": map_anything_checkpoint}
HEADS = ("camera_head", "depth_head", "point_head", "track_head")


def _known(photos: Photographs, focals: Tensor, **changes: Tensor) -> dict[str, Tensor]:
    spare = VIEWS - len(photos.images)
    known = {
        "viewmats": torch.cat([photos.cameras.viewmats, torch.eye(4).repeat(spare, 1, 1)]),
        "focals": torch.cat([focals, torch.ones(spare, *focals.shape[1:])]),
        "unit": torch.tensor([0.37]),
        "surest": torch.tensor([5.0]),
        "memory": torch.tensor([float(VIEWS)]),
        "width": torch.zeros(5),
    }
    return known | changes


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
