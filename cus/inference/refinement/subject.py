"""Finds and checks the Gaussian scene to refine and its photographs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, PosedPhotos, load_transforms
from cus.datasets.scenes import open_scene
from cus.errors import InputError
from cus.files import read_json
from cus.splats import read_splats
from cus.splats.rasterization import rasterization
from cus.splats.stored_values import StoredSplats
from cus.viewer.scene import SPLAT_FILES

# To check that they belong together, the scene is compared with at most this many photographs, of this longest side.
COMPARED_SIDE, COMPARED = 160, 8
# The brightness of a scene and of its own photographs has a median correlation above this; for other photographs it is
# much lower.
LEAST_CORRELATION = 0.4
# Pixels that the Gaussians cover with more than this opacity are compared, in photographs of which at least this
# fraction is covered.
COVERED, LEAST_COVERED = 0.5, 0.05
_NO_PHOTOGRAPHS = "name the folder of the posed photographs with --data (transforms.json, COLMAP, ...)"


@dataclass(frozen=True)
class Subject:
    """A scene to refine.

    Attributes:
        splat: file of Gaussians.
        stored: content of that file.
        posed: all photographs, with cameras in the scene's world.
        held_out: indices of photographs that the scene's fit never saw, and this one must not see either.
        run: folder of the `cus-infer` run that made it, or None.
    """

    splat: Path
    stored: StoredSplats
    posed: PosedPhotos
    held_out: tuple[int, ...] = ()
    run: Path | None = None

    @property
    def training(self) -> list[int]:
        """Indices of the supervising photographs."""
        return [index for index in range(len(self.posed)) if index not in self.held_out]

    def read(self, size: int) -> tuple[PhotoSet, Cameras]:
        """The photographs in one batch with at most this longest side, and their cameras."""
        widths, heights = zip(*self.posed.sizes, strict=True)
        scale = min(1.0, size / max(*widths, *heights))
        return self.posed.read(round(max(widths) * scale), round(max(heights) * scale))


def read_subject(path: Path, data: Path | None = None, images: Path | None = None) -> Subject:
    """Find the Gaussians of a folder or file, and their photographs.

    Args:
        path: output folder of `cus-infer`, `cus-fit` or `cus-refine`, or a file of Gaussians.
        data: folder of posed photographs; None: those recorded in the folder.
        images: folder of the photographs, if not given by `data`.

    Raises:
        InputError: no Gaussians, fewer than two photographs, or photographs of another aspect ratio than their
            cameras'.
    """
    if not path.exists():
        raise InputError(f"no such file or folder: {path}; name an output folder of cus-infer or cus-fit, or a splat")
    splat = path
    if path.is_dir():
        found = [path / name for name in SPLAT_FILES if (path / name).is_file()]
        if not found:
            raise InputError(
                f"{path} holds no Gaussian scene ({', '.join(SPLAT_FILES)}); cus-fit {path} makes it, if this is a run "
                "of cus-infer or a folder of posed photographs"
            )
        splat = found[0]
    run = path if (path / "run.json").is_file() else None
    names: list[str] = []
    if data is not None:
        posed = open_scene(data, images)
    elif run is not None:
        posed = load_transforms(path, "photos")
    elif (path / "fit.json").is_file():
        posed, names = _of_a_fit(path)
    elif path.is_dir() and (path / "transforms.json").is_file():
        posed = open_scene(path)
        if (path / "refine.json").is_file():
            names = _held_out(read_json(path / "refine.json"))
    else:
        raise InputError(f"there are no photographs next to {splat}; {_NO_PHOTOGRAPHS}")
    held_out = tuple(posed.find(name) for name in names)
    for index in range(len(posed)):
        posed.photo(index)  # checks that it exists with its camera's size
    subject = Subject(splat, read_splats(splat), posed, held_out, run)
    if len(subject.training) < 2:
        raise InputError(
            f"a refinement needs at least two photographs of the scene, got {len(subject.training)}; {_NO_PHOTOGRAPHS}"
        )
    return subject


def _of_a_fit(folder: Path) -> tuple[PosedPhotos, list[str]]:
    """The photographs that a scene of `cus-fit` was fitted to, and the paths of the held-out ones."""
    record = read_json(folder / "fit.json")
    scene, images = record.get("scene"), record.get("images")
    if not isinstance(scene, str):
        raise InputError(f"{folder / 'fit.json'} does not say where the photographs are; {_NO_PHOTOGRAPHS}")
    place = (folder / scene).resolve()
    if not place.exists():
        raise InputError(f"the photographs of {folder} are not at {place} any more; {_NO_PHOTOGRAPHS}")
    posed = open_scene(place, None if images is None else (folder / str(images)).resolve())
    return posed, _held_out(record)


def _held_out(record: dict[str, Any]) -> list[str]:
    return [str(name) for name in record.get("held_out_photographs", [])]


@torch.no_grad()
def check_belongs(subject: Subject) -> None:
    """Refuse Gaussians that do not match the photographs. Raises InputError."""
    chosen = subject.training
    step = -(-len(chosen) // COMPARED)
    posed = subject.posed.select(chosen[::step])
    widths, heights = zip(*posed.sizes, strict=True)
    scale = min(1.0, COMPARED_SIDE / max(*widths, *heights))
    photos, cameras = posed.read(max(2, round(max(widths) * scale)), max(2, round(max(heights) * scale)))
    found, covered = [], []
    g = subject.stored.gaussians
    for index in range(len(posed)):
        camera = cameras[index]
        rendered, alphas, _ = rasterization(
            g.means, g.quats, g.scales, g.opacities_in(camera), g.sh,
            camera.viewmats, camera.Ks, camera.width, camera.height,
            sh_degree=g.sh_degree, rasterize_mode="antialiased" if subject.stored.antialiased else "classic",
        )  # fmt: skip
        seen = (alphas[0, ..., 0] > COVERED) & photos.valid[index]
        covered.append(float(seen.float().mean()))
        if covered[-1] >= LEAST_COVERED:
            found.append(_correlation(rendered[0].permute(2, 0, 1), photos.images[index], seen))
    if not found:
        raise InputError(
            f"none of the photographs sees the Gaussians of {subject.splat} (at most {100 * max(covered):.1f} % of a "
            "picture): they are of another scene, or in other coordinates than the cameras"
        )
    median = sorted(found)[len(found) // 2]
    if median < LEAST_CORRELATION:
        raise InputError(
            f"{subject.splat} does not look like the photographs from where they were taken (correlation {median:.2f}; "
            f"a scene of theirs has above {LEAST_CORRELATION}): it is of another scene, or in other coordinates"
        )


def _correlation(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Correlation of the brightness of two slightly blurred pictures [3, H, W] over the mask [H, W] bool."""
    pair = F.avg_pool2d(torch.stack([first, second]).mean(dim=1), 3, stride=1, padding=1, count_include_pad=False)
    values = pair[:, mask] - pair[:, mask].mean(dim=1, keepdim=True)
    lengths = values.norm(dim=1).clamp(min=1e-9)
    return float((values[0] @ values[1]) / (lengths[0] * lengths[1]))
