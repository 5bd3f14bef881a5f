"""The lossless first stage."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cus.diffusion.latents import decode, encode
from cus.models.unshuffle import UnshuffleAutoencoder, _cosines


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_round_trip_loses_not_a_bit_even_with_a_generator(factor: int) -> None:
    vae = UnshuffleAutoencoder(factor, scaling_factor=2.0)
    images = torch.rand(3, 3, 8, 16, generator=torch.Generator().manual_seed(0)).mul(256).floor() / 256
    latents = encode(vae, images, torch.Generator().manual_seed(1), chunk=2)
    assert latents.shape == (3, vae.latent_channels, 8 // factor, 16 // factor)
    assert torch.equal(decode(vae, latents, images), images)


def test_a_latent_holds_the_pixels_of_its_cell_and_no_others() -> None:
    vae = UnshuffleAutoencoder(4)
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, 4:, :4] = 1
    cells = vae.encode(image).latent_dist.mean
    assert (cells[0, :, 1, 0] == 1).all() and cells.sum() == 48


def test_spectral_latents_lose_nothing_and_put_a_cells_mean_into_its_first_channel() -> None:
    vae = UnshuffleAutoencoder(4, scaling_factor=1.0, spectral=True)
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            torch.testing.assert_close(decode(vae, encode(vae, images), images), images, rtol=0, atol=2e-6)
    flat = vae.encode(torch.full((1, 3, 4, 4), 0.5)).latent_dist.mean[0, :, 0, 0].unflatten(0, (3, 16))
    torch.testing.assert_close(flat[:, 0], torch.full((3,), 1.0))
    assert flat[:, 1:].abs().max() < 1e-5


def test_spectral_latents_of_smooth_pictures_are_of_one_size() -> None:
    rng = np.random.default_rng(0)
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij"))
    noise = np.fft.fft2(rng.normal(size=(3, 256, 256)))
    pictures = np.fft.ifft2(noise / np.maximum(frequencies, 1 / 256) ** 1.3).real
    pictures = torch.from_numpy(0.3 * pictures / pictures.std())[None].float()
    plain, spectral = UnshuffleAutoencoder(4), UnshuffleAutoencoder(4, 1.0, spectral=True)
    spread = spectral.encode(pictures).latent_dist.mean[0].unflatten(0, (3, 16)).std(dim=(0, 2, 3))
    assert spread.max() < 6 * spread.min()
    unscaled = _cosines(4)[0] @ plain.encode(pictures).latent_dist.mean[0].unflatten(0, (3, 16)).flatten(2)
    assert unscaled.std(dim=(0, 2)).max() > 25 * unscaled.std(dim=(0, 2)).min()


def test_half_precision_of_the_other_networks_does_not_round_its_pixels() -> None:
    vae = UnshuffleAutoencoder(2).to(torch.bfloat16)
    images = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert vae.dtype == torch.float32
    torch.testing.assert_close(decode(vae, encode(vae, images)), images, rtol=0, atol=1e-6)


def test_saving_and_loading_keeps_factor_and_scale(tmp_path: Path) -> None:
    UnshuffleAutoencoder(2, scaling_factor=3.0, spectral=True).save_pretrained(tmp_path)
    loaded = UnshuffleAutoencoder.from_pretrained(tmp_path)
    assert (loaded.downsample, loaded.scaling_factor, loaded.latent_channels) == (2, 3.0, 12)
    assert loaded.config["spectral"] is True


def test_sizes_that_do_not_fold_and_features_are_refused() -> None:
    vae = UnshuffleAutoencoder(4)
    with pytest.raises(ValueError, match="multiples of 4"):
        vae.encode(torch.zeros(1, 3, 8, 6))
    with pytest.raises(ValueError, match=r"expected \[N, 48, h, w\]"):
        vae.decode(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="no decoder to read"):
        vae.decode(torch.zeros(1, 48, 2, 2), skip_features=[torch.zeros(1)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 1"):
        UnshuffleAutoencoder(0)
