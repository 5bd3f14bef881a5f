"""Textured fills of holes."""

import torch
from torch import Tensor

from cus.completion.patches import continue_texture
from cus.completion.surroundings import fill_holes


def stripes(height: int = 72, width: int = 96) -> Tensor:
    """[3, H, W] diagonal stripes with a period of 8 pixels."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = 0.5 + 0.4 * torch.sin(2 * torch.pi * (rows + columns) / 8)
    return torch.stack([wave, 1 - wave, 0.5 * wave])


def square_hole(image: Tensor) -> Tensor:
    known = torch.ones(image.shape[1:], dtype=torch.bool)
    known[25:45, 40:62] = False
    return known


def test_a_pattern_continues_through_a_hole_where_a_smooth_fill_is_flat() -> None:
    image = stripes()
    known = square_hole(image)
    guess = fill_holes((image * known)[None], known[None])[0]
    filled = continue_texture(guess, known, torch.ones(known.shape))
    assert torch.equal(filled[:, known], image[:, known])
    errors = [(made - image)[:, ~known].square().mean().sqrt() for made in (guess, filled)]
    assert errors[0] > 0.2 and errors[1] < 0.05


def test_what_opens_behind_an_object_does_not_take_on_its_look() -> None:
    image, depths = stripes(), torch.full((72, 96), 2.0)
    image[:, :, :40], depths[:, :40] = torch.tensor([1.0, 0.0, 0.0])[:, None, None], 1.0
    known = torch.ones(depths.shape, dtype=torch.bool)
    known[20:50, 40:52] = False
    guess = fill_holes((image * known)[None], known[None], depths[None])[0]
    filled = continue_texture(guess, known, depths)
    assert (filled - image)[:, ~known].square().mean().sqrt() < 0.1


def test_the_same_seed_gives_the_same_fill() -> None:
    image = stripes()
    image += 0.05 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    known = square_hole(image)
    first, second, other = (
        continue_texture(image.clamp(0, 1) * known, known, torch.ones(known.shape), seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_without_known_patches_the_first_guess_stays() -> None:
    image = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    known = torch.zeros(20, 20, dtype=torch.bool)
    known[8:12, 8:12] = True
    assert torch.equal(continue_texture(image, known, torch.ones(20, 20)), image)
    everywhere = torch.ones(20, 20, dtype=torch.bool)
    assert torch.equal(continue_texture(image, everywhere, torch.ones(20, 20)), image)
