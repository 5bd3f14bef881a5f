"""Names and options of ViewCrafter's and DynamiCrafter's checkpoints (code base "lvdm") for `cus.models`.

These are tables for both directions: options theirs -> ours, and module paths ours -> theirs.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder, TextEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import Level, Stage, UNet

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
PROJECTOR_PREFIX = "image_proj_model."
IMAGE_ENCODER_PREFIX = "embedder.model.visual."
TEXT_ENCODER_PREFIX = "cond_stage_model.model."
EMA_PREFIX = "model_ema."
# Buffers of their model derived from the noise schedule; `scale_arr` is the dynamic rescale.
SCHEDULE_BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "scale_arr",
)
# Additional tensors that a checkpoint may hold but nothing reads: the rest of the text tower in the image embedder,
# parts of CLIP's loss, constants.
LEFTOVERS = re.compile(
    r"embedder\.(mean|std)"
    r"|embedder\.model\.(positional_embedding|text_projection|logit_scale|attn_mask)"
    r"|embedder\.model\.(token_embedding\.weight|ln_final\.(weight|bias))"
    r"|cond_stage_model\.model\.(logit_scale|attn_mask)"
    r"|logvar|lvlb_weights|scale_factor"
)

# The `unet_config.params` of ViewCrafter's sparse-view model, and its projector's.
VIEWCRAFTER_UNET: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "dropout": 0.1,
    "num_head_channels": 64,
    "transformer_depth": 1,
    "context_dim": 1024,
    "use_linear": True,
    "temporal_conv": True,
    "temporal_attention": True,
    "temporal_selfatt_only": True,
    "use_relative_position": False,
    "use_causal_attention": False,
    "temporal_length": 25,
    "addition_attention": True,
    "image_cross_attention": True,
    "default_fs": 10,
    "fs_condition": True,
}
VIEWCRAFTER_PROJECTOR: dict[str, Any] = {
    "dim": 1024,
    "depth": 4,
    "dim_head": 64,
    "heads": 12,
    "num_queries": 16,
    "embedding_dim": 1280,
    "output_dim": 1024,
    "ff_mult": 4,
    "video_length": 16,
}
VIEWCRAFTER_VAE: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}

# Their option names -> ours.
UNET_OPTIONS = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "model_channels": "model_channels",
    "attention_resolutions": "attention_downsamples",
    "num_res_blocks": "num_res_blocks",
    "channel_mult": "channel_mult",
    "dropout": "dropout",
    "num_head_channels": "head_channels",
    "transformer_depth": "transformer_depth",
    "context_dim": "context_dim",
    "default_fs": "default_fps",
}
# Options with the same value in every public checkpoint, which matches `UNet`.
UNET_FIXED = {
    "use_linear": True,
    "temporal_conv": True,
    "temporal_attention": True,
    "temporal_selfatt_only": True,
    "use_relative_position": False,
    "use_causal_attention": False,
    "image_cross_attention": True,
    "image_cross_attention_scale_learnable": False,
    "fs_condition": True,
}
# Options that do not affect the result.
UNET_IGNORED = {"use_checkpoint", "temporal_length", "addition_attention", "use_fp16"}

RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
    "temporal.norms.0": "temopral_conv.conv1.0",
    "temporal.convs.0": "temopral_conv.conv1.2",
    "temporal.norms.1": "temopral_conv.conv2.0",
    "temporal.convs.1": "temopral_conv.conv2.3",
    "temporal.norms.2": "temopral_conv.conv3.0",
    "temporal.convs.2": "temopral_conv.conv3.3",
    "temporal.norms.3": "temopral_conv.conv4.0",
    "temporal.convs.3": "temopral_conv.conv4.3",
}
TRANSFORMER = {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"}
FEED_FORWARD = {"norm_feed_forward": "norm3", "feed_forward.widen": "ff.net.0.proj", "feed_forward.narrow": "ff.net.2"}
SPACE_BLOCK = FEED_FORWARD | {
    "norm_self": "norm1",
    "self_attention.to_q": "attn1.to_q",
    "self_attention.to_k": "attn1.to_k",
    "self_attention.to_v": "attn1.to_v",
    "self_attention.to_out": "attn1.to_out.0",
    "norm_context": "norm2",
    "context_attention.to_q": "attn2.to_q",
    "context_attention.to_k": "attn2.to_k",
    "context_attention.to_v": "attn2.to_v",
    "context_attention.to_k_image": "attn2.to_k_ip",
    "context_attention.to_v_image": "attn2.to_v_ip",
    "context_attention.to_out": "attn2.to_out.0",
}
TIME_BLOCK = (
    FEED_FORWARD
    | {
        f"{ours}{leaf}": f"{theirs}{their_leaf}"
        for ours, theirs in (("first_attention.", "attn1."), ("second_attention.", "attn2."))
        for leaf, their_leaf in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out", "to_out.0"))
    }
    | {"norm_first": "norm1", "norm_second": "norm2"}
)
VAE_BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
RESAMPLER_LAYER = {
    "norm_tokens": "0.norm1",
    "norm_queries": "0.norm2",
    "to_q": "0.to_q",
    "to_kv": "0.to_kv",
    "to_out": "0.to_out",
    "norm_feed_forward": "1.0",
    "widen": "1.1",
    "narrow": "1.3",
}


def unet_names(unet: UNet) -> dict[str, str]:
    """Module paths of a U-Net, ours -> theirs (without prefix)."""
    names = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "fps_embedding.linear_1": "fps_embedding.0",
        "fps_embedding.linear_2": "fps_embedding.2",
        "conv_in": "input_blocks.0.0",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }
    depth = unet.config["transformer_depth"]

    def transformer(ours: str, theirs: str, block: Mapping[str, str]) -> None:
        names.update(_nested(ours, theirs, TRANSFORMER))
        for i in range(depth):
            names.update(_nested(f"{ours}.blocks.{i}", f"{theirs}.transformer_blocks.{i}", block))

    def stage(ours: str, theirs: str) -> None:
        names.update(_nested(f"{ours}.block", f"{theirs}.0", RES_BLOCK))
        transformer(f"{ours}.space", f"{theirs}.1", SPACE_BLOCK)
        transformer(f"{ours}.time", f"{theirs}.2", TIME_BLOCK)

    transformer("init_attention", "init_attn.0", TIME_BLOCK)
    stage("middle", "middle_block")
    names.update(_nested("middle_block", "middle_block.3", RES_BLOCK))
    index = 1
    for i, level in enumerate(unet.down):
        assert isinstance(level, Level)
        for j in range(len(level.stages)):
            stage(f"down.{i}.stages.{j}", f"input_blocks.{index}")
            index += 1
        if level.resample is not None:
            names[f"down.{i}.resample.conv"] = f"input_blocks.{index}.0.op"
            index += 1
    index = 0
    for i, level in enumerate(unet.up):
        assert isinstance(level, Level)
        for j, ours in enumerate(level.stages):
            assert isinstance(ours, Stage)
            stage(f"up.{i}.stages.{j}", f"output_blocks.{index}")
            if level.resample is not None and j == len(level.stages) - 1:
                after = 1 if ours.space is None else 3
                names[f"up.{i}.resample.conv"] = f"output_blocks.{index}.{after}.conv"
            index += 1
    return names


def vae_names(vae: Autoencoder) -> dict[str, str]:
    """Module paths of an autoencoder, ours -> theirs (without prefix)."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    last = len(vae.config["block_out_channels"]) - 1
    blocks = vae.config["layers_per_block"]
    for part, levels, resample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        names |= {f"{part}.{ours}": f"{part}.{ours}" for ours in ("conv_in", "conv_out")}
        names[f"{part}.conv_norm_out"] = f"{part}.norm_out"
        for i in (0, 1):
            names |= _nested(f"{part}.mid_block.resnets.{i}", f"{part}.mid.block_{i + 1}", VAE_BLOCK)
        names |= _nested(f"{part}.mid_block.attentions.0", f"{part}.mid.attn_1", VAE_ATTENTION)
        for level in range(last + 1):
            # Theirs numbers the decoder's levels like the encoder's, by size; diffusers numbers them in execution
            # order.
            theirs = f"{part}.{levels}.{level}"
            ours = f"{part}.{levels}_blocks.{level if part == 'encoder' else last - level}"
            for j in range(blocks + (part == "decoder")):
                names |= _nested(f"{ours}.resnets.{j}", f"{theirs}.block.{j}", VAE_BLOCK)
            names[f"{ours}.{resample}rs.0.conv"] = f"{theirs}.{resample}.conv"
    return names


def projector_names(projector: ImageProjector) -> dict[str, str]:
    """Module paths of an image projector, ours -> theirs (without prefix); a bare parameter counts as a module."""
    names = {"queries": "latents", "proj_in": "proj_in", "proj_out": "proj_out", "norm_out": "norm_out"}
    for i in range(projector.config["depth"]):
        names.update(_nested(f"layers.{i}", f"layers.{i}", RESAMPLER_LAYER))
    return names


def tower_names(encoder: ImageEncoder | TextEncoder) -> dict[str, str]:
    """Module paths of a CLIP tower, ours -> theirs (without prefix); both match open_clip's."""
    return {name: name.removeprefix("tower.") for name in encoder.state_dict()}


def leftover(name: str) -> bool:
    """Whether a checkpoint may hold this tensor although nothing reads it."""
    return LEFTOVERS.fullmatch(name) is not None


def _nested(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{inner}": f"{theirs}.{their_inner}" for inner, their_inner in names.items()}


def their_name(name: str, modules: Mapping[str, str]) -> str:
    """The checkpoint's name of one of our tensors."""
    if name in modules:
        return modules[name]
    module, leaf = name.rsplit(".", 1)
    return f"{modules[module]}.{leaf}"


def their_shape(name: str, shape: torch.Size) -> tuple[int, ...]:
    """The checkpoint's shape of one of our tensors: some of theirs end in additional axes of length 1."""
    if name.endswith(".weight"):
        if ".temporal.convs." in name or name.startswith("init_attention.proj_"):
            return (*shape, 1)
        if ".attentions." in name and len(shape) == 2:
            return (*shape, 1, 1)
    return tuple(shape)
