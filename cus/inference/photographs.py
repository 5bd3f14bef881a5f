"""The photographs of a run: checked before slow work, decoded at the working size and at full resolution."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, PosedPhotos, read_photos
from cus.cameras.conversions import focal_from_35mm, focal_from_fov
from cus.cameras.photos import Photo, inspect_photo, large_pictures
from cus.datasets.scenes import open_cameras
from cus.datasets.stored_photos import mask_note, masks_beside, with_masks
from cus.errors import InputError
from cus.inference.view_choice import Views
from cus.scene import SceneEstimate

# Maximum longest side in pixels of photographs as the source of colours: two of them take 400 MB.
LARGEST_PHOTOGRAPH = 8192


@dataclass(frozen=True)
class Inputs:
    """The photographs of a run.

    Attributes:
        photos: V photographs with their headers.
        posed: their known cameras, or None.
        masks: V files that are black where a photograph is to be ignored, or None for no mask; empty: no masks.
        notes: messages for the user on how they are read.
    """

    photos: tuple[Photo, ...]
    posed: PosedPhotos | None
    masks: tuple[Path | None, ...] = ()
    notes: tuple[str, ...] = ()

    def select(self, views: Sequence[int]) -> "Inputs":
        """Select some of the photographs."""
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
        sizes: [V, 2] width and height of each photograph in the batch; the rest is padding.
        origin: [3] origin of the known cameras' world (`PosedPhotos.origin`), else zero.
    """

    set: PhotoSet
    cameras: Cameras | None
    focals: Tensor
    sizes: Tensor
    origin: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def select(self, views: Sequence[int]) -> "Batch":
        """Select some of the photographs."""
        chosen = list(views)
        part = self.set
        part = replace(part, images=part.images[chosen], valid=part.valid[chosen], scales=part.scales[chosen])
        cameras = None if self.cameras is None else self.cameras[chosen]
        return Batch(part, cameras, self.focals[chosen], self.sizes[chosen], self.origin)


def inspect(views: Views, cameras: Path | None = None) -> Inputs:
    """The photographs of a run, and their known cameras from a file. Raises InputError for unusable ones."""
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
    """Decode the photographs at the working size, undistorted if their lens is known.

    Args:
        inputs: photographs to decode.
        longest_side: longest side of the batch in pixels; no photograph is enlarged.
        focal_35mm: 35 mm equivalent focal length of photographs without known cameras in mm, overriding EXIF.
        fov: their horizontal field of view in degrees, instead of `focal_35mm`.
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
    """Focal length in pixels of the file: the user's, else EXIF's, else NaN."""
    if focal_35mm is not None:
        return focal_from_35mm(focal_35mm, photo.width, photo.height)
    if fov is not None:
        return focal_from_fov(fov, photo.width)
    return photo.focal or float("nan")


def photographs(inputs: Inputs, batch: Batch, views: Sequence[int] | None = None) -> list[Tensor]:
    """Some photographs (None: all V) at full resolution, [3, H, W] uint8 each, cropped like the batch.

    Photographs larger than `LARGEST_PHOTOGRAPH` are shrunk; report this with `oversized`.
    """
    height, width = batch.set.images.shape[-2:]
    photos, posed = inputs.photos, inputs.posed
    chosen = list(range(len(photos)) if views is None else views)
    pictures = (photos[i].pixels() if posed is None else posed.straight_picture(i).pixels for i in chosen)
    return large_pictures(pictures, batch.set.scales[chosen], width, height, LARGEST_PHOTOGRAPH)


def oversized(sizes: Sequence[tuple[int, int]]) -> str | None:
    """A note on photographs (width, height) that are too large as a source of colours, or None."""
    count = sum(max(size) > LARGEST_PHOTOGRAPH for size in sizes)
    if not count:
        return None
    return (
        f"{count} of {len(sizes)} photographs have more than {LARGEST_PHOTOGRAPH} pixels along the longest side; "
        "colours are taken from them shrunk to that"
    )


def frame_size(photo: Photo, longest_side: int) -> tuple[int, int]:
    """(width, height) of the frames: the photograph's aspect ratio, the given longest side, both even for codecs."""
    scale = longest_side / max(photo.width, photo.height)
    return max(2, 2 * round(photo.width * scale / 2)), max(2, 2 * round(photo.height * scale / 2))


def size_inside(batch: Batch, photo: Photo) -> tuple[int, int]:
    """(width, height) of the first photograph in its image of the batch; the rest is padding."""
    scale_x, scale_y = batch.set.scales[0].tolist()
    return round(photo.width * scale_x), round(photo.height * scale_y)


def first_reference(scene: SceneEstimate, batch: Batch, photo: Photo) -> Tensor:
    """[1, 3, h, w] the first photograph without padding: the network's image context."""
    width, height = size_inside(batch, photo)
    return scene.images[:1, :, :height, :width]
