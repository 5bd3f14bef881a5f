"""Structural and perceptual losses."""

import pytest
import torch

from cus.errors import InputError
from cus.models.perceptual import PerceptualDistance
from cus.splats.losses import ssim
from cus.training.decoder import DecoderConfig, DecoderStage, LpipsDistance, training_distance
from cus.training.unet import dissimilarity
from tests.diffusion.tiny import tiny_pipeline


@pytest.fixture
def no_lpips(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Where torchvision would keep the backbone, there is nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


def test_without_lpips_weights_auto_is_the_shift_tolerant_one_and_lpips_says_what_is_missing(no_lpips) -> None:
    pytest.importorskip("stlpips_pytorch")
    assert isinstance(training_distance("auto"), PerceptualDistance)
    with pytest.raises(InputError, match="LPIPS needs"):
        training_distance("lpips")


def test_without_any_weights_the_message_names_both_and_the_way_out(no_lpips, monkeypatch) -> None:
    monkeypatch.setattr("cus.models.perceptual.PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"LPIPS needs .*; ST-LPIPS needs .*; or set perceptual=0"):
        training_distance("auto")


def test_dissimilarity_of_frames_is_zero_for_equal_ones_and_exact_in_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = 0.5 + 0.01 * torch.rand(2, 1, 3, 16, 16, generator=generator)  # their variance is lost in bfloat16
    images = (targets + 0.005 * torch.rand(targets.shape, generator=generator)).requires_grad_()
    assert float(dissimilarity(targets, targets).abs().max()) < 1e-4
    exact = 1 - ssim(images.double(), targets.double()).mean(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        losses, scores = dissimilarity(images, targets), dissimilarity(images.detach(), targets)
    for found in (losses, scores):
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-3)
    losses.sum().backward()
    assert images.grad is not None and bool(images.grad.any())


def test_lpips_gives_a_distance_a_picture_and_gradients_to_pictures_alone() -> None:
    network = torch.nn.Conv2d(3, 1, 1)

    class Stand(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor, normalize: bool) -> torch.Tensor:
            assert normalize
            return (network(a) - network(b)).square().mean(dim=(1, 2, 3), keepdim=True)

    distance = LpipsDistance(Stand())
    pictures = torch.rand(2, 3, 8, 8, requires_grad=True)
    found = distance(pictures, torch.rand(2, 3, 8, 8))
    assert found.shape == (2,)
    found.sum().backward()
    assert pictures.grad is not None and bool(pictures.grad.any())


def test_a_decoder_s_loss_grows_by_the_distance_and_small_windows_are_refused(no_lpips, tmp_path) -> None:
    pytest.importorskip("stlpips_pytorch")
    tiny_pipeline().save_pretrained(tmp_path / "model")
    given = {"out": "x", "init": str(tmp_path / "model"), "clips": "x", "generated": "x"}
    plain, perceptual = (DecoderStage(DecoderConfig(**given, crop=(32, 32), perceptual=w)) for w in (0.0, 0.5))
    generator = torch.Generator().manual_seed(0)
    batch = {
        "generated": torch.randn(1, 1, 4, 32, 32, generator=generator),
        "targets": torch.rand(1, 1, 3, 64, 64, generator=generator),
        "conditioning": torch.rand(1, 1, 3, 64, 64, generator=generator),
    }
    losses = [stage.loss(stage.module, batch, generator) for stage in (plain, perceptual)]
    difference = float((losses[1] - losses[0]).detach())
    assert 0.05 < difference < 1.0
    losses[1].backward()
    assert all(not p.requires_grad for p in perceptual.distance.parameters())
    with pytest.raises(InputError, match=r"crop=\[16, 31\] is 62x32 pixels"):
        DecoderStage(DecoderConfig(**given, crop=(16, 31), perceptual=0.5))
