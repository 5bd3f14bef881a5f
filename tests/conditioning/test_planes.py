"""Planes fitted to depth maps."""

import pytest
import torch
from torch import Tensor

from cus.conditioning import agree
from cus.conditioning.cpu.planes import regressed_cpu
from cus.conditioning.fused.planes import JUMP, NOISE, regressed
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths

HEIGHT, WIDTH = 60, 80


def positions() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(HEIGHT).double(), torch.arange(WIDTH).double(), indexing="ij")
    return y, x


def floor() -> Tensor:
    """1 / z of a slanted plane."""
    y, x = positions()
    return 0.3 + 0.002 * y + 0.0005 * x


def even(value: float) -> Tensor:
    return torch.full((HEIGHT, WIDTH), value, dtype=torch.float64)


GRAY = torch.full((3, HEIGHT, WIDTH), 0.5)


def test_a_plane_stays_as_it_is() -> None:
    torch.testing.assert_close(regressed(floor(), even(1e-3), GRAY), floor(), rtol=3e-4, atol=0)


def test_noise_on_a_plane_goes_where_the_pictures_say_little() -> None:
    noise = 0.01 * torch.randn((HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    little = regressed(floor() * (1 + noise), even(NOISE**2 / 0.01**2), GRAY)
    assert (little / floor() - 1).abs().mean() < 0.1 * noise.abs().mean()


def test_a_part_without_evidence_takes_the_plane_around_it() -> None:
    wrong, information = floor(), even(1.0)
    wrong[20:40, 30:50] *= 1.02
    information[18:42, 28:52] = 1e-7
    found = regressed(wrong, information, GRAY)
    assert (found / floor() - 1).abs()[20:40, 30:50].max() < 0.003


def test_a_curved_surface_keeps_its_shape_where_the_pictures_show_it() -> None:
    _, x = positions()
    curved = 0.3 * (1 + 0.03 * torch.sin(x / 10))
    error = (regressed(curved, even(NOISE**2 / 0.0005**2), GRAY) / curved - 1).abs()
    flat = (regressed(curved, even(NOISE**2 / 0.05**2), GRAY) / curved - 1).abs()
    assert error[:, 8:-8].mean() < 0.003 < flat[:, 8:-8].mean()


def test_nothing_reaches_over_a_depth_edge() -> None:
    near_and_far = floor()
    near_and_far[:, WIDTH // 2 :] *= 1 + 3 * JUMP
    torch.testing.assert_close(regressed(near_and_far, even(1e-3), GRAY), near_and_far, rtol=3e-4, atol=0)


def test_what_has_no_depth_has_none_afterwards_and_gives_none() -> None:
    holes = floor()
    holes[10:20, 10:20] = 0
    found = regressed(holes, even(1e-3), GRAY)
    assert torch.equal(found == 0, holes == 0)
    torch.testing.assert_close(found, holes, rtol=3e-4, atol=0)


@pytest.mark.parametrize("size", [(60, 80), (61, 83)])
def test_kernels_give_the_same(size: tuple[int, int]) -> None:
    draws = torch.Generator().manual_seed(0)
    inverse = 0.3 + 0.01 * torch.rand(size, generator=draws, dtype=torch.float64)
    inverse[:, size[1] // 2 :] *= 1.5
    inverse[5:9, 5:20] = 0
    information = torch.rand(size, generator=draws, dtype=torch.float64)
    colors = 0.2 * torch.rand((3, *size), generator=draws)
    expected = regressed(inverse, information, colors)
    assert (expected - inverse).abs().max() > 1e-3
    torch.testing.assert_close(regressed_cpu(inverse, information, colors), expected, rtol=1e-6, atol=1e-9)


def test_a_wall_with_lines_along_the_epipolar_lines_takes_its_depth_from_what_else_is_on_it() -> None:
    width, height = 128, 96
    cameras = [pinhole((x, 0.0, 0.0), focal=130, width=width, height=height) for x in (-0.4, 0.4)]
    cameras = type(cameras[0]).cat(cameras)
    exact = plane_depths(cameras, (0.2, 0.1, 1.0), 4.0)
    points = cameras.backproject(exact)
    lines = 0.5 + 0.2 * torch.sin(12 * points[..., 1])
    stains = torch.sin(7 * points[..., 0]) * (points[..., 0].abs() > 0.9)
    images = (lines + 0.2 * stains)[:, None].expand(-1, 3, -1, -1).clamp(0, 1).contiguous()
    wrong = exact.clone()
    wrong[:, 30:70, 50:80] *= 1.015
    refined = agree(estimate(images, cameras, wrong)).depths
    before, after = ((depths / exact - 1).abs()[:, 30:70, 50:80].mean() for depths in (wrong, refined))
    assert after < 0.5 * before
