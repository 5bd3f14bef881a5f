"""Priors by name, and diffusers' upscaler as one, in a tiny configuration of the real classes."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale import StableDiffusionUpscalePipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cus.conditioning.conditioning import blank_conditioning
from cus.errors import InputError
from cus.refinement.distillation import DistillOptions, distill
from cus.refinement.priors import CriticOptions, PipelinePrior, Shown, open_prior, prior_class
from cus.refinement.priors.upscaler import UpscalerPrior
from tests.conditioning.plane_scenes import pinhole

CPU = torch.device("cpu")


def tokenizer(folder: Path) -> CLIPTokenizer:
    words = ["<|startoftext|>", "<|endoftext|>", "a", "b</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory) -> Path:
    """The folder of a tiny `StableDiffusionUpscalePipeline`."""
    folder = tmp_path_factory.mktemp("upscaler")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=7,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        num_class_embeds=1000,
    )
    vae = AutoencoderKL(
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.08333,
    )
    text = CLIPTextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    pipeline = StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer(folder),
        unet=unet,
        low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear"),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False),
    )
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


def shown(height: int = 10, width: int = 12) -> Shown:
    photograph = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    return Shown(photograph, blank_conditioning(pinhole((0, 0, 0)).resized(4 * width, 4 * height)), photograph[None])


@pytest.mark.parametrize("gradient", ["sds", "rsd", "vsd"])
def test_the_upscaler_distils_a_photograph_into_one_of_four_times_its_size(upscaler, gradient):
    prior = open_prior(str(upscaler), 4, CPU, critic=CriticOptions(rank=2))
    assert isinstance(prior, UpscalerPrior)
    view = prior.views([shown()])[0]
    latents = view.encode(torch.rand(3, 40, 48))
    options = DistillOptions(gradient, steps=2, critic_every=1)
    made = distill([latents], [view], prior.schedule, options, torch.Generator().manual_seed(0))[0]
    assert made.shape == latents.shape and bool(torch.isfinite(made).all())
    assert prior.version == (2 if gradient == "vsd" else 0)
    assert view.decode(made).shape == (3, 40, 48)


def test_the_upscalers_estimate_is_that_of_its_own_scheduler(upscaler):
    prior = open_prior(str(upscaler), 4, CPU)
    assert isinstance(prior, UpscalerPrior)
    view = prior.views([shown(8, 8)])[0]
    noisy = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        estimate = view.prior(noisy, 300)
        unet = prior.pipeline.unet
        v = unet(
            torch.cat([noisy, view.low], dim=1), 300, encoder_hidden_states=view.prompt, class_labels=view.level
        ).sample
    prior.pipeline.scheduler.set_timesteps(1000)
    expected = prior.pipeline.scheduler.step(v, 300, noisy).pred_original_sample
    torch.testing.assert_close(estimate, expected, rtol=1e-4, atol=1e-4)


def test_priors_are_found_by_the_class_of_their_pipeline(upscaler, tmp_path):
    assert prior_class("none") is None and open_prior("none", 4, CPU) is None
    assert prior_class("mini") is PipelinePrior
    assert prior_class("sd-x4") is UpscalerPrior and prior_class(str(upscaler)) is UpscalerPrior
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(InputError, match="holds a FluxPipeline, which is no prior"):
        prior_class(str(tmp_path))


def test_a_prior_that_cannot_serve_is_refused_with_what_to_do(upscaler, tmp_path):
    with pytest.raises(InputError, match="enlarges 4 times, not 2; use --factor 4"):
        open_prior(str(upscaler), 2, CPU)
    with pytest.raises(InputError, match="a LoRA is for a prior of ours"):
        open_prior(str(upscaler), 4, CPU, lora="mine")
    with pytest.raises(InputError, match="there is none; name one with --model"):
        open_prior("none", 4, CPU, lora="mine")
    for weights in (upscaler / "unet").glob("*.safetensors"):
        weights.rename(tmp_path / weights.name)
    with pytest.raises(InputError, match="connect to the Hub once"):
        open_prior(str(upscaler), 4, CPU)
