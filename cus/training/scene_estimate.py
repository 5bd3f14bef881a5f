"""Estimates the cost of building clips from a part of one scene, whose results are discarded."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from cus.datasets.clips import save_clip
from cus.datasets.scene_clips.framing import segments_of
from cus.datasets.scene_clips.make import SceneRecord, scene_clips
from cus.datasets.scene_clips.recipe import Filters, SceneRecipe
from cus.datasets.scenes import SceneSource, open_source
from cus.errors import InputError
from cus.training.scene_clips import STEPS, OnProgress, SceneClips, device_of, share_of, sources_of

MEASURED_STEPS = 50  # number of steps of the fit
SAMPLED_SCENES = 20  # number of scenes whose photographs are counted


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes measured for a part of one scene.

    Attributes:
        check: seconds of the camera check.
        start: seconds per photograph for reading and estimating starting depths.
        step: seconds per step of the fit.
        segment: seconds per segment with all its clips.
        clip: bytes per clip.
        clips: number of clips per segment before filtering.
    """

    check: float
    start: float
    step: float
    segment: float
    clip: float
    clips: int

    def scene_seconds(self, photographs: int, recipe: SceneRecipe) -> float:
        """Seconds for a scene of `photographs` photographs."""
        fit = self.start * photographs + self.step * recipe.truth.iterations if recipe.pseudo else 0.0
        return self.check + fit + self.segment * len(segments_of(photographs, recipe.segment, recipe.segments))

    def scene_bytes(self, photographs: int, recipe: SceneRecipe) -> float:
        """Bytes of the clips of a scene of `photographs` photographs if no filter refuses any."""
        return self.clip * self.clips * len(segments_of(photographs, recipe.segment, recipe.segments))


def estimate(settings: SceneClips, on_progress: OnProgress, say: Callable[[str], None]) -> None:
    """Measure a part of the first readable scene, and print the total cost. Raises InputError."""
    sources = sources_of(settings)
    parts = share_of(settings.part, settings.parts)[1]
    measured, name, photographs = _measure(settings, sources, on_progress)
    chosen = np.unique(np.linspace(0, len(sources) - 1, min(SAMPLED_SCENES, len(sources))).round().astype(int))
    counts = [count for i in chosen if (count := _photographs(sources[i]))] or [photographs]
    seconds = float(np.mean([measured.scene_seconds(count, settings.recipe) for count in counts])) * len(sources)
    size = float(np.mean([measured.scene_bytes(count, settings.recipe) for count in counts])) * len(sources)
    say(f"measured on {name}, device {device_of(settings.device)}:")
    for item in fields(Measured):
        value = getattr(measured, item.name)
        say(f"  {_LABELS[item.name]:<44} {value / 1e6:.1f} MB" if item.name == "clip" else _line(item.name, value))
    say(f"{len(sources)} scenes of about {np.mean(counts):.0f} photographs, {settings.recipe.truth.iterations} steps:")
    say(f"  {seconds / 3600:.1f} hours of one process, {seconds / parts / 3600:.1f} of {parts}")
    say(f"  at most {size / 1e9:.1f} GB, if no filter leaves a clip out")
    on_progress(STEPS, STEPS, "measured")


_LABELS = {
    "check": "check of the cameras, a scene",
    "start": "reading and first depths, a photograph",
    "step": "step of the fit (of its first ones)",
    "segment": "references and clips, a segment",
    "clip": "clip",
    "clips": "clips a segment",
}


def _line(name: str, value: float) -> str:
    return f"  {_LABELS[name]:<44} {value}" if name == "clips" else f"  {_LABELS[name]:<44} {value:.3f} s"


def _photographs(source: SceneSource) -> int:
    try:
        return len(open_source(source))
    except InputError:
        return 0


def _measure(settings: SceneClips, sources: list[SceneSource], on_progress: OnProgress) -> tuple[Measured, str, int]:
    """Measure a part of the first scene that gives a clip; also returns its name and number of photographs."""
    recipe = settings.recipe
    steps = min(MEASURED_STEPS, recipe.truth.iterations)
    passing = Filters(**{item.name: _lax(item.name) for item in fields(Filters)})
    part = replace(recipe, segments=1, truth=replace(recipe.truth, iterations=steps), filters=passing)
    device = device_of(settings.device)

    def tell(stage: str, share: float) -> None:
        on_progress(int(share * STEPS), STEPS, f"measuring: {stage}")

    reasons = []
    for source in sources:
        record = SceneRecord()
        try:
            made = list(scene_clips(open_source(source), source.name, part, record, device=device, on_stage=tell))
        except InputError as error:
            reasons.append(f"{source.name}: {error}")
            continue
        clips = [found.clip for found in made if found.clip is not None]
        if not clips:
            reasons.append(f"{source.name}: {made[0].facts.get('reason')}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.safetensors"
            save_clip(path, clips[0])
            size = path.stat().st_size
        spent = {"start": 0.0, "fit": 0.0} | record.seconds
        measured = Measured(
            check=spent["check"],
            start=spent["start"] / record.counts["photographs"],
            step=spent["fit"] / steps,
            segment=spent["references"] + spent["clips"],
            clip=size,
            clips=len(clips),
        )
        return measured, source.name, record.counts["photographs"]
    raise InputError(f"no clip could be made from any of {len(sources)} scenes; the first one: {reasons[0]}")


def _lax(name: str) -> float:
    """A bound that everything passes, so that the camera check takes its usual time."""
    return 1e9 if name.startswith("most") else 0.0
