"""Recognises files that are not ViewCrafter checkpoints, for the error message."""

from collections.abc import Mapping

from torch import Tensor

from cus.lvdm.names import IMAGE_ENCODER_PREFIX, UNET_PREFIX, VIEWCRAFTER_UNET

# Parts of names that all occur in a kind of file -> its description.
FAMILIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lora_down",), "a LoRA, which changes a model and is none"),
    (("lora_A",), "a LoRA, which changes a model and is none"),
    (("lora.down",), "a LoRA, which changes a model and is none"),
    (("control_model.",), "a ControlNet for Stable Diffusion"),
    (("aggregator.", "camera_head."), "VGGT, which estimates depth and cameras"),
    (("aggregator.", "depth_head."), "VGGT, which estimates depth and cameras"),
    (("backbone.pretrained.", "cam_dec."), "Depth Anything 3, which estimates depth and cameras"),
    (("enc_blocks.", "dec_blocks."), "DUSt3R or MASt3R, which estimate depth and cameras"),
    (("down.0.stages.0.",), "a U-Net of a folder that was converted already"),
    (("down_blocks.0.", "mid_block."), "a network of a diffusers folder (unet, vae), not a whole checkpoint"),
    (("encoder.down_blocks.",), "a network of a diffusers folder (unet, vae), not a whole checkpoint"),
    (("double_blocks.",), "a diffusion transformer"),
    (("transformer_blocks.0.", "patch_embed"), "a diffusion transformer"),
    (("vision_model.", "text_model."), "a CLIP model of transformers"),
    ((UNET_PREFIX, ".time_stack."), "Stable Video Diffusion"),
    ((UNET_PREFIX, ".time_mixer."), "Stable Video Diffusion"),
)


def recognised(tensors: Mapping[str, Tensor]) -> str | None:
    """A description of the file, or None if its names are not recognised."""
    for parts, family in FAMILIES:
        if all(any(part in name for name in tensors) for part in parts):
            return family
    if any(name.startswith(UNET_PREFIX) for name in tensors):
        return _video_unet(tensors)
    if any(name.startswith("visual.transformer.resblocks.") for name in tensors):
        return "a CLIP model of open_clip"
    if IMAGE_ENCODER_PREFIX + "conv1.weight" in tensors:
        return "a checkpoint of the right family without its U-Net"
    return None


def _video_unet(tensors: Mapping[str, Tensor]) -> str | None:
    """Which of the code base's own models this is."""
    unet = {name.removeprefix(UNET_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(UNET_PREFIX)}
    if not any("temopral_conv" in name for name in unet):
        return "Stable Diffusion, or another model of single pictures"
    if not any("to_k_ip" in name for name in unet):
        return "a text-to-video model such as VideoCrafter's, which reads no image"
    if any(name.endswith("attn2.alpha") for name in unet):
        return "DynamiCrafter's 256-pixel model, whose image attention has learned weights"
    first, context = (
        unet.get("input_blocks.0.0.weight"),
        unet.get("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"),
    )
    if first is None or first.ndim != 4:
        return None
    width, channels = first.shape[:2]
    differs = width != VIEWCRAFTER_UNET["model_channels"] or channels != VIEWCRAFTER_UNET["in_channels"]
    if context is not None and context.ndim == 2 and context.shape[1] != VIEWCRAFTER_UNET["context_dim"]:
        differs = True
    if not differs:
        return None
    dim = "" if context is None else f", context_dim {context.shape[-1]}"
    return (
        f"a model of the right family in another size (model_channels {width}, in_channels {channels}{dim}): "
        "give the YAML file it came with by --config"
    )
