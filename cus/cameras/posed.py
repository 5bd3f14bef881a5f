"""Photographs on disk with their cameras: the result of every camera reader."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.conversions import viewmats_from_c2w
from cus.cameras.lenses import Lens, check_lens, undistort
from cus.cameras.photos import Photo, PhotoSet, batch_of, cameras_of, inspect_posed_photo, same_shape, with_mask
from cus.cameras.picture_files import SUFFIXES
from cus.cameras.pictures import Picture
from cus.errors import InputError

# Centres farther from the world's origin than this many times their spread lose significant digits in float32.
_FAR = 100.0
FARTHEST = 1e12  # largest number in a camera matrix


@dataclass(frozen=True)
class PosedPhotos:
    """Photographs on disk with their cameras.

    Attributes:
        paths: V files of photographs.
        viewmats: [V, 4, 4] float32 world-to-camera, OpenCV; the world's origin is moved to `origin`.
        Ks: [V, 3, 3] intrinsics in pixels of pictures of `sizes`.
        sizes: V pairs (width, height) in pixels.
        lenses: V lenses; empty: no distortion.
        upright: for each of V photographs whether its camera is for the picture turned by EXIF, not as stored; empty:
            none.
        masks: V files that are black where a photograph is to be ignored, or None for no mask; empty: no masks.
        origin: [3] float64, the point of the file's world at this world's origin: zero, unless the cameras are far from
            zero (`local_origin`). The file's points are `points.double() + origin`.
        notes: messages for the user on how the cameras were read.
    """

    paths: tuple[Path, ...]
    viewmats: Tensor
    Ks: Tensor
    sizes: tuple[tuple[int, int], ...]
    lenses: tuple[Lens, ...] = ()
    upright: tuple[bool, ...] = ()
    masks: tuple[Path | None, ...] = ()
    origin: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.paths)
        object.__setattr__(self, "lenses", tuple(self.lenses) or (Lens(),) * count)
        object.__setattr__(self, "upright", tuple(self.upright) or (False,) * count)
        object.__setattr__(self, "masks", tuple(self.masks) or (None,) * count)
        lengths = [
            len(values) for values in (self.viewmats, self.Ks, self.sizes, self.lenses, self.upright, self.masks)
        ]
        if set(lengths) - {count}:
            raise ValueError(f"expected {count} viewmats, Ks, sizes, lenses, upright and masks, got {lengths}")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def distortion(self) -> Tensor:
        """[V, 8] float64 OpenCV coefficients k1 k2 p1 p2 k3 k4 k5 k6; NaN for a lens without them (fisheye)."""
        none = (float("nan"),) * 8
        return torch.tensor([lens.opencv() or none for lens in self.lenses], dtype=torch.float64).reshape(-1, 8)

    @property
    def names(self) -> list[str]:
        """A unique name for each photograph: its file's name, else its path below their common folder.

        Raises:
            InputError: a photograph is listed twice.
        """
        counts = Counter(path.name for path in self.paths)
        if not counts or max(counts.values()) == 1:
            return [path.name for path in self.paths]
        absolute = [Path(os.path.abspath(path)) for path in self.paths]
        shared = os.path.commonpath([path.parent for path in absolute])
        names = [path.relative_to(shared).as_posix() for path in absolute]
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise InputError(f"the scene lists {name} {count} times; each photograph has one camera")
        return names

    def select(self, indices: Sequence[int]) -> "PosedPhotos":
        """The photographs at `indices`, in that order."""
        chosen = list(indices)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            viewmats=self.viewmats[chosen],
            Ks=self.Ks[chosen],
            sizes=tuple(self.sizes[i] for i in chosen),
            lenses=tuple(self.lenses[i] for i in chosen),
            upright=tuple(self.upright[i] for i in chosen),
            masks=tuple(self.masks[i] for i in chosen),
        )

    def moved(self, origin: Tensor) -> "PosedPhotos":
        """The same cameras relative to another `origin` [3] float64."""
        viewmats = self.viewmats.double()
        viewmats[:, :3, 3] += viewmats[:, :3, :3] @ (origin - self.origin)
        return replace(self, viewmats=viewmats.float(), origin=origin)

    def find(self, name: Path | str) -> int:
        """The index of the photograph that a path refers to: the one that shares the most trailing path components.

        An extension may be omitted; case matters, unless only one photograph matches without it.

        Raises:
            InputError: no photograph matches, or several match equally well.
        """
        view = Path(os.path.abspath(name))
        for same_case in (True, False):
            ends = [_common_end(path, view, same_case) for path in self.paths]
            best = max(ends, default=0)
            found = [i for i, end in enumerate(ends) if end == best > 0]
            if len(found) == 1:
                return found[0]
            exact = [i for i in found if os.path.realpath(self.paths[i]) == os.path.realpath(name)]
            if len(exact) == 1:
                return exact[0]
            if found:
                fitting = ", ".join(str(self.paths[i]) for i in found[:4])
                raise InputError(
                    f"more than one photograph with a camera is called {name} ({fitting}); give more of its path"
                )
        known = ", ".join(path.name for path in self.paths[:6]) + (", ..." if len(self.paths) > 6 else "")
        raise InputError(f"no photograph with a camera is called {name}; the {len(self)} that have one are {known}")

    def match(self, views: Sequence[Path | str]) -> "PosedPhotos":
        """The cameras of the photographs `views`, matched as by `find`; they take the paths of `views`.

        Raises:
            InputError: a photograph without a camera, one that matches several cameras, or two that match one camera.
        """
        indices = [self.find(view) for view in views]
        for place, index in enumerate(indices):
            if index in indices[:place]:
                first, second = views[indices.index(index)], views[place]
                raise InputError(f"one camera, that of {self.paths[index]}, fits both {first} and {second}")
        return replace(self.select(indices), paths=tuple(map(Path, views)))

    def at_file_size(self) -> "PosedPhotos":
        """The same with intrinsics in pixels of the files, in case they are shrunk or enlarged copies.

        Raises:
            InputError: a photograph that is missing, unreadable, or of another aspect ratio than its camera's picture.
        """
        Ks, sizes, moved = self.Ks.clone(), [], []
        for index, (path, (width, height)) in enumerate(zip(self.paths, self.sizes, strict=True)):
            photo = self.photo(index)
            if not same_shape((photo.width, photo.height), (width, height)):
                raise InputError(
                    f"{path} is {photo.width}x{photo.height} pixels, but its camera is for {width}x{height}, which is "
                    "another shape; give the photographs that the cameras were made for (turned? cropped?)"
                )
            # A whole picture was resampled, so x and y scale independently: sizes are rounded to whole pixels.
            Ks[index, 0] *= photo.width / width
            Ks[index, 1] *= photo.height / height
            sizes.append((photo.width, photo.height))
            if sizes[-1] != (width, height):
                moved.append(index)
        if not moved:
            return self
        first = moved[0]
        (width, height), (listed_width, listed_height) = sizes[first], self.sizes[first]
        note = (
            f"{len(moved)} of {len(self)} photographs are not of the size that the cameras were made for "
            f"({width}x{height} for {listed_width}x{listed_height}): their intrinsics were scaled"
        )
        return replace(self, Ks=Ks, sizes=tuple(sizes), notes=(*self.notes, note))

    def read(self, width: int, height: int | None = None) -> tuple[PhotoSet, Cameras]:
        """Read undistorted photographs into one batch of width x height pixels, with their pinhole cameras.

        Pictures of another aspect ratio are padded on the right and bottom; `PhotoSet.valid` is False there, where
        the undistorted picture has no source pixel, and where a mask is black.

        Args:
            width: width of the batch in pixels.
            height: height of the batch in pixels; by default the one that keeps the first photograph's aspect ratio.

        Raises:
            InputError: a photograph or mask is missing, damaged, or of another aspect ratio than the camera's picture.
        """
        if height is None:
            height = max(1, round(width * self.sizes[0][1] / self.sizes[0][0]))
        own = self.at_file_size()
        pictures = (own.straight_picture(index) for index in range(len(own)))
        batch = batch_of(pictures, width, height, [path.name for path in own.paths])
        return batch, cameras_of(own.viewmats, own.Ks, batch)

    def photo(self, index: int) -> Photo:
        """The header of one photograph, read in the orientation of its camera."""
        return inspect_posed_photo(self.paths[index], self.sizes[index], self.upright[index])

    def straight_picture(self, index: int) -> Picture:
        """One undistorted photograph at full size; its mask combines those of the mask file, alpha and the lens.

        Raises:
            InputError: a photograph or mask that is missing, damaged or of another aspect ratio.
        """
        picture = with_mask(self.photo(index), self.masks[index])
        K = self.Ks[index].double().numpy()
        pixels, usable = undistort(picture.pixels, K, self.lenses[index], mask=picture.mask)
        return Picture(pixels, usable, picture.notes)

    def load(self, width: int, height: int | None = None) -> tuple[Tensor, Cameras]:
        """Like `read`, without the masks: (images [V, 3, H, W] in [0, 1], Cameras)."""
        photos, cameras = self.read(width, height)
        return photos.images, cameras


def _common_end(path: Path, view: Path, same_case: bool) -> int:
    """Number of trailing parts two paths share; the extension counts only if `view` has that of a picture."""
    parts, wanted = list(path.parts), list(view.parts)
    if view.suffix.lower() not in SUFFIXES and parts and parts[-1] != view.name:
        parts[-1] = path.stem
    if not same_case:
        parts, wanted = [part.lower() for part in parts], [part.lower() for part in wanted]
    pairs = zip(reversed(parts), reversed(wanted), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def local_origin(c2w: Tensor) -> Tensor:
    """[3] float64: the middle of the cameras c2w [V, 4, 4] if they are far from zero (UTM, ECEF), else zero.

    Far means farther than 100 times their spread: float32 then keeps fewer than five digits of their differences.
    """
    centers = c2w[:, :3, 3].double()
    middle = centers.mean(dim=0)
    spread = (centers - middle).norm(dim=1).max()
    return middle if bool(middle.norm() > _FAR * spread) and len(centers) > 1 else torch.zeros_like(middle)


def posed_photos(
    paths: Sequence[Path],
    c2w: Tensor,
    Ks: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    lenses: Sequence[Lens] = (),
    upright: Sequence[bool] = (),
    masks: Sequence[Path | None] = (),
    origin: Tensor | None = None,
    wheres: Sequence[str],
    notes: Sequence[str] = (),
) -> PosedPhotos:
    """Check a reader's results: matrices must be rigid and lenses plausible; the origin is moved if necessary.

    Args:
        paths: V files of photographs.
        c2w: [V, 4, 4] float64 camera-to-world in OpenCV's axes.
        Ks: [V, 3, 3] intrinsics in pixels.
        sizes: V pairs (width, height) in pixels.
        lenses: V lenses, or empty.
        upright: for each of V photographs whether EXIF turns it, or empty.
        masks: V mask files or None, or empty.
        origin: [3] float64 origin; None: `local_origin` of the cameras.
        wheres: V names of file and frame, for messages.
        notes: the reader's notes.

    Raises:
        InputError: a matrix that is not rigid or too far away, or a lens that is implausible for its picture.
    """
    far = ~(c2w[:, :3, 3].abs() <= FARTHEST).all(dim=1)
    if bool(far.any()):
        first = int(far.nonzero()[0])
        raise InputError(
            f"{wheres[first]}: the camera stands at {c2w[first, :3, 3].tolist()}; coordinates must be finite, up "
            f"to {FARTHEST:g}"
        )
    origin = local_origin(c2w) if origin is None else origin
    moved = c2w.double().clone()
    moved[:, :3, 3] -= origin
    try:
        viewmats = viewmats_from_c2w(moved, wheres)
    except ValueError as error:
        raise InputError(str(error)) from error
    checked = set()
    for where, lens, K, size in zip(wheres, lenses, Ks, sizes, strict=True) if lenses else ():
        key = (lens, tuple(K.flatten().tolist()), size)
        if key not in checked:
            checked.add(key)
            check_lens(lens, K.double().numpy(), *size, where)
    if bool(origin.any()):
        x, y, z = origin.tolist()
        notes = [
            *notes,
            f"the cameras stand far from zero: the scene is held relative to ({x:.3f}, {y:.3f}, {z:.3f}), in PLY "
            "files, too, whose single precision would not hold it; cameras are written in their own world",
        ]
    return PosedPhotos(
        tuple(paths),
        viewmats,
        Ks.float(),
        tuple(sizes),
        tuple(lenses),
        tuple(upright),
        tuple(masks),
        origin,
        tuple(notes),
    )
