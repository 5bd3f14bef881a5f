"""Clips encoded once for training; data/cache_latents.py is their command."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import MISSING

from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.latents import cache_generated, cache_latents
from cus.training.scripts import REMEDY
from cus.training.vae import read_autoencoder


@dataclass
class Caches:
    """What to encode.

    Attributes:
        clips: folder of clips.
        out: folder of the caches.
        vae: folder of the autoencoder (or give `pipeline`).
        pipeline: pipeline whose generated latents are stored: a folder or Hub id.
        reference_size: side of the square that the image tower sees.
        device: torch device.
        bf16: autocast to bfloat16.
        part: this process's share, 0 .. parts - 1.
        parts: number of processes.
    """

    clips: str = MISSING
    out: str = MISSING
    vae: str = ""
    pipeline: str = ""
    reference_size: int = limited(224, low=14, high=2048)
    device: str = "cpu"
    bf16: bool = False
    part: int = limited(0, low=0)
    parts: int = limited(1, low=1)


def build(settings: Caches, on_progress: Callable[[int, int], None]) -> None:
    """Make the caches that are missing. Raises InputError."""
    if bool(settings.vae) == bool(settings.pipeline):
        raise InputError("give either vae= (a folder with an autoencoder) or pipeline= (to store generated latents)")
    if settings.part >= settings.parts:
        raise InputError(f"part must be less than parts ({settings.parts}), got {settings.part}")
    clips, share = Path(settings.clips), (settings.part, settings.parts)
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise InputError(f"device={settings.device} is no device of torch: cpu, cuda, cuda:1, ...") from error
    folder = OutputFolder(Path(settings.out), "a cache of latents", REMEDY)
    folder.open(("settings.yaml", "*.safetensors"), share=f"-{settings.part}-of-{settings.parts}")
    try:
        config.write(settings, folder, "settings.yaml", ("out", "device", "part", "parts"))
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            if settings.pipeline:
                pipeline = CloseUpShotPipeline.from_pretrained(settings.pipeline).to(device)
                cache_generated(clips, folder, pipeline, share, on_progress)
            else:
                vae = read_autoencoder(settings.vae)
                vae.to(device)  # pyright: ignore[reportArgumentType]
                cache_latents(clips, folder, vae, settings.reference_size, share, on_progress)
    finally:
        folder.close()
