"""A pipeline of tiny random networks, and pictures for it."""

from dataclasses import dataclass

import torch

from cus.diffusion import CloseUpShotPipeline, NoiseSchedule, PromptEmbeddings
from cus.diffusion.latents import FirstStage
from cus.diffusion.layers import Layers, layer_channels
from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet
from cus.models.unshuffle import UnshuffleAutoencoder

SAMPLING = {"steps": 2, "guidance": 1.0, "guidance_rescale": 0.0, "eta": 0.0, "frames": 4, "width": 24, "height": 16}


def tiny_pipeline(
    residual_scale: float = 0.0,
    skip: bool = False,
    layers: int = 0,
    unshuffle: int = 0,
    noise: float = 1.0,
    fill_holes: bool = False,
    color_window: int = 0,
    keep_resolved: bool = False,
) -> CloseUpShotPipeline:
    """Tiny networks; `unshuffle` is the factor of a lossless first stage, 0 takes a learned one."""
    torch.manual_seed(0)
    vae: FirstStage = Autoencoder(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False, skip=skip
    )
    if unshuffle:
        vae = UnshuffleAutoencoder(unshuffle)
    unet = UNet(
        in_channels=2 * vae.latent_channels + layer_channels(layers, vae.latent_channels, vae.downsample),
        out_channels=vae.latent_channels,
        model_channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_downsamples=(2,),
        head_channels=8,
        context_dim=16,
        init_attention_heads=0,
        text_tokens=2,
        norm_groups=4,
    )
    # Networks start with many branches at zero; a test of what matters needs them open.
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return CloseUpShotPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        image_encoder=ImageEncoder(28, 14, 16, 1, 2, output_dim=4).eval(),
        image_projector=ImageProjector(16, 16, 16, 1, 2, 8, num_tokens=3, hidden_mult=2).eval(),
        prompt=PromptEmbeddings(2, 16),
        scheduler=NoiseSchedule(),
        sampling={
            **SAMPLING,
            "residual_scale": residual_scale,
            "layers": layers,
            "noise": noise,
            "fill_holes": fill_holes,
            "color_window": color_window,
            "keep_resolved": keep_resolved,
        },
    )


def pictures(frames: int = 3, height: int = 16, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Layered:
    """Conditioning images with the warps of single references."""

    images: torch.Tensor
    layers: Layers


def layered(frames: int = 3, height: int = 16, width: int = 24, seed: int = 0) -> Layered:
    generator = torch.Generator().manual_seed(seed + 100)
    images = torch.rand(frames, 2, 3, height, width, generator=generator)
    masks = torch.rand(frames, 2, height, width, generator=generator) > 0.3
    gates = torch.rand(frames, height, width, generator=generator)
    return Layered(pictures(frames, height, width, seed), Layers(images, masks, gates))
