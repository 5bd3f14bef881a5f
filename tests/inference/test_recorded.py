"""What a run records of a conditioning, and what a resumed run reads again."""

import torch

from cus.conditioning import Conditioning, Layers
from cus.inference.stages import conditioning_from, state_of


def conditioning(layers: bool) -> Conditioning:
    drawn = torch.Generator().manual_seed(0)
    images, masks, depths = torch.rand(2, 3, 4, 6, generator=drawn), torch.ones(2, 4, 6) > 0, torch.ones(2, 4, 6)
    warps, gate = torch.rand(2, 2, 3, 4, 6, generator=drawn), torch.rand(2, 4, 6, generator=drawn)
    found = Layers(warps, torch.rand(2, 2, 4, 6, generator=drawn) > 0.5, gate) if layers else None
    return Conditioning(images, masks, depths, found)


def test_layers_are_recorded_to_the_nearest_of_256_values_and_again_without_change():
    made = conditioning(layers=True)
    once = conditioning_from(state_of(made))
    twice = conditioning_from(state_of(once))
    assert made.layers is not None and once.layers is not None and twice.layers is not None
    assert torch.equal(once.images, made.images) and torch.equal(once.layers.masks, made.layers.masks)
    torch.testing.assert_close(once.layers.images, made.layers.images, rtol=0, atol=0.5 / 255 + 1e-6)
    assert torch.equal(once.layers.images, twice.layers.images) and torch.equal(once.layers.gate, twice.layers.gate)


def test_a_conditioning_without_layers_comes_back_without():
    assert conditioning_from(state_of(conditioning(layers=False))).layers is None
