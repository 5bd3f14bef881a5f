"""The photographs of a run: looked at before slow work, decoded at the working size, and at their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, PosedPhotos, read_photos
from cus.cameras.conversions import focal_from_35mm, focal_from_fov
from cus.cameras.large_pictures import large_pictures
from cus.cameras.photos import Photo, inspect_photo
from cus.datasets.scenes import open_cameras
from cus.datasets.stored_photos import mask_note, masks_beside, with_masks
from cus.errors import InputError
from cus.inference.view_choice import Views
from cus.scene import SceneEstimate

# Longest side in pixels of photographs that colours are taken from: two of them take 400 MB.
LARGEST_PHOTOGRAPH = 8192


@dataclass(frozen=True)
class Inputs:
    """The photographs of a run.

    Attributes:
        photos: what their headers say, V of them.
        posed: their known cameras, or None.
        masks: V files that are black where a photograph is to be ignored, or None; empty: none has one.
        notes: what the user should know about how they are read.
    """

    photos: tuple[Photo, ...]
    posed: PosedPhotos | None
    masks: tuple[Path | None, ...] = ()
    notes: tuple[str, ...] = ()

    def select(self, views: Sequence[int]) -> "Inputs":
        """Some of the photographs."""
        photos = tuple(self.photos[view] for view in views)
        masks = tuple(self.masks[view] for view in views) if self.masks else ()
        return Inputs(photos, None if self.posed is None else self.posed.select(list(views)), masks, self.notes)


@dataclass(frozen=True)
class Batch:
    """Decoded photographs at the working size.

    Attributes:
        set: images, valid pixels and scales, at one common size W x H.
        cameras: known cameras at that size, or None.
        focals: [V] focal lengths in pixels of the batch, NaN where unknown.
        sizes: [V, 2] width and height that each photograph fills; the rest is padding.
        origin: [3] of the known cameras' world (`PosedPhotos.origin`), else zero.
    """

    set: PhotoSet
    cameras: Cameras | None
    focals: Tensor
    sizes: Tensor
    origin: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def select(self, views: Sequence[int]) -> "Batch":
        """Some of the photographs."""
        chosen = list(views)
        part = self.set
        part = replace(part, images=part.images[chosen], valid=part.valid[chosen], scales=part.scales[chosen])
        cameras = None if self.cameras is None else self.cameras[chosen]
        return Batch(part, cameras, self.focals[chosen], self.sizes[chosen], self.origin)


def inspect(views: Views, cameras: Path | None = None) -> Inputs:
    """The photographs of a run, and their known cameras from a file. Raises InputError for what cannot be used."""
    if cameras is not None:
        if views.frames:
            raise InputError("--cameras belong to photographs by their names; extract the frames of the video first")
        posed = with_masks(open_cameras(cameras).match(views.paths).at_file_size())
        return Inputs(tuple(posed.photo(index) for index in range(len(posed))), posed, posed.masks, posed.notes)
    masks = masks_beside(views.paths)
    count = sum(mask is not None for mask in masks)
    notes = (mask_note(count, len(masks)),) if count else ()
    return Inputs(tuple(views.photo(path) or inspect_photo(path) for path in views.paths), None, masks, notes)


def read(inputs: Inputs, longest_side: int, *, focal_35mm: float | None = None, fov: float | None = None) -> Batch:
    """Decode the photographs at the working size, undistorted where their lens is known.

    Args:
        inputs: the photographs.
        longest_side: of the batch, in pixels; none is enlarged.
        focal_35mm: focal length of photographs without known cameras, as 35 mm equivalent in mm, over EXIF's.
        fov: likewise, as horizontal field of view in degrees.
    """
    if inputs.posed is not None:
        widths, heights = zip(*inputs.posed.sizes, strict=True)
        longest = max(max(widths), max(heights))
        scale = min(1.0, longest_side / longest)
        photo_set, cameras = inputs.posed.read(round(max(widths) * scale), round(max(heights) * scale))
        sizes = torch.tensor(inputs.posed.sizes) * photo_set.scales
        return Batch(photo_set, cameras, cameras.Ks[:, 0, 0], sizes.round(), inputs.posed.origin)
    photo_set = read_photos(inputs.photos, longest_side, inputs.masks)
    focals = [_focal(photo, focal_35mm, fov) for photo in inputs.photos]
    sizes = torch.tensor([(photo.width, photo.height) for photo in inputs.photos]) * photo_set.scales
    return Batch(photo_set, None, torch.tensor(focals) * photo_set.scales[:, 0], sizes.round())


def _focal(photo: Photo, focal_35mm: float | None, fov: float | None) -> float:
    """Focal length in pixels of the file: what the user says, else EXIF, else NaN."""
    if focal_35mm is not None:
        return focal_from_35mm(focal_35mm, photo.width, photo.height)
    if fov is not None:
        return focal_from_fov(fov, photo.width)
    return photo.focal or float("nan")


def photographs(inputs: Inputs, batch: Batch, views: Sequence[int] | None = None) -> list[Tensor]:
    """Some photographs (None: all V) at their own resolution, [3, H, W] uint8 each, where the batch shows them.

    Larger ones than `LARGEST_PHOTOGRAPH` are shrunk; a note should say so (`oversized`).
    """
    height, width = batch.set.images.shape[-2:]
    photos, posed = inputs.photos, inputs.posed
    chosen = list(range(len(photos)) if views is None else views)
    pictures = (photos[i].pixels() if posed is None else posed.straight_picture(i).pixels for i in chosen)
    return large_pictures(pictures, batch.set.scales[chosen], width, height, LARGEST_PHOTOGRAPH)


def oversized(sizes: Sequence[tuple[int, int]]) -> str | None:
    """A sentence on photographs (width, height) that are larger than what colours are taken from, or None."""
    count = sum(max(size) > LARGEST_PHOTOGRAPH for size in sizes)
    if not count:
        return None
    return (
        f"{count} of {len(sizes)} photographs have more than {LARGEST_PHOTOGRAPH} pixels along the longest side; "
        "colours are taken from them shrunk to that"
    )


def frame_size(photo: Photo, longest_side: int) -> tuple[int, int]:
    """(width, height) of the frames: the photograph's aspect, the given longest side, both even for video codecs."""
    scale = longest_side / max(photo.width, photo.height)
    return max(2, 2 * round(photo.width * scale / 2)), max(2, 2 * round(photo.height * scale / 2))


def size_inside(batch: Batch, photo: Photo) -> tuple[int, int]:
    """(width, height) that the first photograph fills of its image in the batch; the rest is padding."""
    scale_x, scale_y = batch.set.scales[0].tolist()
    return round(photo.width * scale_x), round(photo.height * scale_y)


def first_reference(scene: SceneEstimate, batch: Batch, photo: Photo) -> Tensor:
    """[1, 3, h, w] the first photograph without padding: the network's image context."""
    width, height = size_inside(batch, photo)
    return scene.images[:1, :, :height, :width]
