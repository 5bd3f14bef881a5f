"""Checkpoints of ViewCrafter and DynamiCrafter: their names and configs <-> ours, and strict loading.

Their code base is called "lvdm"; its names and options are tables in `cus.lvdm.names`. A checkpoint whose names or
shapes do not match its config is refused with the first differences: elsewhere, weights that are similar but wrong load
without an error and give black pictures.
"""

from cus.lvdm.assembling import (
    image_encoder_from_lvdm,
    image_projector_from_lvdm,
    lvdm_from_image_encoder,
    lvdm_from_image_projector,
    lvdm_from_text_encoder,
    lvdm_from_unet,
    lvdm_from_vae,
    text_encoder_from_lvdm,
    unet_from_lvdm,
    vae_from_lvdm,
)
from cus.lvdm.config import LVDMConfig
from cus.lvdm.conversion import ConversionOptions, Converted, convert_checkpoint
from cus.lvdm.export import export_checkpoint
from cus.lvdm.weight_files import load_lvdm_checkpoint, normalized_state_dict

__all__ = [
    "ConversionOptions",
    "Converted",
    "LVDMConfig",
    "convert_checkpoint",
    "export_checkpoint",
    "image_encoder_from_lvdm",
    "image_projector_from_lvdm",
    "load_lvdm_checkpoint",
    "lvdm_from_image_encoder",
    "lvdm_from_image_projector",
    "lvdm_from_text_encoder",
    "lvdm_from_unet",
    "lvdm_from_vae",
    "normalized_state_dict",
    "text_encoder_from_lvdm",
    "unet_from_lvdm",
    "vae_from_lvdm",
]
