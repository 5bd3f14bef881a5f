"""Finds, identifies and loads checkpoints, and plans how they use a device's memory."""

from typing import Any

import torch
from diffusers.utils import logging

from cus.choices import Memory
from cus.diffusion.lora import check_lora, find_lora, load_lora, require_peft
from cus.diffusion.memory import Choice, Clip, choose_plan, skeleton
from cus.diffusion.parts import check_parts
from cus.diffusion.pipeline import CloseUpShotPipeline
from cus.diffusion.sampling import PLANS, MemoryPlan
from cus.hub.fetch import OnFetched
from cus.hub.stored import SHIPPED, StoredLora, StoredModel, explained, open_model


def find_model(source: str, variant: str | None = None) -> StoredModel:
    """Find a checkpoint without reading its weights. Raises InputError if there is none."""
    model = open_model(source)
    if model.hub is None:
        # Problems of a local folder can be found now; a Hub model's weights are not fetched for this.
        check_parts(model, model.complete(variant), variant)
    return model


def find_fitting_lora(source: str, model: StoredModel) -> StoredLora:
    """Find a LoRA and check that it fits a checkpoint, before reading that checkpoint's weights.

    Raises:
        InputError: there is no such LoRA, or it belongs to another network.
    """
    require_peft()
    lora = find_lora(source)
    check_lora(skeleton(model).unet, lora, model.source)
    return lora


def model_identity(model: StoredModel) -> list[Any]:
    """What identifies a model's weights: a commit of the Hub, or a folder's files with their sizes and times."""
    if model.hub is not None or model.source in SHIPPED:
        return [model.name]
    files = sorted(path for path in model.folder.rglob("*") if path.suffix in (".json", ".safetensors"))
    stats = [(path.relative_to(model.folder).as_posix(), path.stat()) for path in files]
    return [model.name, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]


def load_model(
    model: str | StoredModel,
    device: torch.device,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    plan: MemoryPlan | None = None,
    on_fetched: OnFetched | None = None,
    lora: StoredLora | None = None,
) -> CloseUpShotPipeline:
    """Load a checkpoint, with a LoRA if given, onto a device without output, weights in `dtype`.

    Raises:
        InputError: it cannot be loaded.
    """
    # The library's own progress bar would break into the stages' bars.
    logging.disable_progress_bar()
    # Its warnings concern configuration defaults; `from_pretrained` refuses faulty weights.
    logging.set_verbosity_error()
    pipeline = CloseUpShotPipeline.from_pretrained(model, variant=variant, on_fetched=on_fetched, dtype=dtype)
    if lora is not None:
        load_lora(pipeline.unet, lora, model=str(model if isinstance(model, str) else model.source))
    return pipeline.use(plan or PLANS["middle"], device)


def plan_memory(
    model: StoredModel, clip: Clip, device: torch.device, dtype: torch.dtype, memory: Memory = "auto"
) -> Choice:
    """Choose how the network uses memory, from the checkpoint's configurations only.

    Raises:
        InputError: the frames do not fit into the device's memory; the message says what would.
    """
    networks = skeleton(model, dtype)
    with explained(model.source):
        return choose_plan(networks, clip, device, memory)
