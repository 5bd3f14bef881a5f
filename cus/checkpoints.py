"""Checkpoints of ViewCrafter and DynamiCrafter: their names and configs <-> ours, and strict loading.

The names and options themselves are tables in `cus.models.lvdm`. A checkpoint whose names or shapes differ from what
its config asks for is refused with the first differences: weights that are close but wrong load without an error
elsewhere and give black pictures.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cus.errors import InputError
from cus.models.attention import zero_module
from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder
from cus.models.lvdm import (
    UNET_FIXED,
    UNET_IGNORED,
    UNET_OPTIONS,
    VIEWCRAFTER_PROJECTOR,
    VIEWCRAFTER_VAE,
    projector_names,
    their_name,
    their_shape,
    unet_names,
    vae_names,
)
from cus.models.projector import ImageProjector
from cus.models.unet import UNet

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
PROJECTOR_PREFIX = "image_proj_model."
IMAGE_ENCODER_PREFIX = "embedder.model.visual."
DEEPSPEED_PREFIX = "_forward_module."


def load_lvdm_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a `.ckpt` (as data only, no code in it is run) or `.safetensors` file into one flat, normalised state dict.

    Raises:
        InputError: the file is missing, cannot be read as tensors, or is not a checkpoint of a known form.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; expected a .ckpt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            checkpoint = load_file(path)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # both readers raise many types for a file that is no checkpoint
        raise InputError(f"cannot read {path} as a checkpoint of plain tensors: {error}") from error
    return normalized_state_dict(checkpoint)


def normalized_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """One form for the forms in which the checkpoints are published.

    Takes a bare state dict, `{"state_dict": ...}` or DeepSpeed's `{"module": ...}`, whose names carry a prefix; gives
    the newer name `fps_embedding` to what older files call `framestride_embed`.

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
        state_dict: a checkpoint in any form `normalized_state_dict` takes; names outside `model.diffusion_model.` are
            left alone.
        config: the `unet_config.params` of its YAML file.

    Raises:
        InputError: an option is unknown or asks for another architecture; a name is missing or unexpected; a shape
            differs.
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
        skip: add the skip convolutions, which no public checkpoint has; they are zero and change nothing.

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


def _assign(model: nn.Module, tensors: Mapping[str, Tensor], modules: Mapping[str, str], prefix: str) -> None:
    """Give the model the checkpoint's tensors; every one must have its place and every place its tensor."""
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    ours = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("skip_convs.")}
    theirs = {name: their_name(name, modules) for name in ours}
    shapes = {theirs[name]: their_shape(name, tensor.shape) for name, tensor in ours.items()}
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
        prefix + their_name(name, modules): tensor.reshape(their_shape(name, tensor.shape))
        for name, tensor in model.state_dict().items()
        if not name.startswith("skip_convs.")
    }
