"""NIQE: its features on distributions that are known, its scores on natural pictures and spoiled ones."""

import importlib.util

import numpy as np
import pytest
import torch
from scipy.stats import gennorm
from torch import Tensor

from cus.evaluation.metrics.no_reference import Niqe, asymmetric_gaussian, natural_features
from tests.evaluation.metrics.pictures import noisy, photograph


@pytest.fixture(scope="module")
def natural() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the features of one photograph of the example."""
    features = natural_features(photograph("b.jpg", 720, 1280))
    return features.mean(axis=0), np.cov(features, rowvar=False)


def blurred(picture: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(picture[None], 5, 1, 2, count_include_pad=False)[0]


@pytest.mark.parametrize("shape", [0.8, 2.0, 4.0])
def test_shape_and_widths_of_a_generalised_gaussian_are_found(shape: float) -> None:
    values = gennorm.rvs(shape, size=200_000, random_state=0)
    found = asymmetric_gaussian(np.where(values < 0, 2 * values, values))
    # Samples are as often on either side, whose widths differ by 2.
    assert found[1] / found[2] == pytest.approx(2, rel=0.02)
    symmetric = asymmetric_gaussian(3 * values)
    assert symmetric == pytest.approx((shape, 3, 3), rel=0.03)


def test_blur_and_noise_look_less_natural(natural: tuple[np.ndarray, np.ndarray]) -> None:
    metric, picture = Niqe(natural), photograph("a.jpg", 720, 1280)
    sharp = metric(picture)
    assert sharp < 0.5 * metric(blurred(picture)) and sharp < 0.5 * metric(noisy(picture, 0.1))
    assert metric(photograph("b.jpg", 720, 1280)) == pytest.approx(0, abs=1e-6)
    assert metric.higher_is_better is False


def test_a_flat_picture_has_no_score_and_small_ones_are_refused(natural: tuple[np.ndarray, np.ndarray]) -> None:
    metric = Niqe(natural)
    assert metric(photograph("a.jpg", 96, 192)) > 0
    for height, width in ((95, 400), (100, 150)):
        with pytest.raises(ValueError, match="needs 96x192"):
            metric(photograph("a.jpg", height, width))
    with pytest.raises(ValueError, match="without texture"):
        metric(torch.full((3, 200, 300), 0.5))
    picture = photograph("a.jpg", 200, 300)
    with pytest.raises(ValueError, match="no mask"):
        metric(picture, picture, torch.ones(200, 300, dtype=torch.bool))


@pytest.mark.skipif(importlib.util.find_spec("basicsr") is None, reason="the authors' parameters come with basicsr")
def test_scores_are_those_of_basicsr() -> None:
    # basicsr 1.4.2 of these pictures, whose cubic shrinking differs in rounding.
    for name, score in (("a.jpg", 3.152), ("b.jpg", 3.144), ("close_zoom4.jpg", 3.494)):
        assert Niqe()(photograph(name, 720, 1280)) == pytest.approx(score, abs=0.01)
