"""Encode clips once for training.

    python data/cache_latents.py clips=runs/clips out=runs/latents vae=runs/vae/export
    python data/cache_latents.py clips=runs/clips out=runs/generated pipeline=runs/unet/export

With `pipeline` the cache holds what the model generates for each clip, which is what the decoder is trained on (Section
III-D). Clips that have a cache are skipped; several processes share the work with `part=0 parts=4`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import MISSING
from rich.progress import Progress

from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.models.autoencoder import Autoencoder
from cus.training import config
from cus.training.latents import cache_generated, cache_latents


@dataclass
class Settings:
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
    reference_size: int = 224
    device: str = "cpu"
    bf16: bool = False
    part: int = 0
    parts: int = 1


def main() -> None:
    """Make the caches that are missing."""
    settings = config.resolve(Settings, None, sys.argv[1:])
    if bool(settings.vae) == bool(settings.pipeline):
        raise InputError("give either vae= (a folder with an autoencoder) or pipeline= (to store generated latents)")
    clips, out, share = Path(settings.clips), Path(settings.out), (settings.part, settings.parts)
    device = torch.device(settings.device)
    with Progress() as progress, torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        task = progress.add_task("clips", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if settings.pipeline:
            pipeline = CloseUpShotPipeline.from_pretrained(settings.pipeline).to(device)
            cache_generated(clips, out, pipeline, share, report)
        else:
            vae = Autoencoder.from_pretrained(settings.vae)
            vae.to(device)  # pyright: ignore[reportArgumentType]
            cache_latents(clips, out, vae, settings.reference_size, share, report)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
