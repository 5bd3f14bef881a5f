"""Parts of pictures with interleaved channels, and Lanczos3 on them."""

import numpy as np
import pytest
import torch
from numba import njit
from torch.nn import functional as F

from cus.conditioning.cpu.pixels import CHANNELS, interleave
from cus.conditioning.cpu.sampling import LANCZOS_TABLE, lanczos
from cus.conditioning.fused.sampling import LANCZOS3, sample
from cus.kernels.simd import LANES, extract

LEFT, TOP, HEIGHT, WIDTH = -6, -4, 19, 27


def part_of(image: torch.Tensor) -> np.ndarray:
    """The part of [3, h, w] from LEFT and TOP on, flattened, with room for a vector behind it."""
    part = np.zeros(HEIGHT * WIDTH * CHANNELS + LANES, image.numpy().dtype)
    flat = np.concatenate([np.zeros(5, part.dtype), image.numpy().ravel()])  # another picture first
    interleave(flat, 5, *image.shape[1:], LEFT, TOP, part, 0, HEIGHT, WIDTH)
    return part


def test_what_lies_beyond_a_picture_is_what_lies_at_its_borders():
    image = torch.rand((3, 9, 12), generator=torch.Generator().manual_seed(0))
    part = part_of(image)[:-LANES].reshape(HEIGHT, WIDTH, CHANNELS)
    padded = F.pad(image[None], (-LEFT, WIDTH + LEFT - 12, -TOP, HEIGHT + TOP - 9), mode="replicate")[0]
    np.testing.assert_array_equal(part[..., :3], padded.permute(1, 2, 0).numpy())
    assert not part[..., 3].any()


@njit
def _lanczos_at(part, xs, ys, table, into):
    for k in range(len(xs)):
        found = lanczos(part, 0, WIDTH, xs[k] - np.float32(LEFT), ys[k] - np.float32(TOP), table)
        for channel in range(3):
            into[channel, k] = extract(found, channel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_lanczos_is_that_of_the_tensor_operations(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand((3, 9, 12), generator=generator)
    image = (255 * image).to(torch.uint8) if dtype == torch.uint8 else image
    x, y = (length * torch.rand(500, generator=generator) for length in (12, 9))
    x[:3], y[:3] = torch.tensor([0.0, 12.0, 0.5]), torch.tensor([0.0, 9.0, 0.5])
    found = np.zeros((3, 500), np.float32)
    _lanczos_at(part_of(image), x.numpy(), y.numpy(), LANCZOS_TABLE, found)
    scale = 1 / 255 if dtype == torch.uint8 else 1.0
    expected = sample(image, x.double(), y.double(), LANCZOS3).float()
    torch.testing.assert_close(torch.from_numpy(found) * scale, expected, rtol=0, atol=1e-5)
