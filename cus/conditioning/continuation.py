"""Holes along a path, continued with the texture around them; what one frame makes up stays in place in others."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.completion.patches import continue_texture
from cus.completion.surroundings import fill_holes
from cus.conditioning.conditioning import Conditioning
from cus.conditioning.points import render_points

# Scraps of a surface beside a hole are given up: pieces smaller than this fraction of the picture, separated from
# others by steps of this fraction of their distance. They are mostly wrong depths, and texture would grow from them.
LARGEST_SCRAP, STEP = 2e-4, 0.05
# What was made up for another frame counts if its depth is the expected one up to this logarithm of their ratio.
SAME_PLACE = 0.15
# It is drawn as points of these sizes in pixels: wider gaps between them are made up again.
GAPS = (1, 2)
# A scrap counts as beside a hole within this many pixels.
_BESIDE = 2
# Resolution of logarithms of depths as whole numbers, and their limit.
_UNITS, _LIMIT = 2000, 30000


def continued(conditioning: Conditioning, cameras: Cameras, seed: int = 0) -> Conditioning:
    """Continue the holes of conditioning images.

    Frames are completed from the last one, which on the way into a scene is the finest. A hole first takes what was
    made up for a frame before, at the depth of the far surfaces around it; patches of the frame's own known part
    (`cus.completion`) fill the rest.

    Args:
        conditioning: conditioning of T frames on any device.
        cameras: T cameras of the frames.
        seed: seed of the search for patches.

    Returns:
        The conditioning with `completed`; without holes, or without anything known, it is unchanged.
    """
    masks = conditioning.masks.bool()
    if bool(masks.all()) or not bool((conditioning.depths > 0).any()):
        return conditioning
    device, cameras = conditioning.images.device, cameras.to("cpu")
    images, depths = conditioning.images.float().cpu(), conditioning.depths.float().cpu()
    known = masks.cpu() & (depths > 0)
    completed = images.clone()
    points, colors = torch.empty(0, 3), torch.empty(0, 3)
    for index in reversed(range(len(images))):
        if not bool(known[index].any()) or bool(known[index].all()):
            continue
        seen = known[index] & ~_scraps(depths[index], known[index])
        guess, expected = _smooth(images[index], seen, depths[index])
        given = _rendered(points, colors, cameras[index])
        if given is not None:
            kept = ~seen & given.masks[0] & ((given.depths[0] / expected).log().abs() <= SAME_PLACE)
            guess, expected = torch.where(kept, given.images[0], guess), torch.where(kept, given.depths[0], expected)
            seen = seen | kept
        completed[index] = filled = continue_texture(guess, seen, expected, seed)
        new = ~seen
        points = torch.cat([points, cameras[index].backproject(expected[None])[0][new]])
        colors = torch.cat([colors, filled.permute(1, 2, 0)[new]])
    return replace(conditioning, completed=completed.to(device))


def _scraps(depths: Tensor, known: Tensor) -> Tensor:
    """[H, W] bool, small pieces of the surface beside holes."""
    logs = torch.where(known, depths, 1.0).log() * _UNITS
    middle = logs[known].median()
    levels = (logs - middle).clamp(-_LIMIT, _LIMIT).round().to(torch.int16).numpy()
    empty = np.int16(-_LIMIT - 2000)
    levels = np.where(known.numpy(), levels, empty)
    large = levels.copy()
    cv2.filterSpeckles(large, int(empty), max(1, round(LARGEST_SCRAP * levels.size)), round(STEP * _UNITS))
    scraps = (large == empty) & known.numpy()
    near = cv2.dilate((~known.numpy()).astype(np.uint8), np.ones((2 * _BESIDE + 1,) * 2, np.uint8)) > 0
    # A scrap goes as a whole if any of its pixels is beside a hole.
    _, pieces = cv2.connectedComponents(scraps.astype(np.uint8), connectivity=4)
    touched = np.unique(pieces[scraps & near])
    return torch.from_numpy(scraps & np.isin(pieces, touched))


def _smooth(image: Tensor, known: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth first guess of a picture [3, H, W], and depths [H, W] everywhere, far surfaces first."""
    nearest = depths[known].min()
    inverse = torch.where(known, nearest / depths.clamp(min=nearest), 0.0)
    both = fill_holes(torch.cat([image, inverse[None]])[None], known[None], depths[None])[0]
    return both[:3], nearest / both[3].clamp(min=1e-6)


def _rendered(points: Tensor, colors: Tensor, camera: Cameras) -> Conditioning | None:
    """What a camera sees of points, if anything."""
    pixels, z = camera.project(points)
    size = pixels.new_tensor([camera.width, camera.height])
    inside = (z[0] > 0) & ((pixels[0] >= 0) & (pixels[0] < size)).all(dim=-1)
    return render_points(points, colors, camera, scales=GAPS) if bool(inside.any()) else None
