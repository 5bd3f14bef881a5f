"""Converts photographs to a network's frames, and its output back to the photographs' own pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.errors import InputError
from cus.estimators.upsampling import enlarge

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FrameRule:
    """The format of a network's input pictures.

    Attributes:
        longest_side: longest side of every picture in pixels; smaller photographs are enlarged to it.
        patch: size in pixels of which the sides of a frame are multiples.
        step: size of which the sides of the picture in the frame are multiples. `patch` fills whole patches and
            stretches the picture by at most half a patch, which K records; 2 keeps pixels square and leaves patches
            half filled.
        fill: value of the padding; None repeats the border of the picture.
        one_size: whether all frames have the size of the largest.
    """

    longest_side: int
    patch: int
    step: int
    fill: float | None
    one_size: bool


@dataclass(frozen=True)
class Placement:
    """The position of a photograph in its batch and in its frame.

    Attributes:
        box: (left, top, width, height) of the photograph in the batch, without padding.
        inner: (left, top, width, height) of the photograph in the frame.
        frame: (width, height) of the frame.
    """

    box: tuple[int, int, int, int]
    inner: tuple[int, int, int, int]
    frame: tuple[int, int]


@dataclass(frozen=True)
class FramedViews:
    """Views as a network's input.

    The whole photograph is in its frame, centred, with equal padding on both sides: networks that assume the principal
    point at the centre of the frame then put it at the centre of the photograph.

    Attributes:
        pictures: V of [3, h, w] in [0, 1].
        placements: V placements of the photographs.
        photographs: V of [3, h', w'], the photographs at the size of the batch, without padding.
    """

    pictures: tuple[Tensor, ...]
    placements: tuple[Placement, ...]
    photographs: tuple[Tensor, ...]

    def Ks_of_images(self, Ks: Tensor) -> Tensor:
        """Convert intrinsics [V, 3, 3] from pixels of the frames to pixels of the batch."""
        return self._images_from_frames(Ks) @ Ks

    def Ks_of_frames(self, Ks: Tensor) -> Tensor:
        """Convert intrinsics [V, 3, 3] from pixels of the batch to pixels of the frames."""
        return torch.linalg.inv(self._images_from_frames(Ks)) @ Ks

    def _images_from_frames(self, like: Tensor) -> Tensor:
        """[V, 3, 3] maps from pixels of the frames to pixels of the batch, with the dtype and device of `like`."""
        maps = torch.eye(3).to(like).repeat(len(self.placements), 1, 1)
        for view, place in enumerate(self.placements):
            for axis in (0, 1):
                scale = place.box[2 + axis] / place.inner[2 + axis]
                maps[view, axis, axis] = scale
                maps[view, axis, 2] = place.box[axis] - scale * place.inner[axis]
        return maps

    def inside(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Remove the padding from V maps [h, w] of the frames."""
        parts = []
        for value, place in zip(values, self.placements, strict=True):
            left, top, width, height = place.inner
            parts.append(value[..., top : top + height, left : left + width])
        return parts

    def maps_of_images(
        self, depths: Sequence[Tensor], confidences: Sequence[Tensor], images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Depths and confidences [V, H, W] at the size of the batch; 0 in its padding and where there is no depth.

        Args:
            depths: V of [h, w], z-depths of the frames; values <= 0 mean none.
            confidences: V of [h, w], confidences in [0, 1].
            images: [V, 3, H, W], whose edges the depth edges follow.
        """
        views, _, height, width = images.shape
        whole = images.new_zeros(2, views, height, width)
        parts = zip(*(self.inside(values) for values in (depths, confidences, self.pictures)), strict=True)
        for view, (depth, confidence, picture) in enumerate(parts):
            left, top, w, h = self.placements[view].box
            window = slice(top, top + h), slice(left, left + w)
            inverse = torch.where(depth > 0, 1.0 / depth.clamp(min=1e-12), torch.zeros_like(depth))
            inverse, trusted = enlarge(inverse, confidence, picture, images[view][:, window[0], window[1]])
            whole[0, view][window] = torch.where(inverse > 0, 1.0 / inverse.clamp(min=1e-12), 0.0)
            whole[1, view][window] = torch.where(inverse > 0, trusted.clamp(0.0, 1.0), 0.0)
        return whole[0], whole[1]


def frame_views(images: Tensor, valid: Tensor | None, rule: FrameRule) -> FramedViews:
    """Resize and pad photographs, without cropping.

    Args:
        images: [V, 3, H, W] in [0, 1].
        valid: [V, H, W] bool, False on the batch's own padding, which the network does not see.
        rule: format of the network's input.

    Raises:
        InputError: a view without any valid pixel.
    """
    height, width = images.shape[-2:]
    boxes = []
    for view in range(len(images)):
        x0, y0, x1, y1 = (0, 0, width, height) if valid is None else content_box(valid[view], view)
        boxes.append((x0, y0, x1 - x0, y1 - y0))
    sizes = [_inner_size(box[2], box[3], rule) for box in boxes]
    frames = [(_whole_patches(w, rule), _whole_patches(h, rule)) for w, h in sizes]
    if rule.one_size:
        frames = [(max(w for w, _ in frames), max(h for _, h in frames))] * len(frames)
    pictures, placements, photographs = [], [], []
    for image, box, (w, h), frame in zip(images, boxes, sizes, frames, strict=True):
        left, top = (frame[0] - w) // 2, (frame[1] - h) // 2
        photo = image[None, :, box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        small = F.interpolate(photo, size=(h, w), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        borders = (left, frame[0] - w - left, top, frame[1] - h - top)
        if rule.fill is None:
            padded = F.pad(small, borders, mode="replicate")
        else:
            padded = F.pad(small, borders, value=rule.fill)
        pictures.append(padded[0])
        placements.append(Placement(box, (left, top, w, h), frame))
        photographs.append(photo[0])
    return FramedViews(tuple(pictures), tuple(placements), tuple(photographs))


def normalised(pictures: Tensor) -> Tensor:
    """Pictures [..., 3, h, w] in [0, 1] in units of ImageNet's mean and deviation, as networks on DINOv2 want them."""
    mean, deviation = (pictures.new_tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (pictures - mean) / deviation


def content_box(valid: Tensor, view: int) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around the valid pixels [H, W] of a view. Raises InputError if there are none."""
    rows, columns = valid.any(dim=1).nonzero()[:, 0], valid.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        raise InputError(f"view {view + 1} has no valid pixel at all; use another photograph")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _inner_size(width: int, height: int, rule: FrameRule) -> tuple[int, int]:
    scale = rule.longest_side / max(width, height)
    w, h = (max(rule.step, round(side * scale / rule.step) * rule.step) for side in (width, height))
    return w, h


def _whole_patches(side: int, rule: FrameRule) -> int:
    return -(-side // rule.patch) * rule.patch
