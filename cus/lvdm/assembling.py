"""Assembles our networks from the parts of a checkpoint, sharing its tensors; and the inverse."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cus.errors import InputError
from cus.lvdm.names import (
    IMAGE_ENCODER_PREFIX,
    PROJECTOR_PREFIX,
    TEXT_ENCODER_PREFIX,
    UNET_FIXED,
    UNET_IGNORED,
    UNET_OPTIONS,
    UNET_PREFIX,
    VAE_PREFIX,
    VIEWCRAFTER_PROJECTOR,
    VIEWCRAFTER_VAE,
    leftover,
    projector_names,
    their_name,
    their_shape,
    tower_names,
    unet_names,
    vae_names,
)
from cus.lvdm.weight_files import normalized_state_dict
from cus.models.attention import zero_module
from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder, TextEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet

Network = TypeVar("Network", bound=nn.Module)
LISTED = 8
REAL_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Part:
    """A network on the meta device, and the location of its tensors in a checkpoint.

    Attributes:
        network: network of the right sizes, without values.
        names: module paths, ours -> theirs.
        prefix: prefix of all names of the part.
    """

    network: nn.Module
    names: Mapping[str, str]
    prefix: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor required for this part, by its full name in the checkpoint."""
        return {name: their_shape(ours, tensor.shape) for ours, name, tensor in self._entries()}

    def differences(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Missing, unexpected and differently shaped tensors in words; known leftovers are ignored."""
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(self.prefix)}
        wanted = self.shapes()
        found = [f"missing {name} {list(shape)}" for name, shape in wanted.items() if name not in given]
        found += [
            f"unexpected {name} {list(shape)}"
            for name, shape in given.items()
            if name not in wanted and not leftover(name)
        ]
        found += [
            f"{name} is {list(given[name])}, expected {list(shape)}"
            for name, shape in wanted.items()
            if name in given and given[name] != shape
        ]
        found += [
            f"{name} is of type {str(tensors[name].dtype).removeprefix('torch.')}, expected real numbers"
            for name in wanted
            if name in given and tensors[name].dtype not in REAL_TYPES
        ]
        return found

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Assign the checkpoint's tensors, which must match, to the network without copying."""
        filled = {ours: tensors[name].reshape(tensor.shape) for ours, name, tensor in self._entries()}
        self.network.load_state_dict(dict(self.network.state_dict()) | filled, strict=True, assign=True)

    def exported(self) -> dict[str, Tensor]:
        """The network's tensors under the checkpoint's names and in its shapes."""
        return {name: tensor.reshape(their_shape(ours, tensor.shape)) for ours, name, tensor in self._entries()}

    def _entries(self) -> list[tuple[str, str, Tensor]]:
        """Our name, the checkpoint's name, and the tensor, for every tensor that checkpoints contain."""
        return [
            (ours, self.prefix + their_name(ours, self.names), tensor)
            for ours, tensor in self.network.state_dict().items()
            if not ours.startswith("skip_convs.")
        ]


def unet_from_lvdm(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> UNet:
    """The U-Net of a checkpoint, sharing its tensors (on the meta device, too), in evaluation mode.

    Args:
        state_dict: a checkpoint in any form that `normalized_state_dict` accepts; names outside
            `model.diffusion_model.` are ignored.
        config: `unet_config.params` of its YAML file.

    Raises:
        InputError: an option is unknown or requires another architecture; a name is missing or unexpected; or a shape
            differs.
    """
    return _filled(empty_unet(config), normalized_state_dict(state_dict))


def empty_unet(config: Mapping[str, Any]) -> UNet:
    """A U-Net on the meta device for the `unet_config.params` of a YAML file; errors as in `unet_from_lvdm`."""
    _check_options("U-Net", config, set(UNET_OPTIONS), UNET_FIXED, UNET_IGNORED)
    options = {ours: config[theirs] for theirs, ours in UNET_OPTIONS.items()}
    if not config.get("addition_attention", False):
        options["init_attention_heads"] = 0
    with torch.device("meta"):
        return UNet(**options)


def lvdm_from_unet(unet: UNet) -> dict[str, Tensor]:
    """The inverse of `unet_from_lvdm`: tensors under the checkpoint's names, prefix and shapes."""
    return part_of(unet).exported()


def vae_from_lvdm(state_dict: Mapping[str, Any], config: Mapping[str, Any], skip: bool = False) -> Autoencoder:
    """The first-stage autoencoder of a checkpoint (`first_stage_model.`).

    Args:
        state_dict: a checkpoint, as for `unet_from_lvdm`.
        config: `first_stage_config.params.ddconfig` of its YAML file.
        skip: whether to add the skip convolutions, which no public checkpoint has; they are zero and change nothing.

    Raises:
        InputError: as for `unet_from_lvdm`.
    """
    vae, tensors = empty_vae(config, skip), normalized_state_dict(state_dict)
    if vae.skip_convs is not None:
        vae.skip_convs.to_empty(device=next(iter(tensors.values())).device)
        zero_module(vae.skip_convs)
    return _filled(vae, tensors)


def empty_vae(config: Mapping[str, Any], skip: bool = False, scaling_factor: float = 0.18215) -> Autoencoder:
    """An autoencoder on the meta device for the `ddconfig` of a YAML file; errors as in `unet_from_lvdm`."""
    _check_options("autoencoder", config, set(VIEWCRAFTER_VAE), {"double_z": True, "attn_resolutions": []})
    with torch.device("meta"):
        return Autoencoder(
            in_channels=config["in_channels"],
            out_channels=config["out_ch"],
            block_out_channels=[config["ch"] * factor for factor in config["ch_mult"]],
            layers_per_block=config["num_res_blocks"],
            latent_channels=config["z_channels"],
            sample_size=config["resolution"],
            scaling_factor=scaling_factor,
            skip=skip,
        )


def lvdm_from_vae(vae: Autoencoder) -> dict[str, Tensor]:
    """The inverse of `vae_from_lvdm`; skip convolutions, which have no names there, are omitted."""
    return part_of(vae).exported()


def image_encoder_from_lvdm(state_dict: Mapping[str, Any], **sizes: int | float) -> ImageEncoder:
    """The CLIP image tower of a checkpoint (`embedder.model.visual.`), ViT-H-14 unless `sizes` differ.

    Raises:
        InputError: as for `unet_from_lvdm`.
    """
    with torch.device("meta"):
        encoder = ImageEncoder(**sizes)  # pyright: ignore[reportArgumentType]
    return _filled(encoder, normalized_state_dict(state_dict))


def lvdm_from_image_encoder(encoder: ImageEncoder) -> dict[str, Tensor]:
    """The inverse of `image_encoder_from_lvdm`."""
    return part_of(encoder).exported()


def text_encoder_from_lvdm(state_dict: Mapping[str, Any], **sizes: int) -> TextEncoder:
    """The CLIP text tower of a checkpoint (`cond_stage_model.model.`), ViT-H-14 unless `sizes` differ.

    Raises:
        InputError: as for `unet_from_lvdm`.
    """
    with torch.device("meta"):
        encoder = TextEncoder(**sizes)
    filled = _filled(encoder, normalized_state_dict(state_dict))
    filled.reset_mask()
    return filled


def lvdm_from_text_encoder(encoder: TextEncoder) -> dict[str, Tensor]:
    """The inverse of `text_encoder_from_lvdm`."""
    return part_of(encoder).exported()


def image_projector_from_lvdm(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> ImageProjector:
    """The image projector of a checkpoint (`image_proj_model.`); arguments and errors as for `unet_from_lvdm`."""
    return _filled(empty_image_projector(config), normalized_state_dict(state_dict))


def empty_image_projector(config: Mapping[str, Any]) -> ImageProjector:
    """An image projector on the meta device for the `image_proj_stage_config.params` of a YAML file."""
    _check_options("image projector", config, set(VIEWCRAFTER_PROJECTOR), {})
    with torch.device("meta"):
        return ImageProjector(
            token_dim=config["embedding_dim"],
            context_dim=config["output_dim"],
            dim=config["dim"],
            depth=config["depth"],
            heads=config["heads"],
            head_channels=config["dim_head"],
            num_tokens=config["num_queries"] * config["video_length"],
            hidden_mult=config["ff_mult"],
        )


def lvdm_from_image_projector(projector: ImageProjector) -> dict[str, Tensor]:
    """The inverse of `image_projector_from_lvdm`."""
    return part_of(projector).exported()


def part_of(network: nn.Module) -> Part:
    """A network together with its names in a checkpoint."""
    match network:
        case UNet():
            return Part(network, unet_names(network), UNET_PREFIX)
        case Autoencoder():
            return Part(network, vae_names(network), VAE_PREFIX)
        case ImageProjector():
            return Part(network, projector_names(network), PROJECTOR_PREFIX)
        case ImageEncoder():
            return Part(network, tower_names(network), IMAGE_ENCODER_PREFIX)
        case TextEncoder():
            return Part(network, tower_names(network), TEXT_ENCODER_PREFIX)
    raise ValueError(f"a {type(network).__name__} has no names in a checkpoint")


def refuse(differences: Collection[str], hint: str = "Check that checkpoint and config belong together.") -> None:
    """Raise InputError with the first differences, if there are any, and a remedy."""
    if differences:
        listed = "\n  ".join(list(differences)[:LISTED])
        raise InputError(
            f"the checkpoint does not fit its config: {len(differences)} differences, the first are\n  {listed}\n{hint}"
        )


def _filled(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """Fill the network with the checkpoint's tensors; the names must match exactly."""
    part = part_of(network)
    refuse(part.differences(tensors))
    part.fill(tensors)
    return network.eval()


def _check_options(
    what: str, config: Mapping[str, Any], known: set[str], fixed: Mapping[str, Any], ignored: Collection[str] = ()
) -> None:
    """Refuse a config with unknown, missing or unsupported options."""
    unknown = sorted(set(config) - known - set(fixed) - set(ignored))
    missing = sorted(known - set(fixed) - set(config))
    if unknown or missing:
        raise InputError(f"{what} config: unknown options {unknown}, missing options {missing}")
    for option, value in fixed.items():
        if config.get(option, value) != value:
            raise InputError(f"{what} config: {option} is {config[option]!r}; only {value!r} is supported")
