"""The five-step DDIM run of the checkpoints' own sampler with the tiny reference U-Net."""

import json
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open

from cus.diffusion import NoiseSchedule, ddim, guided
from cus.lvdm import unet_from_lvdm
from tests.diffusion.conftest import GOLDEN
from tests.golden.weights import state_dict


@pytest.fixture(scope="module")
def predict_with(reference: dict[str, torch.Tensor]) -> Callable[[str], Callable]:
    """The tiny U-Net as a denoiser for one of the run's two contexts."""
    with safe_open(GOLDEN / "unet_tiny.safetensors", framework="pt") as file:
        metadata = file.metadata()
    unet = unet_from_lvdm(state_dict(json.loads(metadata["shapes"])), json.loads(metadata["config"])).eval()

    def denoiser(name: str) -> Callable:
        context, condition = reference[f"ddim.context_{name}"], reference["ddim.z_cond"]

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return unet(torch.cat([noisy, condition], 1), timesteps, context, torch.tensor([10])).sample

        return predict

    return denoiser


@pytest.mark.parametrize("eta", [0, 1])
@torch.no_grad()
def test_a_guided_run_agrees_with_the_reference(eta: int, reference: dict[str, torch.Tensor], predict_with) -> None:
    denoiser = guided(predict_with("cond"), predict_with("uncond"), 7.5, 0.7)
    noise = reference["ddim.step_noise"] if eta else None
    sample = ddim(denoiser, reference["ddim.x_T"], NoiseSchedule(), 5, eta=eta, step_noise=noise)
    expected = reference[f"ddim.sample_eta{eta}"]
    assert float((sample - expected).norm() / expected.norm()) < 1e-4
