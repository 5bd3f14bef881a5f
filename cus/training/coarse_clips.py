"""Structure images for a folder of clips, from coarse frames and their clouds; data/make_coarse.py is their command."""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor

from cus.datasets.clips import FORMAT as CLIP_FORMAT
from cus.datasets.clips import clip_paths, load_clip, open_tensors, require_conditioning
from cus.datasets.geometry import has_geometry
from cus.datasets.structures import RECORD, is_structure, save_structure
from cus.errors import InputError
from cus.files import read_json
from cus.limits import limited
from cus.models.autoencoder import Autoencoder
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.coarse import CoarsePass
from cus.training.latents import FORMAT, generation_seed, is_cache, posterior_of, require_length
from cus.training.scene_clips import device_of, share_of
from cus.training.scripts import REMEDY

# Marks of clips without a structure image, below `out`.
MARKS = "without"
PLANNED = ("settings.yaml", RECORD, "*.safetensors", f"{MARKS}/*.json")


@dataclass
class CoarseClips:
    """What to make.

    Attributes:
        clips: folder of clips that data/build_clips.py has made, or of their shards.
        out: folder of the structure images, a file for each clip under the clip's name.
        model: whose pass 1 makes the coarse frames: a folder or Hub id.
        generated: folder of the latents that its U-Net has generated (data/cache_latents.py pipeline=...), which are
            then only decoded; empty generates them.
        conditioning: which of a clip's warps the model is shown; empty is its own conditioning.
        limit: at most so many clips, the first ones; 0: all.
        device: torch device; "auto" is the process's own GPU where there is one.
        part: this process's share, 0 .. parts - 1; only with `parts`.
        parts: number of processes; 0: as `accelerate launch` has started them.
    """

    clips: str = MISSING
    out: str = MISSING
    model: str = MISSING
    generated: str = ""
    conditioning: str = ""
    limit: int = limited(0, low=0)
    device: str = "auto"
    part: int = limited(0, low=0)
    parts: int = limited(0, low=0)


def build(settings: CoarseClips, on_progress: Callable[[int, int], None], say: Callable[[str], None]) -> None:
    """Make the structure images of this process's clips that have none.

    A clip in whose frames nothing agrees is done, and has none. One that fails is listed with its reason, and the
    others go on; it is tried again by the next run.

    Args:
        settings: see `CoarseClips`.
        on_progress: called with (clips done, clips of this process).
        say: called with a line about what went wrong, and one about all of it.

    Raises:
        InputError: clips without geometry, a model that is not there or is too short for them, a folder that cannot be
            written to or that holds other weights' images; in one process alone, clips that failed.
    """
    part, parts = share_of(settings.part, settings.parts)
    check_geometry(Path(settings.clips), settings.conditioning)
    paths = list(enumerate(clip_paths(Path(settings.clips))))[: settings.limit or None]
    coarse = CoarsePass(settings.model, device=str(device_of(settings.device)))
    with open_tensors(paths[0][1], CLIP_FORMAT, "training clip") as file:
        require_length(coarse.pipeline.sampling.frames, file.get_slice("targets").get_shape()[0])
    folder = OutputFolder(Path(settings.out), "structure images", REMEDY)
    folder.open(PLANNED, share=f"-{part}-of-{parts}")
    counts = {"with": 0, "without": 0, "failed": 0}
    try:
        config.write(settings, folder, "settings.yaml", ("out", "limit", "device", "part", "parts"))
        coarse.record(folder)
        mine = paths[part::parts]
        for done, (index, path) in enumerate(mine):
            on_progress(done, len(mine))
            verdict = _clip(folder, settings, coarse, path, index)
            counts[verdict.kind] += 1
            if verdict.kind == "failed":
                say(f"{path.name}: failed: {verdict.reason}")
        on_progress(len(mine), len(mine))
    finally:
        folder.close()
    say(f"{counts['with']} clips with structure images, {counts['without']} in which nothing agrees")
    # Of several processes none may fail for its clips: launchers end the others with it.
    if counts["failed"] and parts == 1:
        require_all(settings)


def require_all(settings: CoarseClips) -> None:
    """Raises InputError where clips of any process have failed or were not made."""
    out, failed, missing = Path(settings.out), [], []
    paths = clip_paths(Path(settings.clips))[: settings.limit or None]
    for path in paths:
        if (out / path.name).is_file():
            continue
        mark = out / MARKS / f"{path.stem}.json"
        reason = read_json(mark).get("failed") if mark.is_file() else "it was not made"
        if reason:
            (failed if mark.is_file() else missing).append(f"{path.name}: {reason}")
    if failed or missing:
        raise InputError(
            f"{len(failed) + len(missing)} of {len(paths)} clips have failed ({[*failed, *missing][0]}); mend or "
            f"remove them (the reasons are in {out / MARKS}), and give the same command again"
        )


def check_geometry(clips: Path, conditioning: str) -> None:
    """Refuse clips of which no point cloud can be fused, or that lack a warp. Raises InputError."""
    for path in clip_paths(clips):
        with open_tensors(path, CLIP_FORMAT, "training clip") as file:
            if not has_geometry(set(file.keys())):
                raise InputError(
                    f"{path} holds no cameras and depths, of which a point cloud is fused: build it again with "
                    "data/build_clips.py (data/make_photographic.py makes structure images by coarse=)"
                )
        require_conditioning(path, conditioning)


@dataclass(frozen=True)
class _Verdict:
    """What became of a clip: "with" or "without" a structure image, or "failed"; and why."""

    kind: str
    reason: str = ""


def _clip(folder: OutputFolder, settings: CoarseClips, coarse: CoarsePass, path: Path, index: int) -> _Verdict:
    """Make the structure images of a clip, unless that is done."""
    mark = f"{MARKS}/{path.stem}.json"
    if folder.is_ours(path.name) and is_structure(folder.path / path.name):
        return _Verdict("with")
    if folder.is_ours(mark) and not (known := read_json(folder.path / mark)).get("failed"):
        return _Verdict("without", known.get("nothing", ""))
    content: dict[str, Any] = {}
    made = _made(settings, coarse, path, index, content)
    if made is None:
        folder.write(mark, lambda part: part.write_text(json.dumps(content, indent=1)))
        return _Verdict("failed" if "failed" in content else "without", content.get("failed", ""))
    folder.write(path.name, lambda part: save_structure(part, *made))
    folder.remove([mark])
    return _Verdict("with")


@torch.no_grad()
def _made(
    settings: CoarseClips, coarse: CoarsePass, path: Path, index: int, content: dict[str, Any]
) -> tuple[Tensor, Tensor | None] | None:
    """Structure images of a clip with their latents' posterior; None with the reason in `content`.

    Whatever goes wrong in one of many clips must not cost the others.
    """
    try:
        clip = load_clip(path)
        latents = _generated(settings, path) if settings.generated else None
        try:
            images = coarse.of_clip(clip, settings.conditioning, generation_seed(index), latents)
        except InputError as error:
            content["nothing"] = str(error)
            return None
        vae = coarse.pipeline.vae
        posterior = posterior_of(vae, images.to(coarse.device, vae.dtype)) if isinstance(vae, Autoencoder) else None
        return images, posterior
    except InputError as error:
        content["failed"] = str(error)
    except Exception as error:
        content["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
        content["traceback"] = traceback.format_exc()
    return None


def _generated(settings: CoarseClips, path: Path) -> Tensor:
    file = Path(settings.generated) / path.name
    if not is_cache(file):
        raise InputError(f"there are no generated latents at {file}; make them with data/cache_latents.py pipeline=...")
    with open_tensors(file, FORMAT, "cache of latents") as opened:
        return opened.get_tensor("generated").float()
