"""Table III as one recipe: a model for each line, trained equally long from the same seed, then compared.

train/ablation.py is the command. Lines differ in the inputs that they see from the same clips.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import MISSING

from cus.datasets.clips import clip_paths
from cus.errors import InputError
from cus.evaluation.rows import Frames
from cus.evaluation.settings import EvalSettings
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.training import config as configs
from cus.training.clip_crops import LayeredCrops
from cus.training.scripts import REMEDY, is_exported, train_to_end
from cus.training.unet import UNetConfig, UNetStage
from procedural import photographic_clips
from procedural.photographic_clips import PhotographicClips

OnProgress = Callable[[int, int], None]
EVALUATION = "evaluation.yaml"


@dataclass
class Line:
    """One model of the table.

    Attributes:
        name: name of its folder, by which rows of the evaluation refer to it as their `model`.
        settings: settings that differ in this line, each "key=value" of train/unet.py.
        coarse: name of an earlier line whose first pass makes structure images for this line's clips.
    """

    name: str = MISSING
    settings: list[str] = field(default_factory=list)
    coarse: str = ""


@dataclass
class Ablation:
    """Settings of train/ablation.py.

    Attributes:
        out: output folder; each line is a training run in <out>/<name>.
        clips: folder of data/make_photographic.py, with the warps that the lines need (`recipe.others`).
        held_out: folder of clips on which every line is scored at its end; empty: none.
        recipe: config of train/unet.py for all lines.
        steps: number of training steps of every line.
        settings: settings of all lines, each "key=value" overriding the recipe.
        lines: lines in the order of training.
        coarse_frames: length of the paths for structure images; should equal the evaluation's `frames`.
        evaluation: settings of the table; each row with a network gives its line's name as `model`.
    """

    out: str = MISSING
    clips: str = MISSING
    held_out: str = ""
    recipe: str = "configs/mini/unet.yaml"
    steps: int = limited(600, low=1)
    settings: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    coarse_frames: int = limited(6, low=2, high=1000)
    evaluation: EvalSettings = field(default_factory=EvalSettings)


def run(ablation: Ablation, on_progress: OnProgress) -> Path:
    """Train all unfinished lines, and write `<out>/evaluation.yaml` for cus-eval.

    Args:
        ablation: settings of the ablation.
        on_progress: called with (steps of all lines done, plus scenes with structure images; total).

    Returns:
        Path of the file for cus-eval.

    Raises:
        InputError: unusable settings or clips, before training starts; or a line whose own settings end it before
            `steps`.
        KeyboardInterrupt: the user interrupted the training, after everything is saved.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("the lines are trained in one process: start train/ablation.py with python")
    _check(ablation)
    table = _table(ablation)
    folder = OutputFolder(Path(ablation.out), "an ablation", REMEDY)
    folder.open(("settings.yaml", EVALUATION, "done-*.json"), inputs=[Path(ablation.clips)])
    try:
        # The table's layout may change, and lines be added; each line's own config.yaml protects its settings.
        kept = replace(ablation, evaluation=EvalSettings())
        configs.write(kept, folder, "settings.yaml", ("out", "clips", "held_out", "recipe", "settings", "lines"))
        progress = _Progress(ablation, on_progress)
        for line in ablation.lines:
            clips = Path(ablation.clips)
            if line.coarse:
                clips = _with_structure(ablation, line, progress)
            _train(ablation, line, clips, folder, progress)
        folder.write(EVALUATION, lambda part: configs.save(table, part))
    finally:
        folder.close()
    return folder.path / EVALUATION


class _Progress:
    """Adds up the progress of lines and of the clips between them."""

    def __init__(self, ablation: Ablation, report: OnProgress) -> None:
        coarse = [line for line in ablation.lines if line.coarse]
        scenes = _recipe_of_clips(ablation).scenes if coarse else 0
        self.report, self.before = report, 0
        self.total = len(ablation.lines) * ablation.steps + len(coarse) * scenes

    def __call__(self, done: int, total: int) -> None:
        self.report(self.before + done, self.total)

    def finish(self, count: int) -> None:
        """Mark a part of `count` units as finished."""
        self.before += count
        self.report(self.before, self.total)


def _check(ablation: Ablation) -> None:
    """Refuse problems that would otherwise stop a line only after hours. Raises InputError."""
    if not ablation.lines:
        raise InputError("there is no line to train; name some under lines, see configs/mini/table3.yaml")
    names: list[str] = []
    for line in ablation.lines:
        if not line.name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"the line's name {line.name!r} must do as a folder: letters, digits, - and _")
        if line.name in names or line.name.startswith("coarse-"):
            raise InputError(f"two folders would be called {line.name!r}; give the line another name")
        if line.coarse and line.coarse not in names:
            raise InputError(f"line {line.name}: coarse={line.coarse} is no earlier line; there are {', '.join(names)}")
        names.append(line.name)
        config = _config(ablation, line, Path(ablation.clips))
        # One pixel: checks whether the clips hold the line's inputs, not whether its windows fit.
        layers, shown = config.sampling.layers, config.conditioning
        LayeredCrops(Path(ablation.clips), 1, (1, 1), 0, layers, 1, shown, config.structure_share)
    if any(line.coarse for line in ablation.lines):
        _recipe_of_clips(ablation)


def _arguments(ablation: Ablation, line: Line, clips: Path) -> list[str]:
    folders = {"out": Path(ablation.out) / line.name, "clips": clips, "held_out": ablation.held_out}
    # Quoted, because a folder's name may look like another YAML type.
    own = [f"{name}={json.dumps(str(path))}" for name, path in folders.items()]
    loop = [f"loop.steps={ablation.steps}", f"loop.sample_every={ablation.steps if ablation.held_out else 0}"]
    return [*ablation.settings, *line.settings, *own, *loop]


def _config(ablation: Ablation, line: Line, clips: Path) -> UNetConfig:
    try:
        return configs.resolve(UNetConfig, ablation.recipe, _arguments(ablation, line, clips))
    except InputError as error:
        raise InputError(f"line {line.name}: {error}") from error


def _train(ablation: Ablation, line: Line, clips: Path, folder: OutputFolder, progress: _Progress) -> None:
    """Train a line to its end, unless its mark exists, which is written after the last export."""
    run, mark = folder.path / line.name, f"done-{line.name}.json"
    if not (folder.is_ours(mark) and is_exported(run)):
        arguments = [ablation.recipe, *_arguments(ablation, line, clips)]
        train_to_end(UNetConfig, UNetStage, arguments, progress, f"line {line.name}")
        folder.write(mark, lambda part: part.write_text(json.dumps({"steps": ablation.steps})))
    progress.finish(ablation.steps)


def _recipe_of_clips(ablation: Ablation) -> PhotographicClips:
    """The settings that made the clips. Raises InputError if data/make_photographic.py did not make them."""
    path = Path(ablation.clips) / "settings.yaml"
    if not path.is_file():
        raise InputError(
            f"structure images are made of the clips' scenes, and {ablation.clips} has no settings.yaml that says how "
            "they were made: build them with data/make_photographic.py, or leave the lines with coarse out"
        )
    return configs.resolve(PhotographicClips, path, [])


def _with_structure(ablation: Ablation, line: Line, progress: _Progress) -> Path:
    """The folder of the clips with structure images from another line's first pass."""
    model = Path(ablation.out) / line.coarse / "export"
    out = Path(ablation.out) / f"coarse-{line.coarse}"
    own = {"out": str(out), "coarse": str(model), "coarse_frames": ablation.coarse_frames}
    recipe = replace(_recipe_of_clips(ablation), **own, part=0, parts=1)
    photographic_clips.build(recipe, progress)
    progress.finish(recipe.scenes)
    # The lines see the same items in the same order only if the clips are the same.
    given, made = ({path.name for path in clip_paths(folder)} for folder in (Path(ablation.clips), out))
    if given != made:
        raise InputError(
            f"{out} has {len(made)} clips and {ablation.clips} {len(given)}: finish the latter with the command that "
            "made it (its settings.yaml says which), and give another out="
        )
    return out


def _table(ablation: Ablation) -> EvalSettings:
    """The evaluation, with lines' names replaced by their models. Raises InputError if a row names no line."""
    names = [line.name for line in ablation.lines]
    rows = []
    for row in ablation.evaluation.rows:
        if isinstance(row, Frames):
            if row.model not in names:
                raise InputError(f"row {row.name}: model must name a line ({', '.join(names)}), got {row.model}")
            row = replace(row, model=str((Path(ablation.out) / row.model / "export").resolve()))
        rows.append(row)
    table = replace(ablation.evaluation, rows=rows)
    table.check()
    return table
