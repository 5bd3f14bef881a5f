"""The close-up protocol on real photos: references shrunk to the model's size, a held-out photo's crop as truth."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras, load_transforms
from cus.conditioning import hierarchical_warp
from cus.estimators import SceneEstimate, estimate_scene


@dataclass(frozen=True)
class CloseUp:
    """Two references with estimated depth, a target camera that sees the middle of a third photo, and its pixels."""

    scene: SceneEstimate
    target: Cameras
    truth: Tensor

    def score(self, **options) -> tuple[float, float]:
        """(fraction of the target covered, PSNR in dB on the covered pixels)."""
        result = hierarchical_warp(self.scene, self.target, **options)
        error = (result.images[0] - self.truth)[:, result.masks[0]].square().mean()
        return float(result.coverage), float(-10 * torch.log10(error))


def close_up(
    folder: Path, references: list[int], target: int, zoom: int = 4, width: int = 512, height: int = 341
) -> CloseUp:
    """The central x `zoom` crop of photo `target` at its full resolution, shrunk by area to the model's size."""
    photos = load_transforms(folder / "transforms.json")
    images, cameras = photos.select(references).load(width, height)
    full, camera = photos.select([target]).load(*photos.sizes[target])
    w, h = camera.width // zoom, camera.height // zoom
    x, y = (camera.width - w) // 2, (camera.height - h) // 2
    truth = torch.nn.functional.interpolate(full[..., y : y + h, x : x + w], (height, width), mode="area")[0]
    return CloseUp(estimate_scene(images, cameras), camera.cropped(x, y, w, h).resized(width, height), truth)


@pytest.fixture(scope="module")
def fountain(photos: Path) -> CloseUp:
    return close_up(photos / "fountain_p11", [5, 7], 6)


@pytest.mark.slow
def test_the_warp_covers_a_real_close_up_at_25_decibels(fountain: CloseUp):
    coverage, psnr = fountain.score()
    assert coverage >= 0.98
    assert psnr >= 25.0


@pytest.mark.slow
def test_the_high_resolution_alone_covers_an_eighth_of_it(fountain: CloseUp):
    coverage, _ = fountain.score(scales=(1,))
    assert 0.10 < coverage < 0.14


@pytest.mark.slow
def test_suppression_takes_nothing_from_a_scene_without_leaks(fountain: CloseUp):
    with_, without = (hierarchical_warp(fountain.scene, fountain.target, suppress) for suppress in (True, False))
    assert (with_.masks ^ without.masks).float().mean() < 0.001
    assert (with_.images - without.images).abs().mean() < 0.001
