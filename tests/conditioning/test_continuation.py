"""Holes of conditioning images, continued along a path."""

from dataclasses import replace

import pytest
import torch

from cus.cameras import Cameras
from cus.conditioning import Conditioning, continued
from cus.diffusion.layers import split_conditioning

HEIGHT, WIDTH = 64, 96


def path(shifts: tuple[float, ...]) -> Cameras:
    """Cameras side by side; a plane at depth 1 moves by 48 pixels per unit."""
    viewmats = torch.eye(4).repeat(len(shifts), 1, 1)
    viewmats[:, 0, 3] = -torch.tensor(shifts)
    K = torch.tensor([[48.0, 0, WIDTH / 2], [0, 48.0, HEIGHT / 2], [0, 0, 1]])
    return Cameras(viewmats, K.repeat(len(shifts), 1, 1), WIDTH, HEIGHT)


def wall(shifts: tuple[float, ...]) -> Conditioning:
    """A wall with random texture at depth 1, with a hole that stays in place on it."""
    pixels = torch.rand(3, HEIGHT, 4 * WIDTH, generator=torch.Generator().manual_seed(0))
    images, masks = [], []
    for shift in shifts:
        start = WIDTH + round(48 * shift)
        mask = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        left = 40 - round(48 * shift)
        mask[20:40, left : left + 16] = False
        images.append(pixels[:, :, start : start + WIDTH] * mask)
        masks.append(mask)
    known = torch.stack(masks)
    return Conditioning(torch.stack(images), known, known.float())


def test_what_is_made_up_for_one_frame_stays_in_place_in_the_next() -> None:
    shifts = (0.0, 0.125)
    made = continued(wall(shifts), path(shifts)).completed
    assert made is not None
    first, second = made[0, :, 20:40, 40:56], made[1, :, 20:40, 34:50]
    alone = continued(wall(shifts[:1]), path(shifts[:1])).completed
    assert alone is not None
    apart = [(hole - second).square().mean().sqrt() for hole in (first, alone[0, :, 20:40, 40:56])]
    assert apart[0] < 0.5 * apart[1]


def test_known_pixels_stay_and_the_network_is_shown_the_completed_images() -> None:
    given = wall((0.0,))
    made = continued(given, path((0.0,)))
    assert made.completed is not None
    known = given.masks[0]
    assert torch.equal(made.completed[0][:, known], given.images[0][:, known])
    assert torch.equal(made.images, given.images) and torch.equal(made.masks, given.masks)
    shown, _ = split_conditioning(made, 0, filled=True)
    assert torch.equal(shown, made.completed)
    assert torch.equal(split_conditioning(made, 0)[0], given.images)


def test_a_scrap_inside_a_hole_is_given_up() -> None:
    given = wall((0.0,))
    images, masks, depths = given.images.clone(), given.masks.clone(), given.depths.clone()
    images[0, :, 30, 48], masks[0, 30, 48], depths[0, 30, 48] = torch.tensor([9.0, 0, 0]), True, 3.0
    made = continued(Conditioning(images, masks, depths), path((0.0,))).completed
    assert made is not None and made[0, 0, 20:40, 40:56].max() <= 1


def test_without_holes_or_without_a_scene_nothing_changes() -> None:
    given = wall((0.0,))
    whole = replace(given, masks=torch.ones_like(given.masks), depths=torch.ones_like(given.depths))
    nothing = replace(given, masks=torch.zeros_like(given.masks), depths=torch.zeros_like(given.depths))
    assert continued(whole, path((0.0,))) is whole and continued(nothing, path((0.0,))) is nothing


def test_completed_images_have_the_size_of_the_others() -> None:
    given = wall((0.0,))
    with pytest.raises(ValueError, match="completed"):
        replace(given, completed=torch.zeros(1, 3, 8, 8))
