"""Photographs from disk: decoding, EXIF, one common size per batch; and any number at full resolution: in
memory up to a limit, the rest in a file.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.picture_kinds import PILLOW_FORMATS
from cus.cameras.pictures import Picture, decode, read_header
from cus.errors import InputError
from cus.files import explained, require_regular

# Large pictures are resampled in bands of about this many pixels.
_BAND_PIXELS = 1_000_000
# Total number of bytes of photographs kept in memory: seven of 50 megapixels.
IN_MEMORY = 2**30


@dataclass(frozen=True)
class Photo:
    """A photograph on disk with the information in its header.

    Attributes:
        path: file of the photograph.
        width: width in pixels, after applying the EXIF orientation if `upright`.
        height: height in pixels, after applying the EXIF orientation if `upright`.
        focal: focal length in pixels from EXIF, or None without one.
        upright: whether to apply EXIF's orientation; cameras of other programs refer to the pixels as stored.
        notes: sentences about the photograph for the user, without its name.
    """

    path: Path
    width: int
    height: int
    focal: float | None
    upright: bool = True
    notes: tuple[str, ...] = ()

    def pixels(self) -> np.ndarray:
        """[H, W, 3] uint8 RGB at full size. Raises InputError if the file cannot be decoded."""
        return self.picture().pixels

    def picture(self) -> Picture:
        """The pixels at full size with a mask of transparent ones, and the photograph's notes; errors as `decode`."""
        picture = decode(self.path, self.upright)
        return replace(picture, notes=(*self.notes, *picture.notes))


@dataclass(frozen=True)
class PhotoSet:
    """Photographs at one common size, smaller ones padded on the right and bottom.

    Attributes:
        images: [V, 3, H, W] float32 RGB in [0, 1], black in the padding.
        valid: [V, H, W] bool, False in the padding, where a pixel is transparent or masked, and where undistortion has
            no source pixel.
        scales: [V, 2] pixels of the batch per pixel of the file, in x and y.
        notes: messages for the user about the photographs.
    """

    images: Tensor
    valid: Tensor
    scales: Tensor
    notes: tuple[str, ...] = ()


def inspect_photo(path: Path | str, upright: bool = True) -> Photo:
    """Read a photograph's header.

    Args:
        path: file of the photograph.
        upright: apply EXIF's orientation; otherwise pixels stay as stored.

    Raises:
        InputError: as `read_header`.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; name the photographs in it, for example {path}/*.jpg")
    header = read_header(path)
    return Photo(path, *header.size(upright), header.focal, upright, header.notes)


def inspect_posed_photo(path: Path | str, size: tuple[int, int], upright: bool = False) -> Photo:
    """Read the header of a photograph whose camera is known.

    Cameras of COLMAP, nerfstudio, instant-ngp etc. are for the pixels as stored, because these programs do not read
    EXIF's orientation. If only the other orientation has the camera's aspect ratio, it is used, with a note.

    Args:
        path: file of the photograph.
        size: (width, height) of the camera's picture; the file may be a scaled copy.
        upright: whether the camera is for the upright photograph.

    Raises:
        InputError: as `inspect_photo`.
    """
    photo = inspect_photo(path, upright)
    if same_shape((photo.width, photo.height), size):
        return photo
    other = inspect_photo(path, not upright)
    if not same_shape((other.width, other.height), size):
        return photo
    read = "upright, as EXIF says" if other.upright else "as stored, without EXIF's turn"
    note = f"it is read {read}: its camera is for {size[0]}x{size[1]} pixels"
    return replace(other, notes=(*other.notes, note))


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (width, height) are scaled copies of each other, each rounded to whole pixels."""
    (width, height), (w, h) = size, other
    return abs(height - h * width / w) <= 1.5 or abs(width - w * height / h) <= 1.5


def grouped_notes(notes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Group (name, sentence) pairs into one line per sentence, with the names that it applies to."""
    names: dict[str, list[str]] = {}
    for name, sentence in notes:
        names.setdefault(sentence, []).append(name)
    lines = []
    for sentence, about in names.items():
        shown = ", ".join(about[:3]) + (f" and {len(about) - 3} more" if len(about) > 3 else "")
        lines.append(f"{shown}: {sentence}")
    return tuple(lines)


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """[h, w, C] -> [height, width, C]: by area when shrinking, bicubic when enlarging."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = width <= pixels.shape[1] and height <= pixels.shape[0]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def fit_size(width: int, height: int, box_width: int, box_height: int) -> tuple[int, int]:
    """The largest size of the same aspect ratio inside a box, at least 1x1; fills the box if within a pixel of it."""
    scale = min(box_width / width, box_height / height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    if abs(fitted[0] - box_width) <= 1 and abs(fitted[1] - box_height) <= 1:
        return box_width, box_height
    return fitted


def shrink(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """[h, w, 3] uint8 -> [height, width, 3] float32 in [0, 1], like `resize` but with little extra memory.

    Resampling is separable: each band of rows is first shrunk horizontally in floating point, then all vertically.
    """
    h, w = pixels.shape[:2]
    if width > w or height > h:
        return np.clip(resize(pixels.astype(np.float32) / 255, width, height), 0, 1)
    rows = max(1, _BAND_PIXELS // w)
    narrow = np.empty((h, width, 3), np.float32)
    for top in range(0, h, rows):
        band = pixels[top : top + rows].astype(np.float32)
        narrow[top : top + rows] = resize(band, width, len(band))
    return np.clip(resize(narrow, width, height) / 255, 0, 1)


def to_batch(pictures: Iterable[np.ndarray], masks: Iterable[np.ndarray | None], width: int, height: int) -> PhotoSet:
    """Resample pictures [h, w, 3] uint8 into one batch of width x height, padded on the right and bottom.

    Args:
        pictures: uint8 RGB pictures of any sizes.
        masks: for each picture its usable pixels [h, w] bool, or None.
        width: width of the batch in pixels.
        height: height of the batch in pixels.
    """
    return batch_of((Picture(p, m) for p, m in zip(pictures, masks, strict=True)), width, height)


def batch_of(pictures: Iterable[Picture], width: int, height: int, names: Sequence[str] = ()) -> PhotoSet:
    """Like `to_batch`, but takes one picture at a time, so that only one is held at full size.

    Args:
        pictures: pictures of any sizes.
        width: width of the batch in pixels.
        height: height of the batch in pixels.
        names: names of the pictures for their notes; empty: no notes.
    """
    images, valid, scales, notes = [], [], [], []
    for index, picture in enumerate(pictures):
        h, w = picture.pixels.shape[:2]
        inside = fit_size(w, h, width, height)
        padding = ((0, height - inside[1]), (0, width - inside[0]))
        images.append(np.pad(shrink(picture.pixels, *inside), (*padding, (0, 0))))
        usable = np.ones(inside[::-1], bool)
        if picture.mask is not None:
            usable = resize(picture.mask.astype(np.float32)[..., None], *inside).reshape(usable.shape) > 0.999
        valid.append(np.pad(usable, padding))
        scales.append((inside[0] / w, inside[1] / h))
        notes += [(names[index], note) for note in picture.notes] if names else []
        # Released explicitly, because the loop would decode the next picture first.
        del picture
    return PhotoSet(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(valid)),
        torch.tensor(scales, dtype=torch.float32),
        grouped_notes(notes),
    )


def own_resolution(pixels: np.ndarray, scales: Tensor, width: int, height: int, longest_side: int) -> Tensor:
    """A photograph of a batch at full resolution, padded like its picture there: the same view, only larger.

    Args:
        pixels: [h, w, 3] uint8 RGB.
        scales: [2] pixels of the batch per pixel of the photograph, in x and y (`PhotoSet.scales`).
        width: width of the batch in pixels.
        height: height of the batch in pixels.
        longest_side: limit in pixels; a larger photograph is shrunk to it.

    Returns:
        [3, H, W] uint8, black in the padding.
    """
    h, w = pixels.shape[:2]
    factor = min(1.0, longest_side / max(h, w))
    shrunk = resize(pixels, max(1, round(w * factor)), max(1, round(h * factor)))
    # Pixels of the shrunk photograph per pixel of the batch.
    finer_x, finer_y = shrunk.shape[1] / (w * float(scales[0])), shrunk.shape[0] / (h * float(scales[1]))
    full = max(round(height * finer_y), shrunk.shape[0]), max(round(width * finer_x), shrunk.shape[1])
    padded = np.zeros((3, *full), np.uint8)
    padded[:, : shrunk.shape[0], : shrunk.shape[1]] = shrunk.transpose(2, 0, 1)
    return torch.from_numpy(padded)


def common_size(sizes: Sequence[tuple[int, int]], longest_side: int) -> tuple[int, int]:
    """A (width, height) that holds every (width, height) of `sizes` once its longest side is at most `longest_side`."""
    fitted = []
    for width, height in sizes:
        scale = min(1.0, longest_side / max(width, height))
        fitted.append((max(1, round(width * scale)), max(1, round(height * scale))))
    return max(w for w, _ in fitted), max(h for _, h in fitted)


def read_photos(photos: Sequence[Photo], longest_side: int, masks: Sequence[Path | None] = ()) -> PhotoSet:
    """Decode photographs into one batch whose longest side is at most `longest_side` pixels.

    Photographs of other sizes or orientations keep their aspect ratio and are padded; nothing is cropped.

    Args:
        photos: V photographs.
        longest_side: maximum length of the longest side in pixels.
        masks: V files that are black where a photograph is to be ignored, or None for no mask; empty: no masks.

    Raises:
        InputError: a photograph or mask that cannot be decoded, or a mask of another aspect ratio (`read_mask`).
    """
    width, height = common_size([(photo.width, photo.height) for photo in photos], longest_side)
    pairs = zip(photos, masks or [None] * len(photos), strict=True)
    return batch_of((with_mask(*pair) for pair in pairs), width, height, [photo.path.name for photo in photos])


def read_mask(path: Path, photo: Photo) -> np.ndarray:
    """Read a mask, black where the photograph is to be ignored: [h, w] bool at the photograph's size.

    A mask of another size is resampled to the nearest pixel.

    Raises:
        InputError: the file is missing or damaged, or its aspect ratio differs from the photograph's.
    """
    require_regular(path)
    try:
        with Image.open(path, formats=PILLOW_FORMATS) as image:
            # Black in a JPEG is not exactly 0; other files may hold only the values 0 and 1.
            mask = np.asarray(image.convert("L")) > (127 if image.format == "JPEG" else 0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the mask {path} of {photo.path} ({error})") from error
    height, width = mask.shape
    if not same_shape((width, height), (photo.width, photo.height)):
        raise InputError(
            f"the mask {path} is {width}x{height} pixels, but {photo.path} is {photo.width}x{photo.height}, which is "
            "another shape; masks are as large as the photographs, or shrunk copies"
        )
    if (width, height) == (photo.width, photo.height):
        return mask
    return cv2.resize(mask.astype(np.uint8), (photo.width, photo.height), interpolation=cv2.INTER_NEAREST) > 0


def with_mask(photo: Photo, mask: Path | None) -> Picture:
    """A decoded photograph whose usable pixels exclude those of a mask file, too; errors as `read_mask`."""
    picture = photo.picture()
    if mask is None:
        return picture
    keep = read_mask(mask, photo)
    return replace(picture, mask=keep if picture.mask is None else picture.mask & keep)


def cameras_of(viewmats: Tensor, Ks: Tensor, photos: PhotoSet) -> Cameras:
    """Cameras of a batch from the files' viewmats [V, 4, 4] and Ks [V, 3, 3] in pixels of each file."""
    scaled = Ks.clone()
    scaled[:, :2] *= photos.scales[:, :, None].to(Ks)
    return Cameras(viewmats, scaled, photos.images.shape[-1], photos.images.shape[-2])


def large_pictures(
    pictures: Iterable[np.ndarray],
    scales: Tensor,
    width: int,
    height: int,
    longest_side: int,
    *,
    in_memory: int = IN_MEMORY,
    folder: Path | None = None,
) -> list[Tensor]:
    """The photographs of a batch at full resolution (`own_resolution`); each is decoded once.

    If together they exceed `in_memory`, the excess is stored in a nameless file, which the system reads on demand and
    which disappears with the last reference to it.

    Args:
        pictures: V of [h, w, 3] uint8 RGB; only one is held at a time.
        scales: [V, 2] pixels of the batch per pixel of the photograph (`PhotoSet.scales`).
        width: width of the batch in pixels.
        height: height of the batch in pixels.
        longest_side: limit in pixels; larger photographs are shrunk to it.
        in_memory: maximum number of bytes to keep in memory.
        folder: folder of the file; None: the system's temporary folder.

    Returns:
        V of [3, H, W] uint8, black in the padding.

    Raises:
        InputError: the disk is full.
    """
    kept: list[Tensor] = []
    stored: list[tuple[int, torch.Size]] = []
    held, file = 0, None
    for picture, scale in zip(pictures, scales, strict=True):
        large = own_resolution(picture, scale, width, height, longest_side)
        if held + large.numel() <= in_memory:
            held += large.numel()
        else:
            with explained(folder or tempfile.gettempdir(), "free some space, or lower the size of the photographs"):
                file = file or tempfile.TemporaryFile(dir=folder)
                # Written, not mapped: with a mapping, a full disk would end the process instead of raising an error.
                file.write(large.numpy().tobytes())
                file.flush()
            stored.append((len(kept), large.shape))
            large = large[:, :0]
        kept.append(large)
    if file is not None:
        with file:
            content = torch.from_numpy(np.memmap(file, np.uint8, mode="c"))
        sizes = [shape.numel() for _, shape in stored]
        for (index, shape), part in zip(stored, content.split(sizes), strict=True):
            kept[index] = part.view(shape)
    return kept
