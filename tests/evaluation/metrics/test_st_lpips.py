"""ST-LPIPS against the authors' own network, its gradients, its masks; what is said without its weights."""

import importlib
import math
import sys
import types

import pytest
import torch
from torch import Tensor

from cus.errors import InputError
from cus.evaluation.metrics import make_metrics, scored
from cus.evaluation.metrics.lpips import ShiftTolerantLpips
from cus.models import perceptual
from cus.models.perceptual import Backbone, PerceptualDistance
from tests.evaluation.metrics.pictures import noisy, photograph


@pytest.fixture
def weights() -> None:
    pytest.importorskip("stlpips_pytorch")


@pytest.fixture
def authors(weights: None, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The authors' module; what it imports without need is stood in for."""
    for name, member in (("IPython", "embed"), ("torchsummary", "summary")):
        stand_in = types.ModuleType(name)
        setattr(stand_in, member, None)
        monkeypatch.setitem(sys.modules, name, stand_in)
    return importlib.import_module("stlpips_pytorch.stlpips")


@pytest.mark.parametrize("backbone", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_the_distance_is_that_of_the_authors_network(authors: types.ModuleType, backbone: Backbone) -> None:
    network = authors.LPIPS(net=backbone, variant="shift_tolerant", verbose=False)
    image, target = photograph("b.jpg", 67, 90), photograph("a.jpg", 67, 90)
    with torch.no_grad():
        want = float(network(image[None], target[None], normalize=True))
    assert ShiftTolerantLpips(backbone)(image, target) == pytest.approx(want, rel=1e-5)


def test_equal_pictures_have_no_distance_and_noise_adds_to_it(weights: None) -> None:
    metric, target = ShiftTolerantLpips(), photograph("a.jpg", 72, 96)
    assert metric(target, target) == 0
    assert 0 < metric(noisy(target, 0.02), target) < metric(noisy(target, 0.1), target)


def test_a_shift_of_one_pixel_costs_less_than_a_little_noise(weights: None) -> None:
    whole = photograph("a.jpg", 96, 129)
    shifted, target = whole[..., 1:], whole[..., :-1]
    metric = ShiftTolerantLpips()
    assert metric(shifted, target) < metric(noisy(target, 0.05), target)


def test_under_a_mask_only_what_is_near_it_counts(weights: None) -> None:
    target = photograph("a.jpg", 128, 256)
    image = target.clone()
    image[..., 192:] = noisy(target, 0.5)[..., 192:]
    left = torch.zeros(128, 256, dtype=torch.bool)
    left[:, :64] = True
    metric = ShiftTolerantLpips()
    assert metric(image, target, left) == 0
    assert metric(image, target, ~left) > metric(image, target) > 0


def test_as_a_loss_it_gives_gradients_to_the_picture_alone(weights: None) -> None:
    distance = PerceptualDistance.load("vgg")
    image: Tensor = noisy(photograph("a.jpg", 64, 64), 0.1)[None].requires_grad_()
    distance(image, photograph("a.jpg", 64, 64)[None]).sum().backward()
    assert image.grad is not None and image.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in distance.parameters())


def test_pictures_below_64_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64"):
        PerceptualDistance()(torch.rand(1, 3, 63, 80), torch.rand(1, 3, 63, 80))


def test_a_picture_too_small_for_it_has_no_score_and_ends_nothing(weights: None) -> None:
    small = photograph("a.jpg", 96, 54)
    assert math.isnan(scored(ShiftTolerantLpips(), small, small))
    with pytest.raises(ValueError, match="one shape"):
        scored(ShiftTolerantLpips(), small, small[:, 1:])


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install"):
        make_metrics(["st_lpips"])
