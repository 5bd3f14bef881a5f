"""Image tower and projector: from pictures to context tokens."""

from pathlib import Path

import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional as F

from cus.models.clip import CLIP_MEAN, CLIP_STD, ImageEncoder
from cus.models.projector import ImageProjector


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(image_size=32, patch_size=8, width=24, layers=2, heads=3, output_dim=6).eval()


def images(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(32, 32), (20, 50), (70, 33)])
def test_tokens_are_what_open_clip_normalises_and_projects(encoder: ImageEncoder, size: tuple[int, int]) -> None:
    with torch.no_grad():
        tokens = encoder(images(*size))
        assert tokens.shape == (2, encoder.num_tokens, 24) == (2, 17, 24)
        embedding = encoder.tower.ln_post(tokens[:, 0]) @ encoder.tower.proj
        torch.testing.assert_close(embedding, encoder.tower(encoder.preprocess(images(*size))))


def test_preprocessing_keeps_corners_and_normalises(encoder: ImageEncoder) -> None:
    picture = images(32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(encoder.preprocess(picture) * std + mean, picture, rtol=0, atol=1e-5)
    grey = encoder.preprocess(torch.full((1, 3, 9, 40), 0.5))
    torch.testing.assert_close(grey, ((0.5 - mean) / std).expand(1, 3, 32, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(200, 333), (576, 1024), (20, 90), (32, 32), (33, 20)])
def test_images_can_be_squashed_as_the_public_checkpoints_code_does(size: tuple[int, int]) -> None:
    """A Gaussian of half the excess of the shrinking factor, cut at two sigma: here by scipy; then aligned bicubic."""
    picture = images(*size)[:1]
    blurred = picture.double().numpy()
    for axis in (0, 1):
        sigma = (size[axis] / 32 - 1) / 2
        if sigma > 0:
            radius = max(int(4 * sigma), 3) // 2
            blurred = gaussian_filter1d(blurred, sigma, axis=axis - 2, mode="mirror", radius=radius)
    expected = F.interpolate(torch.from_numpy(blurred), (32, 32), mode="bicubic", align_corners=True)
    encoder = ImageEncoder(image_size=32, patch_size=8, width=24, layers=1, heads=3, output_dim=6, blur_first=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(encoder.preprocess(picture) * std + mean, expected.float(), rtol=0, atol=1e-5)


def test_both_ways_to_squash_keep_a_grey_image_and_its_mean(encoder: ImageEncoder) -> None:
    blurring = ImageEncoder(image_size=32, patch_size=8, width=24, layers=1, heads=3, output_dim=6, blur_first=True)
    grey, noise = torch.full((1, 3, 300, 500), 0.5), images(300, 500)
    torch.testing.assert_close(blurring.preprocess(grey), encoder.preprocess(grey), rtol=0, atol=1e-5)
    means = [way.preprocess(noise).mean((0, 2, 3)) for way in (blurring, encoder)]
    torch.testing.assert_close(*means, rtol=0, atol=2e-2)


def test_wrong_shapes_are_refused(encoder: ImageEncoder) -> None:
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W\]"):
        encoder(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"expected \[B, L, 24\]"):
        ImageProjector(token_dim=24, dim=8, depth=1, heads=1, head_channels=8, num_tokens=4)(torch.zeros(1, 5, 23))


def test_projector_ignores_the_order_of_image_tokens_and_makes_its_own_number() -> None:
    torch.manual_seed(0)
    projector = ImageProjector(token_dim=24, context_dim=12, dim=16, depth=2, heads=2, head_channels=8, num_tokens=5)
    tokens = torch.randn(2, 17, 24)
    with torch.no_grad():
        context = projector(tokens)
        assert context.shape == (2, 5, 12)
        torch.testing.assert_close(projector(tokens.flip(1)), context, rtol=1e-4, atol=1e-5)


def test_saving_and_loading_changes_no_bit(encoder: ImageEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    with torch.no_grad():
        assert torch.equal(ImageEncoder.from_pretrained(tmp_path)(images(40, 40)), encoder(images(40, 40)))
