"""The training part of a model card: read from the configurations that runs left with their exports."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cus.errors import InputError
from cus.hub.card import TrainingStage
from cus.hub.fetch import parse_id
from cus.hub.stored import SHIPPED
from cus.inference.settings import file_digest

# Fields that identify the stages' configurations, and the names of their clips.
STAGES = {
    "teacher_guidance": ("Few-step student", "latents"),
    **{"latents": ("U-Net", "latents"), "generated": ("Decoder", "clips"), "kl_weight": ("Autoencoder", "clips")},
}
# Settings that concern this machine rather than the model.
LEFT_OUT = (
    *("out", "latents", "clips", "generated", "held_out", "init", "model", "sampling", "workers", "save_every", "keep"),
    *("vae", "structure", "held_out_structure", "held_out_clips"),
    *("log_every", "sample_every", "minutes", "wandb_project", "trackers", "project", "steps"),
    *("gradient_checkpointing", "ema_device", "bad_steps"),
)


@dataclass(frozen=True)
class TrainingFacts:
    """Facts about the training of an exported model.

    Attributes:
        stages: stages in the order of training.
        base_model: Hub ids of the models that it started from.
    """

    stages: tuple[TrainingStage, ...]
    base_model: tuple[str, ...]


def read_training(run: Path) -> TrainingFacts:
    """The stages that led to a run's export, as far back as their configurations can be found.

    Raises:
        InputError: the folder has no configuration of `train/*.py`.
    """
    stages: list[TrainingStage] = []
    bases: list[str] = []
    pending, seen = [run], set()
    while pending:
        folder = pending.pop(0)
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        config = _read_config(folder)
        stages.insert(0, _stage(folder, config))
        # An autoencoder is a run's export, or its folder in one.
        autoencoders = [str(value or "") for value in ((config.get("model") or {}).get("vae"), config.get("vae"))]
        for start in (str(config.get("init") or ""), *autoencoders):
            earlier = Path(start).parent
            earlier = earlier.parent if earlier.name == "export" else earlier
            found = None if not start or start in SHIPPED or Path(start).exists() else parse_id(start)
            if start and Path(start).is_dir() and (earlier / "config.yaml").is_file():
                pending.append(earlier)
            elif found is not None and found[0] not in bases:
                bases.append(found[0])
    return TrainingFacts(tuple(stages), tuple(bases))


def check_export(run: Path, folder: Path) -> None:
    """Refuse a folder that does not contain the weights exported by a run. Raises InputError."""
    export = run / "export"
    if not export.is_dir():
        raise InputError(
            f"{run} has exported nothing: it has no folder export; let the training finish or stop it once"
        )
    if export.resolve() == folder.resolve():
        return
    for file in sorted(export.rglob("*.safetensors")):
        copy = folder / file.relative_to(export)
        if not copy.is_file() or file_digest(copy) != file_digest(file):
            raise InputError(f"{folder} does not hold what {run} exported: {file.relative_to(export)} differs")


def _read_config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{run} is no training run: it has no config.yaml; name the folder that out= named") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict) or not any(key in config for key in STAGES):
        raise InputError(f"{path} is not the configuration of a stage of training (train/*.py)")
    return config


def _stage(run: Path, config: Mapping[str, Any]) -> TrainingStage:
    name, data = next(words for key, words in STAGES.items() if key in config)
    settings: dict[str, Any] = {}
    loop = config.get("loop") or {}
    for key, value in {**config, **loop}.items():
        if key in LEFT_OUT or key == "loop" or value in (None, ""):
            continue
        if isinstance(value, Mapping):
            settings |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            settings[key] = value
    return TrainingStage(name, _steps_done(run), settings, _data(str(config.get(data) or config.get("clips") or "")))


def _steps_done(run: Path) -> int | None:
    """The step of the newest checkpoint, which was exported."""
    steps = [re.fullmatch(r"step-(\d+)", path.name) for path in (run / "checkpoints").glob("step-*")]
    return max((int(match[1]) for match in steps if match), default=None)


def _data(folder: str) -> str:
    """The number and kind of clips, if recorded with them; never local paths."""
    count = len(list(Path(folder).glob("*.safetensors"))) if folder else 0
    if count == 0:
        return ""
    settings = Path(folder) / "settings.yaml"
    made = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    scenes = made.get("scenes") if isinstance(made, dict) else None
    return f"{count:,} clips" + (f" of procedural scenes ({scenes})" if scenes else "")
