"""Clips encoded once for training; data/cache_latents.py is their command."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import MISSING

from cus.datasets.clips import clip_paths, require_conditioning
from cus.datasets.structures import require_structures
from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.remote import local_folder
from cus.training import config
from cus.training.latents import cache_generated, cache_latents
from cus.training.scene_clips import device_of, share_of
from cus.training.scripts import REMEDY
from cus.training.vae import read_autoencoder


@dataclass
class Caches:
    """Settings of the encoding.

    Attributes:
        clips: folder of clips.
        out: folder of the caches.
        vae: folder of the autoencoder (alternative to `pipeline`).
        pipeline: pipeline whose generated latents are stored: a folder or Hub id.
        reference_size: side in pixels of the square input of the image tower.
        conditioning: name of the warp to encode or to pass to the pipeline; empty: a clip's own conditioning.
        structure: folder of structure images (data/make_coarse.py): for clips that have them, store the result of the
            pipeline's second pass instead of the first.
        device: torch device; "auto" is the process's own GPU if there is one.
        bf16: autocast to bfloat16.
        part: index of this process's share, 0 .. parts - 1; only with `parts`.
        parts: number of processes; 0: as started by `accelerate launch`.
    """

    clips: str = MISSING
    out: str = MISSING
    vae: str = ""
    pipeline: str = ""
    reference_size: int = limited(224, low=14, high=2048)
    conditioning: str = ""
    structure: str = ""
    device: str = "auto"
    bf16: bool = False
    part: int = limited(0, low=0)
    parts: int = limited(0, low=0)


def build(settings: Caches, on_progress: Callable[[int, int], None]) -> None:
    """Make missing caches. Raises InputError."""
    if bool(settings.vae) == bool(settings.pipeline):
        raise InputError("give either vae= (a folder with an autoencoder) or pipeline= (to store generated latents)")
    if settings.structure and not settings.pipeline:
        raise InputError("structure= is shown to a model: give it with pipeline=")
    clips, share = local_folder(settings.clips), share_of(settings.part, settings.parts)
    device = device_of(settings.device)
    structures = local_folder(settings.structure) if settings.structure else None
    if structures is not None:
        require_structures(structures)
    require_conditioning(clip_paths(clips)[0], settings.conditioning)
    folder = OutputFolder(Path(settings.out), "a cache of latents", REMEDY)
    folder.open(("settings.yaml", "*.safetensors"), share=f"-{share[0]}-of-{share[1]}")
    try:
        config.write(settings, folder, "settings.yaml", ("out", "device", "part", "parts"))
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            if settings.pipeline:
                pipeline = CloseUpShotPipeline.from_pretrained(settings.pipeline).to(device)
                cache_generated(clips, folder, pipeline, share, on_progress, settings.conditioning, structures)
            else:
                vae = read_autoencoder(settings.vae)
                vae.to(device)  # pyright: ignore[reportArgumentType]
                cache_latents(clips, folder, vae, settings.reference_size, share, on_progress, settings.conditioning)
    finally:
        folder.close()


def require_cached(latents: Path, conditioning: str) -> None:
    """Refuse cached latents of another conditioning than requested. Raises InputError."""
    settings = latents / "settings.yaml"
    cached = config.resolve(Caches, settings, []).conditioning if settings.is_file() else ""
    if cached != conditioning:
        raise InputError(
            f"the latents in {latents} are of conditioning={cached!r}, not {conditioning!r}: cache those of the clips "
            f"by data/cache_latents.py conditioning={conditioning}, in another folder"
        )
