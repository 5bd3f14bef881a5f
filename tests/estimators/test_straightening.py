"""Guessed depth whose straight edges are straight in space: what is found, kept and corrected."""

import numpy as np
import pytest
import torch

from cus.estimators.straightening import straight_segments, straightened

HEIGHT, WIDTH = 96, 128


def picture_of_a_post(left: int = 50, right: int = 58, hidden: slice = slice(0, 0)) -> torch.Tensor:
    """[3, H, W]: a dark post in front of a bright wall, a part of its height hidden."""
    picture = torch.full((3, HEIGHT, WIDTH), 0.8)
    picture[:, :, left:right] = 0.2
    picture[:, hidden] = 0.8
    return picture


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """x and y [H, W] of the pixel centres."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return x, y


def bend(inverse: np.ndarray, column: int) -> float:
    """Largest deviation of a column from a line, relative to its mean."""
    y = np.arange(HEIGHT)
    return float(
        np.abs(inverse[:, column] - np.polyval(np.polyfit(y, inverse[:, column], 1), y)).max() / inverse.mean()
    )


def test_edges_of_a_post_are_found_where_they_are_and_joined_across_what_hides_them():
    segments = straight_segments(picture_of_a_post(hidden=slice(40, 52)))
    upright = segments[np.abs(segments[:, 0, 0] - segments[:, 1, 0]) < 1]
    assert sorted(upright[:, :, 0].mean(axis=1)) == pytest.approx([50, 58], abs=0.5)
    assert (np.abs(upright[:, 0, 1] - upright[:, 1, 1]) > 0.85 * HEIGHT).all()


def test_a_picture_without_edges_has_no_segments():
    assert straight_segments(torch.full((3, HEIGHT, WIDTH), 0.5)).shape == (0, 2, 2)


def test_planes_stay_as_they_are():
    x, y = pixels()
    plane = 0.3 + 0.002 * x + 0.001 * y
    picture = picture_of_a_post()
    kept = straightened(plane, picture.permute(1, 2, 0).numpy(), straight_segments(picture))
    np.testing.assert_allclose(kept, plane, rtol=1e-6)


def test_a_bent_post_is_straightened_and_the_step_behind_its_edge_remains():
    x, y = pixels()
    inside = (x > 50) & (x < 58)
    waves = 0.1 * np.sin(y / 12)
    bent = np.where(inside, 1.0, 0.5) * (1 + waves)
    picture = picture_of_a_post()
    found = straightened(bent, picture.permute(1, 2, 0).numpy(), straight_segments(picture))
    for column in (48, 51, 56, 59):
        assert bend(found, column) < 0.1 * bend(bent, column)
    assert found[:, 54].mean() > 1.6 * found[:, 20].mean()
    assert bent.min() <= found.min() and found.max() <= bent.max()


def test_short_waves_go_where_the_picture_is_flat_and_remain_as_far_as_it_has_edges():
    x, _ = pixels()
    short, long = (0.5 + 0.05 * np.sin(2 * np.pi * x / length) for length in (16, 256))
    flat, none = np.full((HEIGHT, WIDTH, 3), 0.5), np.zeros((0, 2, 2))
    edges = np.broadcast_to((np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2)[..., None], flat.shape).astype(float)
    assert np.ptp(straightened(short, flat, none)) < 0.25 * np.ptp(short)
    assert np.ptp(straightened(long, flat, none)) > 0.85 * np.ptp(long)
    assert np.ptp(straightened(short, edges, none)) > 0.9 * np.ptp(short)
