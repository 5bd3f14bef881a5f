import pytest
import torch

from cus.evaluation.metrics import BLUR_GRID, best_blur, gaussian_blur, psnr
from tests.evaluation.metrics.pictures import noisy, photograph


@pytest.mark.parametrize("sigma", [0.7, 1.3, 4.0])
def test_the_blur_that_made_the_target_is_found(sigma: float) -> None:
    picture = photograph("a.jpg", 120, 161)
    found, blurred = best_blur(picture, gaussian_blur(picture, sigma))
    assert found == pytest.approx(sigma, abs=0.03)
    assert psnr(blurred, gaussian_blur(picture, sigma)) > 50


def test_no_sigma_of_a_dense_grid_is_better() -> None:
    target = photograph("close_zoom4.jpg", 90, 160)
    image = noisy(target, 0.08)
    found, blurred = best_blur(image, target)
    dense = max(psnr(gaussian_blur(image, k / 50), target) for k in range(150))
    assert 0 < found < 3
    assert psnr(blurred, target) >= dense - 1e-4
    assert psnr(blurred, target) > psnr(image, target) + 1


def test_a_picture_sharper_for_a_reason_stays_as_it_is() -> None:
    target = photograph("a.jpg", 90, 160)
    found, blurred = best_blur(target, target)
    assert found == 0
    assert torch.equal(blurred, target)


def test_noise_alone_takes_the_largest_blur_and_never_loses_to_the_grid() -> None:
    image, target = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0)), torch.full((3, 64, 80), 0.5)
    found, blurred = best_blur(image, target)
    assert BLUR_GRID[-2] < found <= BLUR_GRID[-1]
    assert psnr(blurred, target) >= max(psnr(gaussian_blur(image, sigma), target) for sigma in BLUR_GRID)


def test_the_mask_says_which_pixels_choose_the_blur() -> None:
    target = photograph("a.jpg", 90, 160)
    image = target.clone()
    image[..., 80:] = noisy(target, 0.3)[..., 80:]
    left = torch.zeros(90, 160, dtype=torch.bool)
    left[:, :70] = True
    assert best_blur(image, target, left)[0] == 0
    assert best_blur(image, target, ~left)[0] > 0.5


def test_a_blur_keeps_shape_type_and_flat_pictures() -> None:
    flat = torch.full((3, 31, 18), 0.25)
    blurred = gaussian_blur(flat, 2.5)
    assert blurred.shape == flat.shape and blurred.dtype == flat.dtype
    torch.testing.assert_close(blurred, flat)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no True pixel"):
        best_blur(torch.rand(3, 8, 8), torch.rand(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="one shape"):
        best_blur(torch.rand(3, 8, 8), torch.rand(3, 8, 9))
