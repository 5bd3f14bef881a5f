"""Checkpoints of ViewCrafter and DynamiCrafter: their names and configs <-> ours, and strict loading.

Every name correspondence is data (module paths, ours -> theirs) that runs both ways. A checkpoint whose names or shapes differ
from what its config asks for is refused with the first differences: weights that are close but wrong load without an error
elsewhere and give black pictures.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cus.errors import InputError
from cus.models.attention import zero_module
from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
PROJECTOR_PREFIX = "image_proj_model."
IMAGE_ENCODER_PREFIX = "embedder.model.visual."
DEEPSPEED_PREFIX = "_forward_module."

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

# Their option -> ours.
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
# Options of theirs with one value in every public checkpoint, which is the architecture `UNet` has.
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
# Options that change no value of the result.
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


def load_lvdm_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a `.ckpt` (as data only, no code in it is run) or `.safetensors` file into one flat, normalised state dict.

    Raises:
        InputError: the file is missing, cannot be read as tensors, or is not a checkpoint of a known form.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; expected a .ckpt or .safetensors file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return normalized_state_dict(load_file(path))
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for a file that is no checkpoint
        raise InputError(f"cannot read {path} as a checkpoint of plain tensors: {error}") from error
    return normalized_state_dict(checkpoint)


def normalized_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """One form for the forms in which the checkpoints are published.

    Takes a bare state dict, `{"state_dict": ...}` or DeepSpeed's `{"module": ...}`, whose keys carry `_forward_module.`; and
    gives the newer name `fps_embedding` to what older files call `framestride_embed`.

    Raises:
        InputError: there are no tensors, or a DeepSpeed key lacks the prefix.
    """
    if isinstance(checkpoint.get("module"), Mapping):
        tensors = checkpoint["module"]
        odd = [name for name in tensors if not name.startswith(DEEPSPEED_PREFIX)]
        if odd:
            raise InputError(
                f"DeepSpeed checkpoint: {odd[0]!r} does not start with {DEEPSPEED_PREFIX!r}, as every name should"
            )
        tensors = {name.removeprefix(DEEPSPEED_PREFIX): tensor for name, tensor in tensors.items()}
    else:
        tensors = checkpoint.get("state_dict", checkpoint)
    tensors = {
        name.replace("framestride_embed.", "fps_embedding."): tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
    }
    if not tensors:
        raise InputError(f"no tensors in the checkpoint; its top-level keys are {sorted(map(str, checkpoint))[:8]}")
    return tensors


def unet_from_lvdm(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> UNet:
    """The U-Net of a checkpoint, holding the checkpoint's own tensors (on the meta device too), in evaluation mode.

    Args:
        state_dict: a checkpoint in any form `normalized_state_dict` takes; names outside `model.diffusion_model.` are left alone.
        config: the `unet_config.params` of its YAML file.

    Raises:
        InputError: an option is unknown or asks for another architecture; a name is missing or unexpected; a shape differs.
    """
    options = _unet_options(config)
    with torch.device("meta"):
        unet = UNet(**options)
    _assign(unet, normalized_state_dict(state_dict), unet_names(unet), UNET_PREFIX)
    return unet.eval()


def lvdm_from_unet(unet: UNet) -> dict[str, Tensor]:
    """The inverse of `unet_from_lvdm`: tensors under the checkpoint's names, prefix and shapes."""
    return _exported(unet, unet_names(unet), UNET_PREFIX)


def vae_from_lvdm(state_dict: Mapping[str, Any], config: Mapping[str, Any], skip: bool = False) -> Autoencoder:
    """The first-stage autoencoder of a checkpoint (`first_stage_model.`).

    Args:
        state_dict: as in `unet_from_lvdm`.
        config: the `first_stage_config.params.ddconfig` of its YAML file.
        skip: add the skip convolutions, which no public checkpoint has; they are zero, so that the function is the same.

    Raises:
        InputError: as in `unet_from_lvdm`.
    """
    _check_options("autoencoder", config, set(VIEWCRAFTER_VAE), {"double_z": True, "attn_resolutions": []})
    with torch.device("meta"):
        vae = Autoencoder(
            in_channels=config["in_channels"],
            out_channels=config["out_ch"],
            block_out_channels=[config["ch"] * factor for factor in config["ch_mult"]],
            layers_per_block=config["num_res_blocks"],
            latent_channels=config["z_channels"],
            sample_size=config["resolution"],
            skip=skip,
        )
    tensors = normalized_state_dict(state_dict)
    if vae.skip_convs is not None:
        vae.skip_convs.to_empty(device=next(iter(tensors.values())).device)
        zero_module(vae.skip_convs)
    _assign(vae, tensors, vae_names(vae), VAE_PREFIX)
    return vae.eval()


def lvdm_from_vae(vae: Autoencoder) -> dict[str, Tensor]:
    """The inverse of `vae_from_lvdm`; skip convolutions, for which there are no names, are left out."""
    return _exported(vae, vae_names(vae), VAE_PREFIX)


def image_encoder_from_lvdm(state_dict: Mapping[str, Any], **sizes: int | float) -> ImageEncoder:
    """The CLIP image tower of a checkpoint (`embedder.model.visual.`), ViT-H-14 unless `sizes` say otherwise.

    Raises:
        InputError: as in `unet_from_lvdm`.
    """
    with torch.device("meta"):
        encoder = ImageEncoder(**sizes)  # pyright: ignore[reportArgumentType]
    names = {name: name.removeprefix("tower.") for name in encoder.state_dict()}
    _assign(encoder, normalized_state_dict(state_dict), names, IMAGE_ENCODER_PREFIX)
    return encoder.eval()


def image_projector_from_lvdm(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> ImageProjector:
    """The image projector of a checkpoint (`image_proj_model.`); arguments and errors as in `unet_from_lvdm`."""
    _check_options("image projector", config, set(VIEWCRAFTER_PROJECTOR), {})
    with torch.device("meta"):
        projector = ImageProjector(
            token_dim=config["embedding_dim"],
            context_dim=config["output_dim"],
            dim=config["dim"],
            depth=config["depth"],
            heads=config["heads"],
            head_channels=config["dim_head"],
            num_tokens=config["num_queries"] * config["video_length"],
            hidden_mult=config["ff_mult"],
        )
    _assign(projector, normalized_state_dict(state_dict), projector_names(projector), PROJECTOR_PREFIX)
    return projector.eval()


def lvdm_from_image_projector(projector: ImageProjector) -> dict[str, Tensor]:
    """The inverse of `image_projector_from_lvdm`."""
    return _exported(projector, projector_names(projector), PROJECTOR_PREFIX)


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
    depth = unet.config.transformer_depth

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
        for j in range(len(level.stages)):
            stage(f"down.{i}.stages.{j}", f"input_blocks.{index}")
            index += 1
        if level.resample is not None:
            names[f"down.{i}.resample.conv"] = f"input_blocks.{index}.0.op"
            index += 1
    index = 0
    for i, level in enumerate(unet.up):
        for j, ours in enumerate(level.stages):
            stage(f"up.{i}.stages.{j}", f"output_blocks.{index}")
            if level.resample is not None and j == len(level.stages) - 1:
                after = 1 if ours.space is None else 3
                names[f"up.{i}.resample.conv"] = f"output_blocks.{index}.{after}.conv"
            index += 1
    return names


def projector_names(projector: ImageProjector) -> dict[str, str]:
    """Module paths of an image projector, ours -> theirs (without prefix); a bare parameter counts as a module."""
    names = {"queries": "latents", "proj_in": "proj_in", "proj_out": "proj_out", "norm_out": "norm_out"}
    for i in range(projector.config.depth):
        names.update(_nested(f"layers.{i}", f"layers.{i}", RESAMPLER_LAYER))
    return names


def vae_names(vae: Autoencoder) -> dict[str, str]:
    """Module paths of an autoencoder, ours -> theirs (without prefix)."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    last = len(vae.config.block_out_channels) - 1
    blocks = vae.config.layers_per_block
    for part, levels, resample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        names |= {f"{part}.{ours}": f"{part}.{ours}" for ours in ("conv_in", "conv_out")}
        names[f"{part}.conv_norm_out"] = f"{part}.norm_out"
        for i in (0, 1):
            names |= _nested(f"{part}.mid_block.resnets.{i}", f"{part}.mid.block_{i + 1}", VAE_BLOCK)
        names |= _nested(f"{part}.mid_block.attentions.0", f"{part}.mid.attn_1", VAE_ATTENTION)
        for level in range(last + 1):
            # Theirs numbers the decoder's levels as the encoder's, by size; diffusers in the order they run.
            theirs = f"{part}.{levels}.{level}"
            ours = f"{part}.{levels}_blocks.{level if part == 'encoder' else last - level}"
            for j in range(blocks + (part == "decoder")):
                names |= _nested(f"{ours}.resnets.{j}", f"{theirs}.block.{j}", VAE_BLOCK)
            names[f"{ours}.{resample}rs.0.conv"] = f"{theirs}.{resample}.conv"
    return names


def _check_options(
    what: str, config: Mapping[str, Any], known: set[str], fixed: Mapping[str, Any], ignored: Collection[str] = ()
) -> None:
    """Refuse a config with options unknown, missing or fixed at another value."""
    unknown = sorted(set(config) - known - set(fixed) - set(ignored))
    missing = sorted(known - set(fixed) - set(config))
    if unknown or missing:
        raise InputError(f"{what} config: unknown options {unknown}, missing options {missing}")
    for option, value in fixed.items():
        if config.get(option, value) != value:
            raise InputError(f"{what} config: {option} is {config[option]!r}; only {value!r} is supported")


def _unet_options(config: Mapping[str, Any]) -> dict[str, Any]:
    _check_options("U-Net", config, set(UNET_OPTIONS), UNET_FIXED, UNET_IGNORED)
    options = {ours: config[theirs] for theirs, ours in UNET_OPTIONS.items()}
    if not config.get("addition_attention", False):
        options["init_attention_heads"] = 0
    return options


def _nested(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{inner}": f"{theirs}.{their_inner}" for inner, their_inner in names.items()}


def _their_name(name: str, modules: Mapping[str, str]) -> str:
    """The checkpoint's name of one of our tensors."""
    if name in modules:
        return modules[name]
    module, leaf = name.rsplit(".", 1)
    return f"{modules[module]}.{leaf}"


def _their_shape(name: str, shape: torch.Size) -> tuple[int, ...]:
    """The checkpoint's shape of one of our tensors: some of theirs end in kernel axes of length 1 that ours do without."""
    if name.endswith(".weight"):
        if ".temporal.convs." in name or name.startswith("init_attention.proj_"):
            return (*shape, 1)
        if ".attentions." in name and len(shape) == 2:
            return (*shape, 1, 1)
    return tuple(shape)


def _assign(model: nn.Module, tensors: Mapping[str, Tensor], modules: Mapping[str, str], prefix: str) -> None:
    """Give the model the checkpoint's tensors; every one must have its place and every place its tensor."""
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    ours = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("skip_convs.")}
    theirs = {name: _their_name(name, modules) for name in ours}
    shapes = {theirs[name]: _their_shape(name, tensor.shape) for name, tensor in ours.items()}
    problems = [f"missing {prefix}{name} {list(shape)}" for name, shape in shapes.items() if name not in given]
    problems += [f"unexpected {prefix}{name} {list(given[name].shape)}" for name in given if name not in shapes]
    problems += [
        f"{prefix}{name} is {list(given[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    if problems:
        listed = "\n  ".join(problems[:8])
        raise InputError(
            f"the checkpoint does not fit its config: {len(problems)} differences, the first are\n  {listed}\n"
            "Check that checkpoint and config belong together."
        )
    filled = {name: given[theirs[name]].reshape(ours[name].shape) for name in ours}
    model.load_state_dict(dict(model.state_dict()) | filled, strict=True, assign=True)


def _exported(model: nn.Module, modules: Mapping[str, str], prefix: str) -> dict[str, Tensor]:
    return {
        prefix + _their_name(name, modules): tensor.reshape(_their_shape(name, tensor.shape))
        for name, tensor in model.state_dict().items()
        if not name.startswith("skip_convs.")
    }
