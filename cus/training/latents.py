"""Caches of latents: encode clips once, and train on crops of their posteriors.

A cache file has its clip's name in another folder: the posterior's mean and standard deviation (scaled) of
targets, conditioning and structure as float16 [T, 2C, h, w], and the first reference image at the image tower's size.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from cus.datasets.clips import FORMAT as CLIP_FORMAT
from cus.datasets.clips import (
    ClipItems,
    Window,
    clip_paths,
    images_of,
    item_seed,
    load_clip,
    open_tensors,
    require_conditioning,
)
from cus.datasets.structures import open_structure, read_structure, require_structures
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.latents import to_model_range
from cus.errors import InputError
from cus.models.autoencoder import Autoencoder
from cus.output_folder import OutputFolder
from cus.tensor_files import save_tensors, to_bytes

FORMAT = "cus-latents-1"
VIDEOS = ("targets", "conditioning", "structure")

OnProgress = Callable[[int, int], None]


@torch.inference_mode()
def cache_latents(
    clips: Path,
    folder: OutputFolder,
    vae: Autoencoder,
    reference_size: int,
    share: tuple[int, int] = (0, 1),
    on_progress: OnProgress | None = None,
    conditioning: str = "",
) -> None:
    """Encode every clip of a folder that has no cache yet.

    Args:
        clips: folder of clips.
        folder: folder of the caches, opened.
        vae: autoencoder, on the device to compute on.
        reference_size: side in pixels of the square input of the image tower.
        share: (part, parts): this process takes every `parts`-th clip.
        on_progress: called with (clips done, clips of this share).
        conditioning: name of the warp to encode; "" is a clip's own conditioning.
    """
    device = next(vae.parameters()).device

    def encoded(path: Path, index: int) -> dict[str, Tensor]:
        clip = load_clip(path).conditioned_on(conditioning)
        tensors = {"reference": _squashed(clip.references[:1], reference_size)}
        for name in VIDEOS:
            video = getattr(clip, name)
            if video is not None:
                tensors[name] = posterior_of(vae, video.to(device))
        return tensors

    _cache(clips, folder, encoded, share, on_progress)


@torch.inference_mode()
def cache_generated(
    clips: Path,
    folder: OutputFolder,
    pipeline: CloseUpShotPipeline,
    share: tuple[int, int] = (0, 1),
    on_progress: OnProgress | None = None,
    conditioning: str = "",
    structures: Path | None = None,
) -> None:
    """Store the latents that a model generates for every clip: `generated` [T, C, h, w] float16.

    Args:
        clips: folder of clips.
        folder: folder of the caches, opened.
        pipeline: pipeline of the model.
        share: (part, parts): this process takes every `parts`-th clip.
        on_progress: called with (clips done, clips of this share).
        conditioning: name of the warp that the model sees; "" is a clip's own conditioning.
        structures: folder of structure images (data/make_coarse.py): clips that have them go through pass 2, the others
            through pass 1; None: pass 1 for all.

    Raises:
        InputError: a clip is longer than those of the model's training.
    """

    def generated(path: Path, index: int) -> dict[str, Tensor]:
        clip = load_clip(path).conditioned_on(conditioning)
        require_length(pipeline.sampling.frames, len(clip.targets))
        structure = None if structures is None else read_structure(structures, path.name)
        draws = torch.Generator().manual_seed(generation_seed(index))
        latents = pipeline(clip.references, clip.shown, structure, generator=draws, output_type="latent")
        return {"generated": latents.half().cpu().contiguous()}

    _cache(clips, folder, generated, share, on_progress)


def generation_seed(index: int) -> int:
    """Seed of all noise in the frames generated for clip `index` of a folder."""
    return item_seed(0, index)


def require_length(longest: int, frames: int) -> None:
    """Refuse clips with more frames than a model generates at once. Raises InputError."""
    if frames > longest:
        raise InputError(
            f"clips of {frames} frames are longer than the {longest} that the model generates at once "
            "(sampling.frames): build shorter clips, or train it for longer ones"
        )


def _cache(
    clips: Path,
    folder: OutputFolder,
    make: Callable[[Path, int], dict[str, Tensor]],
    share: tuple[int, int],
    on_progress: OnProgress | None,
) -> None:
    """Store the result of `make` for each clip of this share, given its path and index, unless it is cached."""
    mine = list(enumerate(clip_paths(clips)))[share[0] :: share[1]]
    for done, (index, path) in enumerate(mine):
        if on_progress is not None:
            on_progress(done, len(mine))
        if not (folder.is_ours(path.name) and is_cache(folder.path / path.name)):
            tensors = make(path, index)
            folder.write(path.name, lambda part, tensors=tensors: save_tensors(tensors, part, {"format": FORMAT}))
    if on_progress is not None:
        on_progress(len(mine), len(mine))


def is_cache(path: Path) -> bool:
    """Whether a file is a cache and not truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


class GeneratedCrops(ClipItems):
    """Random windows of clips with their generated latents, for the decoder.

    Items: targets, conditioning [T, 3, H, W] in [0, 1], generated [T, C, h, w].

    Args:
        clips: folder of clips.
        generated: folder filled by `cache_generated`; clips without a cache are an error.
        frames: number of frames per window.
        crop: (height, width) of a window in latent pixels.
        factor: image pixels per latent pixel, along each axis.
        seed: seed of the windows.
        conditioning: name of the warp to read; "" is a clip's own conditioning.
    """

    def __init__(
        self,
        clips: Path,
        generated: Path,
        frames: int,
        crop: tuple[int, int],
        factor: int,
        seed: int,
        conditioning: str = "",
    ) -> None:
        super().__init__(clips, seed)
        self.generated, self.conditioning = generated, conditioning
        require_conditioning(self.paths[0], conditioning)
        if missing := [path.name for path in self.paths if not (generated / path.name).is_file()]:
            raise InputError(
                f"{len(missing)} clips have no generated latents in {generated} ({missing[0]}, ...); "
                "make them with data/cache_latents.py pipeline=..."
            )
        self.frames, self.crop, self.factor = frames, crop, factor

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(item_seed(self.seed, index))
        path = self.path_of(index)
        with open_tensors(self.generated / path.name, FORMAT, "cache of latents") as file:
            latents = file.get_slice("generated")
            length, _, height, width = latents.get_shape()
            window = Window.draw(length, (height, width), self.frames, self.crop, 1, generator)
            item = {"generated": window.of(latents).float()}
        pixels = window.enlarged(self.factor)
        with open_tensors(path, CLIP_FORMAT, "training clip") as file:
            for name, stored in (("targets", "targets"), ("conditioning", images_of(self.conditioning))):
                item[name] = pixels.of(file.get_slice(stored)).float() / 255
        return item


def posterior_of(vae: Autoencoder, images: Tensor, chunk: int = 4) -> Tensor:
    """Scaled mean and standard deviation [T, 2C, h, w], float16, of images [T, 3, H, W] in [0, 1]."""
    parts = []
    for part in images.split(chunk):
        posterior = vae.encode(to_model_range(part)).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        parts.append(torch.cat([posterior.mean, posterior.std], dim=1).float() * vae.config.scaling_factor)  # pyright: ignore
    return torch.cat(parts).half().cpu().contiguous()


def _squashed(images: Tensor, size: int) -> Tensor:
    small = F.interpolate(images, (size, size), mode="bicubic", align_corners=True, antialias=True)
    return to_bytes(small)


class LatentCrops(ClipItems):
    """Random windows of cached clips; item `i` depends only on the seed and `i`, so training resumes exactly.

    Items: targets, conditioning, structure [2C, T, h, w] float32 (mean, then standard deviation), reference [3, S, S]
    in [0, 1], guided: bool [], whether the item has a structure image (otherwise zeros).

    Args:
        folder: folder of the caches.
        frames: number of frames per window.
        crop: (height, width) of a window in latent pixels.
        seed: seed of the windows.
        structure_share: fraction of the items with a structure image that keep it.
        structures: folder of structure images (data/make_coarse.py) that replace the caches' own; or None.
    """

    content = ("cached latents", "data/cache_latents.py")

    def __init__(
        self,
        folder: Path,
        frames: int,
        crop: tuple[int, int],
        seed: int,
        structure_share: float = 1.0,
        structures: Path | None = None,
    ) -> None:
        super().__init__(folder, seed)
        self.frames, self.crop, self.structure_share = frames, crop, structure_share
        self.structures = structures
        if structures is not None:
            require_structures(structures)
        with open_tensors(self.paths[0], FORMAT, "cache of latents"):
            pass  # check its format before training starts

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(item_seed(self.seed, index))
        path = self.path_of(index)
        guided = float(torch.rand(1, generator=generator)) < self.structure_share
        with open_tensors(path, FORMAT, "cache of latents") as file:
            targets = file.get_slice("targets")
            length, _, height, width = targets.get_shape()
            window = Window.draw(length, (height, width), self.frames, self.crop, 1, generator)
            own = VIDEOS if self.structures is None else VIDEOS[:2]
            item = {name: window.of(file.get_slice(name)) for name in own if name in file.keys()}  # noqa: SIM118
            reference = file.get_tensor("reference")[0]
        with open_structure(self.structures if guided else None, path.name) as file:
            if file is not None:
                item["structure"] = window.of(file.get_slice("posterior"))
        guided = guided and "structure" in item
        if not guided:
            item["structure"] = torch.zeros_like(item["targets"])
        item = {name: video.float().transpose(0, 1) for name, video in item.items()}
        return {**item, "reference": reference.float() / 255, "guided": torch.tensor(guided)}
