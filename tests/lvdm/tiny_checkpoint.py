"""A whole checkpoint in ViewCrafter's layout, a few megabytes large: every kind of tensor of the real one, no sense."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cus.diffusion.schedule import NoiseSchedule
from cus.lvdm.assembling import empty_image_projector, empty_unet, empty_vae, part_of
from cus.lvdm.config import LVDMConfig, schedule_buffers
from cus.lvdm.names import VIEWCRAFTER_PROJECTOR, VIEWCRAFTER_UNET, VIEWCRAFTER_VAE
from cus.models.clip import ImageEncoder, TextEncoder
from tests.golden.weights import tensor as value

FRAMES, SIZE = 5, 128
EMBEDDERS = ("cond_stage_model", "embedder")
# The U-Net keeps the four levels, the attention and the options of the real one; only widths and depth differ.
UNET = VIEWCRAFTER_UNET | {
    "model_channels": 32,
    "channel_mult": [1, 1, 2, 2],
    "num_head_channels": 32,
    "context_dim": 32,
    "num_res_blocks": 1,
}
VAE = VIEWCRAFTER_VAE | {"ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "resolution": SIZE}
PROJECTOR = VIEWCRAFTER_PROJECTOR | {
    "dim": 32,
    "depth": 2,
    "dim_head": 16,
    "heads": 2,
    "num_queries": 4,
    "embedding_dim": 64,
    "output_dim": 32,
    "video_length": 4,
}
IMAGE_TOWER = {"image_size": 56, "patch_size": 14, "width": 64, "layers": 2, "heads": 1, "output_dim": 32}
TEXT_TOWER = {"width": 32, "layers": 3, "heads": 1, "output_dim": 32}


def yaml_config() -> dict[str, Any]:
    """The YAML file that would come with it."""
    return {
        "model": {
            "target": "lvdm.models.ddpm3d.VIPLatentDiffusion",
            "params": {
                "rescale_betas_zero_snr": True,
                "parameterization": "v",
                "linear_start": 0.00085,
                "linear_end": 0.012,
                "timesteps": 1000,
                "image_size": [SIZE // 8, SIZE // 8],
                "scale_factor": 0.18215,
                "use_dynamic_rescale": True,
                "base_scale": 0.3,
                "unet_config": {"params": UNET},
                "first_stage_config": {"params": {"embed_dim": 4, "ddconfig": VAE}},
                "image_proj_stage_config": {"params": PROJECTOR},
            },
        }
    }


def networks() -> list[nn.Module]:
    """U-Net, autoencoder, projector and both towers, on the meta device."""
    with torch.device("meta"):
        towers = [ImageEncoder(**IMAGE_TOWER), TextEncoder(**TEXT_TOWER)]
    return [empty_unet(UNET), empty_vae(VAE), empty_image_projector(PROJECTOR), *towers]


def tiny_tensors(dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The checkpoint's tensors: each has its values from its name."""
    shapes = {name: shape for network in networks() for name, shape in part_of(network).shapes().items()}
    # What is left of CLIP in the two embedders beside the towers that are read.
    shapes |= {
        "embedder.model.positional_embedding": (77, 32),
        "embedder.model.text_projection": (32, 32),
        "embedder.model.token_embedding.weight": (64, 32),
        "embedder.model.ln_final.weight": (32,),
        "embedder.model.ln_final.bias": (32,),
    }
    weights = {name: value(name, shape).to(dtype) for name, shape in shapes.items()}
    scales = {f"{embedder}.model.logit_scale": torch.tensor(4.6, dtype=dtype) for embedder in EMBEDDERS}
    return weights | scales | schedule_buffers(NoiseSchedule())


def write_tiny_checkpoint(folder: Path, dtype: torch.dtype = torch.float16) -> tuple[Path, Path]:
    """Write `model.ckpt` and `config.yaml`; returns their paths."""
    checkpoint, config = folder / "model.ckpt", folder / "config.yaml"
    torch.save({"state_dict": tiny_tensors(dtype), "global_step": 0}, checkpoint)
    OmegaConf.save(OmegaConf.create(yaml_config()), config)
    LVDMConfig.read(config)
    return checkpoint, config
