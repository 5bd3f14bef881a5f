"""The parts of a recipe: their work, folders, settings and requirements."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from cus.datasets.clips import FORMAT, Window, clip_paths, open_tensors
from cus.diffusion.loading import find_model
from cus.diffusion.memory import skeleton
from cus.errors import InputError
from cus.limits import limited
from cus.models.autoencoder import Autoencoder
from cus.remote import local_folder
from cus.training import caches, coarse_clips
from cus.training import config as configs
from cus.training.caches import Caches
from cus.training.clip_crops import LayeredCrops
from cus.training.coarse_clips import CoarseClips
from cus.training.decoder import DecoderConfig, DecoderStage, require_size, training_distance
from cus.training.latents import is_cache, require_length
from cus.training.scripts import FREE, is_exported, train_to_end
from cus.training.unet import UNetConfig, UNetStage
from cus.training.vae import read_autoencoder

Tell = Callable[[int, int], None]
Say = Callable[[str], None]
FREE_OF_CACHES = ("out", "limit", "device", "part", "parts")


@dataclass
class Recipe:
    """Settings of train/recipe.py.

    Attributes:
        out: output folder; each part has its own folder in it.
        clips: folder of data/build_clips.py, such as <build>/train, or of its shards.
        held_out: folder of clips for scores and sample pictures, such as <build>/held_out; empty: none.
        init: pipeline that both U-Nets start from: a folder or Hub id; empty builds a new one as in `unet`.
        conditioning: name of the warp that the models learn from; empty: the clips' own conditioning. It should be of
            the kind in `sampling.conditioning` of the U-Net.
        unet: config of train/unet.py for both U-Nets.
        unet_settings: settings of both U-Nets, each "key=value" overriding the config.
        guided_settings: settings of the second U-Net, overriding these.
        decoder: config of train/decoder.py for both decoder stages; empty: no decoder stages.
        decoder_settings: settings of both decoder stages, each "key=value" overriding the config.
        bf16: whether to compute caches with bfloat16 autocast.
        device: torch device for the caches; "auto" is the process's own GPU if there is one.
        dry_run: train nothing; run all parts with one clip and two steps, and estimate time and disk space.
        processes: number of processes to estimate for.
    """

    out: str = MISSING
    clips: str = MISSING
    held_out: str = ""
    init: str = ""
    conditioning: str = ""
    unet: str = "configs/full/unet.yaml"
    unet_settings: list[str] = field(default_factory=list)
    guided_settings: list[str] = field(default_factory=lambda: ["structure_share=0.5"])
    decoder: str = "configs/full/decoder.yaml"
    decoder_settings: list[str] = field(default_factory=list)
    bf16: bool = True
    device: str = "auto"
    dry_run: bool = False
    processes: int = limited(1, low=1, high=65536)


@dataclass(frozen=True)
class Job:
    """One part of a recipe.

    Attributes:
        name: name of its folder in the recipe's.
        words: description of its work.
        units: number of steps or clips.
        unit: "steps" or "clips".
        settings: resolved settings, as saved with its results.
        run: does the missing work; called with callbacks for progress and for lines of output.
        require: raises InputError if its results are not complete.
    """

    name: str
    words: str
    units: int
    unit: str
    settings: Any
    run: Callable[[Tell, Say], None]
    require: Callable[[], None]


@dataclass(frozen=True)
class _FirstStage:
    """Facts about a model's first stage that are needed before its training.

    Attributes:
        vae: folder of its autoencoder; empty if it is lossless.
        side: side in pixels of the square input of the image tower.
        factor: image pixels per latent pixel, along each axis.
    """

    vae: str
    side: int
    factor: int


def checked_jobs(recipe: Recipe) -> list[Job]:
    """The parts, after checking everything that could otherwise stop one of them only after hours.

    Raises:
        InputError: unusable settings, clips, models or weights, or other settings than those a part started with.
    """
    paths = clip_paths(local_folder(recipe.clips))
    unet = _unet_config(recipe, {"out": "unet"}, guided=False)
    first = _first_stage(recipe, unet)
    _check_settings(recipe, unet, first)
    _check_clips(recipe, unet, first, paths[0])
    jobs = _jobs(recipe, first, len(paths))
    for job in jobs:
        name, free = ("config.yaml", FREE) if job.unit == "steps" else ("settings.yaml", FREE_OF_CACHES)
        configs.check_unchanged(job.settings, Path(job.settings.out) / name, free)
    return jobs


def _jobs(recipe: Recipe, first: _FirstStage, clips: int) -> list[Job]:
    out = Path(recipe.out)
    data = {"latents": out / "latents"} if first.vae else {"clips": recipe.clips}
    jobs = []
    if first.vae:
        jobs.append(_cache(recipe, "latents", "the clips' latents", clips, vae=first.vae, reference_size=first.side))
    jobs.append(_unet(recipe, "unet", "1. the U-Net", data, guided=False))
    coarse = out / "unet" / "export"
    if first.vae and recipe.decoder:
        pipeline = str(coarse)
        jobs.append(_cache(recipe, "generated", "latents generated for the clips", clips, pipeline=pipeline))
        jobs.append(_decoder(recipe, "decoder", "2. the decoder with skips", "unet", "generated"))
        coarse = out / "decoder" / "export"
    jobs.append(_coarse(recipe, "coarse", "coarse frames, clouds and structure images", coarse, clips))
    structure = {"structure": out / "coarse"}
    if recipe.held_out:
        count = len(clip_paths(local_folder(recipe.held_out)))
        most = min(_unet_config(recipe, {"out": "unet"}, guided=True).held_out_clips, count)
        jobs.append(_coarse(recipe, "coarse_held_out", "structure images of the held-out clips", coarse, most))
        structure["held_out_structure"] = out / "coarse_held_out"
    jobs.append(
        _unet(recipe, "guided_unet", "3. the U-Net with structure guidance", {**data, **structure}, guided=True)
    )
    if first.vae and recipe.decoder:
        pipeline = str(out / "guided_unet" / "export")
        shown = {"pipeline": pipeline, "structure": str(out / "coarse")}
        jobs.append(_cache(recipe, "guided_generated", "latents generated for the clips", clips, **shown))
        # "Further": from the decoder of stage 2 on.
        start = {"vae": out / "decoder" / "export" / "vae", **structure}
        start.pop("structure")
        jobs.append(
            _decoder(recipe, "guided_decoder", "4. the decoder, further", "guided_unet", "guided_generated", start)
        )
    return jobs


def _quoted(values: dict[str, Any]) -> list[str]:
    """Values as "key=value", quoted, because a folder's name may look like another YAML type."""
    return [f"{name}={json.dumps(str(value))}" for name, value in values.items()]


def _unet_arguments(recipe: Recipe, folders: dict[str, Any], guided: bool) -> list[str]:
    own = {"held_out": recipe.held_out, "init": recipe.init, "conditioning": recipe.conditioning, **folders}
    passes = ["sampling.second_pass=true"] if guided else ["sampling.second_pass=false", "structure_share=0"]
    given = [*recipe.unet_settings, *(recipe.guided_settings if guided else [])]
    return [recipe.unet, *given, *_quoted(own), *passes]


def _unet_config(recipe: Recipe, folders: dict[str, Any], guided: bool) -> UNetConfig:
    arguments = _unet_arguments(recipe, folders, guided)
    return configs.resolve(UNetConfig, arguments[0], arguments[1:])


def _unet(recipe: Recipe, name: str, words: str, folders: dict[str, Any], guided: bool) -> Job:
    arguments = _unet_arguments(recipe, {**folders, "out": Path(recipe.out) / name}, guided)
    config = configs.resolve(UNetConfig, arguments[0], arguments[1:])

    def run(tell: Tell, say: Say) -> None:
        train_to_end(UNetConfig, UNetStage, arguments, tell, name)

    return Job(name, words, config.loop.steps, "steps", config, run, lambda: _require_export(config.out))


def _decoder(
    recipe: Recipe, name: str, words: str, init: str, generated: str, start: dict[str, Any] | None = None
) -> Job:
    out = Path(recipe.out)
    own = {"init": out / init / "export", "clips": recipe.clips, "generated": out / generated, "out": out / name}
    own |= {"held_out": recipe.held_out, "conditioning": recipe.conditioning, **(start or {})}
    arguments = [recipe.decoder, *recipe.decoder_settings, *_quoted(own)]
    config = configs.resolve(DecoderConfig, arguments[0], arguments[1:])

    def run(tell: Tell, say: Say) -> None:
        train_to_end(DecoderConfig, DecoderStage, arguments, tell, name)

    return Job(name, words, config.loop.steps, "steps", config, run, lambda: _require_export(config.out))


def _cache(recipe: Recipe, name: str, words: str, clips: int, **own: Any) -> Job:
    out = Path(recipe.out) / name
    shared = {"conditioning": recipe.conditioning, "device": recipe.device, "bf16": recipe.bf16}
    settings = Caches(clips=recipe.clips, out=str(out), **shared, **own)

    def run(tell: Tell, say: Say) -> None:
        caches.build(settings, tell)

    def require() -> None:
        missing = [path.name for path in clip_paths(local_folder(recipe.clips)) if not is_cache(out / path.name)]
        if missing:
            raise InputError(f"{len(missing)} clips are missing in {out} ({missing[0]}, ...): give the command again")

    return Job(name, words, clips, "clips", settings, run, require)


def _coarse(recipe: Recipe, name: str, words: str, model: Path, clips: int) -> Job:
    held_out, out = name != "coarse", Path(recipe.out)
    # Only decoded, not generated again.
    generated = str(out / "generated") if not held_out and model.parent.name == "decoder" else ""
    settings = CoarseClips(
        clips=recipe.held_out if held_out else recipe.clips,
        out=str(out / name),
        model=str(model),
        generated=generated,
        conditioning=recipe.conditioning,
        limit=clips if held_out else 0,
        device=recipe.device,
    )

    def run(tell: Tell, say: Say) -> None:
        coarse_clips.build(settings, tell, say)

    return Job(name, words, clips, "clips", settings, run, lambda: coarse_clips.require_all(settings))


def _require_export(out: str) -> None:
    if not is_exported(Path(out)):
        raise InputError(f"{out} has exported no model; give the command again")


def _first_stage(recipe: Recipe, unet: UNetConfig) -> _FirstStage:
    if recipe.init:
        model = find_model(recipe.init)
        networks = skeleton(model)
        vae = str(model.complete() / "vae") if isinstance(networks.vae, Autoencoder) else ""
        return _FirstStage(vae, int(networks.image_encoder.config["image_size"]), networks.vae.downsample)
    side = int(unet.model.image_encoder.get("image_size", 224))
    if unet.model.unshuffle:
        return _FirstStage("", side, unet.model.unshuffle)
    vae = read_autoencoder(unet.model.vae, "set init=, model.vae= or model.unshuffle=")
    return _FirstStage(unet.model.vae, side, vae.downsample)


def _check_settings(recipe: Recipe, unet: UNetConfig, first: _FirstStage) -> None:
    guided = _unet_config(recipe, {"out": "guided_unet"}, guided=True)
    if unet.lora.rank or guided.lora.rank:
        raise InputError("the stages build on one another's whole models: set lora.rank=0, or train/unet.py for a LoRA")
    if not guided.structure_share:
        raise InputError(
            "the second U-Net learns from structure images: set structure_share above 0 in guided_settings"
        )
    configs_of = {"unet_settings": unet, "guided_settings": guided}
    if recipe.decoder:
        if not first.vae:
            raise InputError("the model's first stage is lossless and has no decoder to train: set decoder=")
        needed = {"out": "decoder", "init": "x", "clips": "x", "generated": "x"}
        decoder = configs.resolve(DecoderConfig, recipe.decoder, [*recipe.decoder_settings, *_quoted(needed)])
        configs_of["decoder_settings"] = decoder  # pyright: ignore
        if decoder.perceptual:
            require_size(decoder.crop, first.factor)
            training_distance(decoder.distance)
    precisions = {name: config.loop.precision for name, config in configs_of.items()}
    if len(set(precisions.values())) > 1:
        told = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
        raise InputError(f"all stages run in the same processes and take one loop.precision, got {told}")
    for config in configs_of.values():
        config.loop.share(int(os.environ.get("WORLD_SIZE", "1")))


def _check_clips(recipe: Recipe, unet: UNetConfig, first: _FirstStage, path: Path) -> None:
    """Check that clips contain what is read, are not too long for the model, and large enough for the windows."""
    coarse_clips.check_geometry(local_folder(recipe.clips), recipe.conditioning)
    if recipe.held_out:
        coarse_clips.check_geometry(local_folder(recipe.held_out), recipe.conditioning)
    with open_tensors(path, FORMAT, "training clip") as file:
        length, _, height, width = file.get_slice("targets").get_shape()
    require_length(unet.sampling.frames, length)
    if unet.sampling.layers and first.vae:
        raise InputError(f"cached latents hold no condition layers, and sampling.layers is {unet.sampling.layers}")
    if not first.vae:
        LayeredCrops(local_folder(recipe.clips), 1, (1, 1), 0, unet.sampling.layers, 1, recipe.conditioning)
    windows = [(unet.frames, unet.crop)]
    if recipe.decoder:
        needed = {"out": "decoder", "init": "x", "clips": "x", "generated": "x"}
        decoder = configs.resolve(DecoderConfig, recipe.decoder, [*recipe.decoder_settings, *_quoted(needed)])
        windows.append((decoder.frames, decoder.crop))
    for frames, crop in windows:
        size = (height // first.factor, width // first.factor)
        frames = frames if first.vae else min(frames, length)
        Window.draw(length, size, frames, crop, 1, torch.Generator())
