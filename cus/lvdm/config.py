"""The configuration of a checkpoint of the "lvdm" family: ViewCrafter's sizes, or those of its YAML file; and its noise
schedule: tables derived from alpha_bar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError

from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError
from cus.lvdm.names import (
    IMAGE_ENCODER_PREFIX,
    TEXT_ENCODER_PREFIX,
    VIEWCRAFTER_PROJECTOR,
    VIEWCRAFTER_UNET,
    VIEWCRAFTER_VAE,
)

# Width of an attention head for open_clip models with other than 64: ViT-H-14, ViT-g-14, ViT-bigG-14.
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
# Tolerance for two tables to be equal up to rounding in the checkpoint's precision; values are in [0, 1].
TOLERANCES = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
TABLES = ("alphas_cumprod", "scale_arr")


@dataclass(frozen=True)
class LVDMConfig:
    """Sizes and noise schedule of a checkpoint; the defaults are ViewCrafter's sparse-view model.

    Attributes:
        unet: `unet_config.params` of its YAML file.
        vae: `first_stage_config.params.ddconfig` of its YAML file.
        projector: `image_proj_stage_config.params` of its YAML file.
        schedule: arguments of `NoiseSchedule`.
        scaling_factor: scale of the latents.
        height: frame height of the training in pixels.
        width: frame width of the training in pixels.
        any_towers: whether to take the sizes of the CLIP towers from their tensors; else they are ViT-H-14.
    """

    unet: Mapping[str, Any] = field(default_factory=lambda: VIEWCRAFTER_UNET)
    vae: Mapping[str, Any] = field(default_factory=lambda: VIEWCRAFTER_VAE)
    projector: Mapping[str, Any] = field(default_factory=lambda: VIEWCRAFTER_PROJECTOR)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    scaling_factor: float = 0.18215
    height: int = 576
    width: int = 1024
    any_towers: bool = False

    @classmethod
    def read(cls, path: str | Path) -> "LVDMConfig":
        """Read the config from a YAML file of ViewCrafter or DynamiCrafter; missing values take their defaults.

        Raises:
            InputError: the file cannot be read, lacks a section, or describes another kind of model.
        """
        path = Path(path)
        try:
            loaded: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"cannot read the config {path}: {error}") from error
        params = _section(loaded, "model.params", path)
        unet = _section(params, "unet_config.params", path)
        vae = _section(params, "first_stage_config.params.ddconfig", path)
        projector = _section(params, "image_proj_stage_config.params", path)
        if params.get("parameterization", "eps") != "v":
            raise InputError(
                f"{path}: parameterization is {params.get('parameterization', 'eps')!r}; only 'v' is supported"
            )
        try:
            schedule = _schedule(params)
            NoiseSchedule(**schedule)
            factor = 2 ** (len(vae["ch_mult"]) - 1)
            size = params.get("image_size", 256)
            height, width = (factor * int(side) for side in (size if isinstance(size, list) else (size, size)))
            scaling = float(params.get("scale_factor", 1.0))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: cannot make sense of its schedule and sizes: {error}") from error
        return cls(unet, vae, projector, schedule, scaling, height, width, any_towers=True)


def _section(config: Any, path: str, file: Path) -> dict[str, Any]:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    if not isinstance(config, dict):
        raise InputError(
            f"{file} has no section {path}; expected a config such as ViewCrafter's inference_pvd_1024.yaml"
        )
    return config


def _schedule(params: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `NoiseSchedule` for the options of a YAML file, with defaults as in their code."""
    return {
        "num_timesteps": int(params.get("timesteps", 1000)),
        "beta_start": float(params.get("linear_start", 1e-4)),
        "beta_end": float(params.get("linear_end", 2e-2)),
        "zero_terminal_snr": bool(params.get("rescale_betas_zero_snr", False)),
        "rescale_base": float(params.get("base_scale", 0.7)) if params.get("use_dynamic_rescale", False) else 1.0,
        "rescale_steps": int(params.get("turning_step", 400)),
    }


def image_encoder_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `ImageEncoder` according to a checkpoint's shapes; empty if these tensors are missing."""
    told = [
        tensors.get(f"{IMAGE_ENCODER_PREFIX}{name}")
        for name in ("conv1.weight", "positional_embedding", "proj", "transformer.resblocks.0.mlp.c_fc.weight")
    ]
    patches, positions, projection, widen = told
    if patches is None or positions is None or projection is None or widen is None:
        return {}
    width, patch = patches.shape[0], patches.shape[-1]
    return {
        "image_size": patch * round((positions.shape[0] - 1) ** 0.5),
        "patch_size": patch,
        "width": width,
        "layers": _layers(tensors, IMAGE_ENCODER_PREFIX),
        "heads": _heads(width),
        "mlp_ratio": widen.shape[0] / width,
        "output_dim": projection.shape[-1],
    }


def text_encoder_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `TextEncoder`, like `image_encoder_sizes`."""
    told = [
        tensors.get(f"{TEXT_ENCODER_PREFIX}{name}")
        for name in ("token_embedding.weight", "positional_embedding", "text_projection")
    ]
    tokens, positions, projection = told
    layers = _layers(tensors, TEXT_ENCODER_PREFIX)
    if tokens is None or positions is None or projection is None or layers < 2:
        return {}
    return {
        "context_length": positions.shape[0],
        "vocab_size": tokens.shape[0],
        "width": tokens.shape[1],
        "layers": layers,
        "heads": _heads(tokens.shape[1]),
        "output_dim": projection.shape[-1],
    }


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    start = f"{prefix}transformer.resblocks."
    return 1 + max((int(name[len(start) :].split(".")[0]) for name in tensors if name.startswith(start)), default=-1)


def _heads(width: int) -> int:
    return max(1, width // HEAD_WIDTHS.get(width, 64))


def schedule_buffers(schedule: NoiseSchedule) -> dict[str, Tensor]:
    """The buffers of their model for this schedule, float32 (its `register_schedule`, v-prediction)."""
    alpha_bar = schedule.alpha_bar
    previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    alphas = alpha_bar / previous
    betas = 1 - alphas
    variance = betas * (1 - previous) / (1 - alpha_bar)
    # Theirs appends a whole schedule of the last value to the falling part; entries after the last step are not read.
    falling = schedule.rescale[: schedule.config["rescale_steps"]]
    tables = {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": alpha_bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alpha_bar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alpha_bar).log(),
        # Theirs are zero with v-prediction: at zero terminal SNR the last would be infinite.
        "sqrt_recip_alphas_cumprod": torch.zeros_like(alpha_bar),
        "sqrt_recipm1_alphas_cumprod": torch.zeros_like(alpha_bar),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - alpha_bar),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - alpha_bar),
    }
    if schedule.config["rescale_base"] != 1:
        tables["scale_arr"] = torch.cat([falling, torch.full_like(alpha_bar, schedule.config["rescale_base"])])
    return {name: table.float() for name, table in tables.items()}


def schedule_differences(tensors: Mapping[str, Tensor], schedule: NoiseSchedule) -> list[str]:
    """Differences in noise levels and dynamic rescale between a checkpoint and a schedule, in words.

    Missing tables are not compared: only these two of the buffers are independent.
    """
    ours = {"alphas_cumprod": schedule.alpha_bar, "scale_arr": schedule.rescale}
    found = []
    for name in TABLES:
        theirs = tensors.get(name)
        if theirs is None or theirs.is_meta:
            continue
        steps = schedule.num_timesteps
        if theirs.ndim != 1 or len(theirs) < steps or (name == "alphas_cumprod" and len(theirs) != steps):
            found.append(f"{name} is {list(theirs.shape)}, expected {steps} steps")
            continue
        off = (theirs[:steps].double() - ours[name]).abs()
        # Not "greater than", so that NaN differs, too.
        if not bool((off <= TOLERANCES.get(theirs.dtype, 1e-5)).all()):
            worst = int(off.nan_to_num(torch.inf).argmax())
            found.append(
                f"{name} is {float(theirs[worst]):.4f} at step {worst}, expected {float(ours[name][worst]):.4f}"
            )
    if "scale_arr" not in tensors and "alphas_cumprod" in tensors and schedule.config["rescale_base"] != 1:
        found.append(f"missing scale_arr: no dynamic rescale, expected one to {schedule.config['rescale_base']}")
    return found
