"""A pipeline of tiny random networks, and pictures for it."""

import torch

from cus.diffusion import CloseUpShotPipeline, NoiseSchedule, PromptEmbeddings
from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet

SAMPLING = {"steps": 2, "guidance": 1.0, "guidance_rescale": 0.0, "eta": 0.0, "frames": 4, "width": 24, "height": 16}


def tiny_pipeline(residual_scale: float = 0.0, skip: bool = False) -> CloseUpShotPipeline:
    torch.manual_seed(0)
    unet = UNet(
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
    vae = Autoencoder(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False, skip=skip
    )
    return CloseUpShotPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        image_encoder=ImageEncoder(28, 14, 16, 1, 2, output_dim=4).eval(),
        image_projector=ImageProjector(16, 16, 16, 1, 2, 8, num_tokens=3, hidden_mult=2).eval(),
        prompt=PromptEmbeddings(2, 16),
        scheduler=NoiseSchedule(),
        sampling={**SAMPLING, "residual_scale": residual_scale},
    )


def pictures(frames: int = 3, height: int = 16, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))
