"""Diffusion models as priors of super-resolution. A new one is a file here and a line in `PRIORS`."""

from pathlib import Path

import torch

from cus.errors import InputError
from cus.files import read_json
from cus.hub.errors import INDEX
from cus.refinement.priors.pipeline import PipelinePrior
from cus.refinement.priors.prior import CriticOptions, Prior, PriorView, Shown
from cus.refinement.priors.upscaler import HUB_ID, UpscalerPrior

NONE = "none"
PRIORS: dict[str, type[Prior]] = {
    "CloseUpShotPipeline": PipelinePrior,
    "StableDiffusionUpscalePipeline": UpscalerPrior,
}
"""Priors by the class of their pipeline, as `model_index.json` gives it."""
SHORT = {"sd-x4": HUB_ID}
"""Short names of models of the Hub."""


def prior_class(source: str) -> type[Prior] | None:
    """The class of a prior: "none", "mini", "sd-x4", a folder, or a Hub id; None for none. Reads no weights.

    Raises:
        InputError: a folder of another kind.
    """
    if source == NONE:
        return None
    if SHORT.get(source, source) == HUB_ID:
        return UpscalerPrior
    index = Path(source) / INDEX
    if not index.is_file():
        return PipelinePrior  # its own errors say what is missing
    kind = read_json(index, "get the model again").get("_class_name")
    if kind not in PRIORS:
        raise InputError(f"{source} holds a {kind}, which is no prior; expected one of {', '.join(PRIORS)}")
    return PRIORS[kind]


def open_prior(
    source: str,
    factor: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    critic: CriticOptions | None = None,
    lora: str | None = None,
) -> Prior | None:
    """Load a prior; None for "none".

    Args:
        source: "none", "mini", "sd-x4", a folder, or a Hub id.
        factor: factor by which photographs are enlarged.
        device: device to compute on.
        dtype: precision of the networks.
        critic: options of the critic of VSD.
        lora: LoRA for a checkpoint of ours: a file, a folder, a run, or a Hub id.

    Raises:
        InputError: no such model, no weights, or a prior that does not enlarge by the factor.
    """
    kind = prior_class(source)
    if kind is None:
        if lora is not None:
            raise InputError("a LoRA changes a prior, and there is none; name one with --model")
        return None
    if kind.factor not in (None, factor):
        raise InputError(f"{source} enlarges {kind.factor} times, not {factor}; use --factor {kind.factor}")
    return kind.open(SHORT.get(source, source), device, dtype, critic or CriticOptions(), lora)


__all__ = [
    "NONE",
    "PRIORS",
    "CriticOptions",
    "PipelinePrior",
    "Prior",
    "PriorView",
    "Shown",
    "open_prior",
    "prior_class",
]
