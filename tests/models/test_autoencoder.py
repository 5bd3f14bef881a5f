"""The autoencoder is diffusers' until its skips are trained."""

from pathlib import Path

import pytest
import torch
from diffusers import configuration_utils
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from cus.models.autoencoder import Autoencoder

SIZES: dict = {"block_out_channels": (8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def vae() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(**SIZES, skip=True).eval()


@pytest.mark.parametrize("attention", [True, False])
def test_without_skips_it_has_the_weights_and_values_of_diffusers_class(images: Tensor, attention: bool) -> None:
    torch.manual_seed(0)
    ours = Autoencoder(**SIZES, mid_block_add_attention=attention).eval()
    theirs = AutoencoderKL(
        **SIZES,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=attention,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        moments = ours.encode(images).latent_dist.parameters
        torch.testing.assert_close(moments, theirs.encode(images).latent_dist.parameters, rtol=1e-4, atol=1e-5)
        z = moments[:, :4]
        torch.testing.assert_close(ours.decode(z).sample, theirs.decode(z).sample, rtol=1e-4, atol=1e-5)


def test_new_skips_change_nothing_and_trained_ones_do(vae: Autoencoder, images: Tensor) -> None:
    with torch.no_grad():
        z = vae.encode(images).latent_dist.mean
        plain = vae.decode(z).sample
        features = vae.skip_features(images)
        torch.testing.assert_close(vae.decode(z, skip_features=features).sample, plain)
        assert vae.skip_convs is not None
        for convolution in vae.skip_convs:
            torch.nn.init.normal_(convolution.weight)  # pyright: ignore[reportArgumentType]
            assert not torch.allclose(vae.decode(z, skip_features=features).sample, plain)
            torch.nn.init.zeros_(convolution.weight)  # pyright: ignore[reportArgumentType]


def test_gradients_reach_every_skip_and_stop_at_the_encoder(vae: Autoencoder, images: Tensor) -> None:
    vae.decode(
        vae.encode(images).latent_dist.mean.detach(), skip_features=vae.skip_features(images)
    ).sample.sum().backward()
    assert vae.skip_convs is not None
    assert all(p.grad is not None and p.grad.any() for p in vae.skip_convs.parameters())
    assert all(p.grad is None for p in vae.encoder.parameters())


def test_encoding_with_features_is_encoding_and_features(vae: Autoencoder, images: Tensor) -> None:
    posterior, features = vae.encode_with_features(images)
    with torch.no_grad():
        assert torch.equal(posterior.parameters, vae.encode(images).latent_dist.parameters)
    assert all(torch.equal(a, b) for a, b in zip(features, vae.skip_features(images), strict=True))
    assert [tuple(f.shape[1:]) for f in features] == [(8, 16, 24), (16, 8, 12), (16, 4, 6)]


def test_slicing_gives_the_same_frames(vae: Autoencoder, images: Tensor) -> None:
    with torch.no_grad():
        z, features = vae.encode(images).latent_dist.mean, vae.skip_features(images)
        whole = vae.decode(z, skip_features=features).sample
        vae.enable_slicing()
        torch.testing.assert_close(vae.decode(z, skip_features=features).sample, whole, rtol=1e-4, atol=1e-5)


def test_saving_and_loading_changes_no_bit(vae: Autoencoder, images: Tensor, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    loaded = Autoencoder.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), vae.state_dict().values(), strict=True))
    assert loaded.skip_convs is not None


def test_misuse_is_refused(vae: Autoencoder, images: Tensor) -> None:
    z, features = torch.zeros(3, 4, 4, 6), vae.skip_features(images)
    with pytest.raises(ValueError, match="multiples of 4"):
        vae.skip_features(images[..., 1:])
    with pytest.raises(ValueError, match="skip_features are"):
        vae.decode(z[:2], skip_features=features)
    with pytest.raises(ValueError, match="no skip convolutions"):
        Autoencoder(**SIZES).decode(z, skip_features=features)
    vae.enable_tiling()
    with pytest.raises(ValueError, match="does not tile"):
        vae.decode(z, skip_features=features)


def test_one_that_is_saved_loads_as_it_was_and_without_a_warning(vae: Autoencoder, tmp_path: Path, monkeypatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(configuration_utils.logger, "warning", warned.append)
    vae.save_pretrained(tmp_path)
    loaded = Autoencoder.from_pretrained(tmp_path)
    assert not warned and isinstance(loaded, Autoencoder)
    assert {**loaded.config, "_name_or_path": ""} == {**vae.config, "_name_or_path": ""}
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in loaded.state_dict().items())
