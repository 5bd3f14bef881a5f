"""Smooth fills of holes."""

import torch

from cus.completion.surroundings import fill_holes


def test_known_pixels_stay_and_holes_continue_their_surroundings() -> None:
    ramp = torch.linspace(0.2, 0.8, 37)[None, None, None].repeat(2, 3, 23, 1)
    known = torch.ones(2, 23, 37, dtype=torch.bool)
    known[0, 5:12, 8:20] = False
    filled = fill_holes(ramp * known[:, None], known)
    assert torch.equal(filled[1], ramp[1]) and torch.equal(filled[0][:, known[0]], ramp[0][:, known[0]])
    assert (filled[0] - ramp[0]).abs().max() < 0.12


def test_a_hole_between_near_and_far_takes_the_colour_of_what_is_far() -> None:
    images = torch.zeros(1, 3, 16, 128)
    images[..., :60], images[..., 68:] = 1.0, 0.5
    known = torch.ones(1, 16, 128, dtype=torch.bool)
    known[..., 60:68] = False
    depths = torch.ones(1, 16, 128)
    depths[..., 68:] = 4.0
    assert (fill_holes(images, known, depths)[..., 62:68] - 0.5).abs().mean() < 0.05
    assert fill_holes(images, known)[..., 60:68].mean() > 0.65


def test_a_crack_in_something_near_does_not_take_the_colour_of_what_is_far_elsewhere() -> None:
    images, depths = torch.zeros(1, 3, 64, 128), torch.ones(1, 64, 128)
    images[..., 96:], depths[..., 96:] = 1.0, 2.0
    known = torch.ones(1, 64, 128, dtype=torch.bool)
    known[:, 10:50, 60:63] = False
    assert fill_holes(images, known, depths)[..., 60:63].max() < 0.05


def test_a_picture_without_anything_known_stays_black() -> None:
    assert not fill_holes(torch.zeros(1, 3, 5, 7), torch.zeros(1, 5, 7, dtype=torch.bool)).any()


def test_filling_can_be_counted_without_values() -> None:
    made = fill_holes(torch.empty(2, 3, 9, 14, device="meta"), torch.empty(2, 9, 14, dtype=torch.bool, device="meta"))
    assert made.shape == (2, 3, 9, 14) and made.is_meta
