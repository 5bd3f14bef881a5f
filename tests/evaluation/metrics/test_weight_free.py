"""PSNR, SSIM, GMSD and HaarPSI against other libraries, against each other's limits, and under masks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cus.evaluation.metrics import PSNR_CAP, best_blur, color_corrected_psnr, gaussian_blur, gmsd, haarpsi, psnr, ssim
from cus.evaluation.metrics.metric import WEIGHT_FREE, WeightFreeMetric
from cus.evaluation.metrics.weight_free import ssim_map
from cus.models.gradient_similarity import gmsd_map
from cus.splats import ssim as training_ssim
from tests.evaluation.metrics.pictures import noisy, pairs, photograph

PAIRS = [pytest.param(x, y, id=label) for label, x, y in pairs()]
METRICS = [pytest.param(metric, id=metric.name) for metric in WEIGHT_FREE]
PERFECT = {"psnr": PSNR_CAP, "psnr_cc": PSNR_CAP, "ssim": 1.0, "gmsd": 0.0, "haarpsi": 1.0}


def badness(metric: WeightFreeMetric, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    score = metric(image, target, mask)
    return -score if metric.higher_is_better else score


@pytest.mark.parametrize(("image", "target"), PAIRS)
def test_psnr_and_ssim_are_those_of_torchmetrics(image: Tensor, target: Tensor) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    x, y = image.double()[None], target.double()[None]
    want = functional.peak_signal_noise_ratio(x, y, data_range=1.0)
    assert psnr(image, target) == pytest.approx(float(want), abs=1e-6)
    want = functional.structural_similarity_index_measure(x, y, data_range=1.0)
    assert ssim(image, target) == pytest.approx(float(want), abs=1e-9)


@pytest.mark.parametrize(("image", "target"), PAIRS)
def test_psnr_and_ssim_are_those_of_scikit_image_which_scores_all_but_a_border(image: Tensor, target: Tensor) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    x, y = (picture.double().permute(1, 2, 0).numpy() for picture in (image, target))
    assert psnr(image, target) == pytest.approx(skimage.peak_signal_noise_ratio(y, x, data_range=1), abs=1e-9)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    want = skimage.structural_similarity(x, y, channel_axis=-1, **settings)
    inner = ssim_map(image.double(), target.double())[:, 5:-5, 5:-5]
    assert float(inner.mean()) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(("image", "target"), PAIRS)
def test_gmsd_and_haarpsi_are_those_of_piq(image: Tensor, target: Tensor) -> None:
    piq = pytest.importorskip("piq")
    x, y = image.double()[None], target.double()[None]
    assert gmsd(image, target) == pytest.approx(float(piq.gmsd(x, y)), abs=1e-6)
    assert haarpsi(image, target) == pytest.approx(float(piq.haarpsi(x, y)), abs=1e-6)


def test_the_score_is_that_of_the_training_loss() -> None:
    _, image, target = pairs()[2]
    assert ssim(image, target) == pytest.approx(float(training_ssim(image, target)), abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("image", "target"), PAIRS[1::3])
def test_equal_pictures_score_perfectly(metric: WeightFreeMetric, image: Tensor, target: Tensor) -> None:
    mask = torch.rand(target.shape[1:]) > 0.5
    assert metric(target, target) == pytest.approx(PERFECT[metric.name], abs=1e-7)
    assert metric(target, target, mask) == pytest.approx(PERFECT[metric.name], abs=1e-7)
    assert badness(metric, image, target) > badness(metric, target, target)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("metric", METRICS)
def test_flat_pictures_have_scores(metric: WeightFreeMetric, level: float) -> None:
    flat = torch.full((3, 40, 41), level)
    inner = torch.zeros(40, 41, dtype=torch.bool)
    inner[15:25, 15:25] = True
    for mask in (None, inner):
        assert metric(flat, flat, mask) == pytest.approx(PERFECT[metric.name], abs=1e-7)
        assert math.isfinite(metric(flat, 1 - flat, mask))


@pytest.mark.parametrize("metric", METRICS)
def test_more_noise_more_blur_and_more_shift_score_worse(metric: WeightFreeMetric) -> None:
    target = photograph("close_zoom2.jpg", 180, 241)
    ladders = [
        [noisy(target, strength) for strength in (0.02, 0.05, 0.15)],
        [gaussian_blur(target, sigma) for sigma in (0.6, 1.2, 3.0)],
        [target.roll(pixels, dims=2) for pixels in (1, 2, 4)],
    ]
    for ladder in ladders:
        scores = [badness(metric, image, target) for image in (target, *ladder)]
        assert scores == sorted(scores)
        assert len(set(scores)) == len(scores)


@pytest.mark.parametrize("metric", METRICS)
def test_a_mask_of_all_pixels_is_no_mask(metric: WeightFreeMetric) -> None:
    target = photograph("a.jpg", 61, 97)
    image = noisy(target, 0.1)
    assert metric(image, target, torch.ones(61, 97, dtype=torch.bool)) == metric(image, target)


@pytest.mark.parametrize("metric", METRICS)
def test_the_score_of_a_half_is_that_of_the_picture_cut_to_it(metric: WeightFreeMetric) -> None:
    """Exactly for PSNR; the others' windows look over the cut, where the smaller picture ends."""
    target = photograph("a.jpg", 160, 240)
    image = noisy(target, 0.05)
    image[..., 120:] = torch.rand(3, 160, 120)
    left = torch.zeros(160, 240, dtype=torch.bool)
    left[:, :120] = True
    got, want = metric(image, target, left), metric(image[..., :120], target[..., :120])
    tolerance = 1e-12 if metric.name == "psnr" else 0.02
    assert got == pytest.approx(want, abs=tolerance)
    assert abs(metric(image, target) - want) > 2 * tolerance


@pytest.mark.parametrize("metric", METRICS)
def test_what_lies_outside_the_mask_does_not_count_at_all(metric: WeightFreeMetric) -> None:
    target = photograph("b.jpg", 121, 160)
    image = noisy(target, 0.05)
    mask = torch.zeros(121, 160, dtype=torch.bool)
    mask[10:90, 7:66] = True
    before = metric(image, target, mask)
    image[:, ~mask] = 0
    assert metric(image, target, mask) == before
    image[:, mask] = target[:, mask]
    assert metric(image, target, mask) == pytest.approx(PERFECT[metric.name], abs=1e-7)


def test_a_masked_gmsd_is_the_deviation_over_the_masked_blocks() -> None:
    target = photograph("a.jpg", 64, 96).double()
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[10:40, 20:60] = True  # whole 2x2 blocks
    image = torch.where(mask, noisy(target.float(), 0.1).double(), target)
    assert gmsd(image, target, mask) == pytest.approx(float(np.std(gmsd_map(image, target)[5:20, 10:30].numpy())))


@pytest.mark.parametrize("metric", METRICS)
def test_a_single_true_pixel_is_a_mask(metric: WeightFreeMetric) -> None:
    target = photograph("a.jpg", 61, 97)
    mask = torch.zeros(61, 97, dtype=torch.bool)
    mask[60, 96] = True
    assert math.isfinite(metric(noisy(target, 0.1), target, mask))


@pytest.mark.parametrize("metric", METRICS)
def test_what_cannot_be_scored_is_refused(metric: WeightFreeMetric) -> None:
    good, mask = torch.rand(3, 32, 40), torch.ones(32, 40, dtype=torch.bool)
    broken = good.clone()
    broken[1, 2, 3] = float("nan")
    for image, target, part, said in [
        (good, good[..., :-1], None, "one shape"),
        (good[None], good[None], None, r"\[3, H, W\]"),
        (good[:1], good[:1], None, r"\[3, H, W\]"),
        (broken, good, None, "image holds NaN"),
        (good, broken, None, "target holds NaN"),
        (good * 255, good, None, r"expected \[0, 1\]"),
        (good - 0.5, good, None, r"expected \[0, 1\]"),
        (good, good, ~mask, "no True pixel"),
        (good, good, mask[:-1], "mask is"),
        (good, good, mask.float(), "torch.bool"),
    ]:
        with pytest.raises(ValueError, match=said):
            metric(image, target, part)


def test_pictures_smaller_than_a_window_are_refused() -> None:
    for score, side in ((ssim, 5), (haarpsi, 15)):
        small = torch.rand(3, side, 40)
        with pytest.raises(ValueError, match=f"at least {side + 1} pixels"):
            score(small, small)
        assert score(torch.rand(3, side + 1, 40), torch.rand(3, side + 1, 40)) < 1


def test_rounding_beyond_the_range_is_forgiven_and_not_scored() -> None:
    target = torch.ones(3, 20, 20)
    assert psnr(target + 5e-5, target) == PSNR_CAP


@pytest.mark.parametrize("metric", METRICS)
def test_scores_leave_the_pictures_as_they_were(metric: WeightFreeMetric) -> None:
    image, target = torch.rand(2, 3, 33, 47)
    copies = image.clone(), target.clone()
    metric(image.requires_grad_(), target)
    assert torch.equal(image, copies[0]) and torch.equal(target, copies[1])


@pytest.mark.parametrize("metric", METRICS)
def test_neither_memory_layout_nor_type_matters(metric: WeightFreeMetric) -> None:
    target = photograph("a.jpg", 61, 98)
    image = noisy(target, 0.1)
    channels_last = [picture.double().permute(1, 2, 0).contiguous().permute(2, 0, 1) for picture in (image, target)]
    strided = [torch.stack([picture, picture], dim=-1)[..., 0] for picture in (image, target)]
    for other in (channels_last, strided):
        assert metric(*other) == pytest.approx(metric(image, target), abs=1e-9)
    view = best_blur(channels_last[0].float(), channels_last[1])[1]
    torch.testing.assert_close(view, best_blur(image, target)[1])


def test_fitted_colours_take_out_exposure_and_white_balance() -> None:
    target = photograph("a.jpg", 48, 64)
    other = (target * torch.tensor([0.7, 0.8, 0.9])[:, None, None] + 0.05).clamp(0, 1)
    assert psnr(other, target) < 22
    assert color_corrected_psnr(other, target) > 60


@pytest.mark.parametrize(("image", "target"), PAIRS)
def test_fitted_colours_never_score_below_the_plain_picture(image: Tensor, target: Tensor) -> None:
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[5:40, 7:50] = True
    assert color_corrected_psnr(image, target) >= psnr(image, target)
    assert color_corrected_psnr(image, target, mask) >= psnr(image, target, mask)


def test_colours_are_fitted_to_the_mask_alone() -> None:
    target = photograph("a.jpg", 48, 64)
    image = (0.8 * target).clamp(0, 1)
    image[:, :, 32:] = 1 - target[:, :, 32:]
    left = torch.zeros(48, 64, dtype=torch.bool)
    left[:, :32] = True
    assert color_corrected_psnr(image, target, left) > 60 > color_corrected_psnr(image, target)


def test_a_picture_of_one_colour_can_be_fitted() -> None:
    target = photograph("a.jpg", 48, 64)
    flat = torch.full_like(target, 0.3)
    want = psnr(target.mean(dim=(1, 2), keepdim=True).expand_as(target), target)
    assert color_corrected_psnr(flat, target) == pytest.approx(want, abs=1e-6)
