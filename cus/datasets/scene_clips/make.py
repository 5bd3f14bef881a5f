"""Makes the clips of one posed scene, each with the verdicts of all filters, kept or not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos, trajectories
from cus.conditioning import agree, fused_warp
from cus.datasets.clips import Clip, Warp
from cus.datasets.geometry import Geometry
from cus.datasets.other_warps import References, other_warps
from cus.datasets.scene_check import check_scene
from cus.datasets.scene_clips.framing import (
    framed_cameras,
    in_order,
    pixels_a_frame,
    read_crops,
    read_framed,
    require_pixels,
    segments_of,
)
from cus.datasets.scene_clips.recipe import SceneRecipe
from cus.datasets.scene_clips.truth import Rendered, SceneTruth, fit_start, fit_truth
from cus.datasets.scene_clips.verdicts import Verdict, all_passed, conditioning_verdicts, truth_verdicts
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.scene import SceneEstimate
from cus.splats import FitRecord

OnStage = Callable[[str, float], None]
# Fractions of a scene's work; the fit at full size takes most of it.
_CHECKED, _FITTED = 0.05, 0.8


def draw_zoom(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw a focal length factor, uniform in its logarithm."""
    low, high = np.log(bounds[0]), np.log(bounds[1])
    return float(np.exp(rng.uniform(low, high)))


def draw_path(
    photographs: Cameras, depth: Tensor, scale: float, recipe: SceneRecipe, rng: np.random.Generator
) -> tuple[Cameras, str, float]:
    """Draw a random path through a segment: target cameras, its name, and its largest magnification.

    Args:
        photographs: cameras of the segment's photographs, at frame size.
        depth: [H, W] z-depths of the first photograph, 0 = none.
        scale: scene scale, used as depth if the target has none.
        recipe: settings of the clips.
        rng: generator of all draws.
    """
    target = _draw_target(rng)
    close, nearer = rng.random() < recipe.close_up_share, rng.random() < recipe.nearer_share
    zoom = draw_zoom(recipe.zoom, rng)
    walked = float(rng.uniform(*recipe.nearer))
    regular = float(rng.uniform(1.0, 1.25))
    if not close:
        return trajectories.interpolate(photographs, regular, target, recipe.frames), "regular", regular
    if not nearer:
        return trajectories.interpolate(photographs, zoom, target, recipe.frames), "zoom", zoom
    at = _depth_at(depth, target) or scale
    zoom = 1 / (1 - walked)
    return trajectories.dolly(photographs, zoom, target, recipe.frames, depth=at), "nearer", zoom


def draw_point(scene: SceneEstimate, rng: np.random.Generator) -> Tensor:
    """Draw a surface point [3] seen by the first view; without a depth there, its distance is the scene scale."""
    target = _draw_target(rng)
    camera = scene.cameras[0]
    depth = _depth_at(scene.depths[0], target) or scene.scale
    pixel = torch.tensor([target[0] * camera.width, target[1] * camera.height, 1.0])
    local = torch.linalg.inv(camera.Ks[0]) @ pixel * depth
    return camera.c2w[0, :3, :3] @ local + camera.c2w[0, :3, 3]


def _draw_target(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a point (u, v) of a picture in fractions of its width and height, away from its border."""
    return float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.8))


def _depth_at(depth: Tensor, target: tuple[float, float]) -> float:
    row, column = int(target[1] * (len(depth) - 1)), int(target[0] * (depth.shape[1] - 1))
    return float(depth[row, column])


"""Called with the name of the current step and the fraction of the scene's work done so far."""


@dataclass(frozen=True)
class MadeClip:
    """A clip, or the reason why there is none.

    Attributes:
        clip: the clip; None if a filter refused it or it could not be made.
        facts: segment, kind of path and truth, verdicts or the reason, for the manifest.
    """

    clip: Clip | None
    facts: dict[str, Any]


@dataclass
class SceneRecord:
    """Facts about a scene besides its clips.

    Attributes:
        verdicts: verdicts on the whole scene.
        notes: notes of its reader and of the work.
        seconds: seconds for each stage.
        counts: numbers of photographs, steps of the fit and segments that the seconds refer to.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def scene_clips(
    posed: PosedPhotos,
    name: str,
    recipe: SceneRecipe,
    record: SceneRecord,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_stage: OnStage | None = None,
) -> Iterator[MadeClip]:
    """Make the clips of a scene; on a CPU the same scene, recipe and seed give the same clips.

    Args:
        posed: photographs of the scene with cameras.
        name: name of the scene; part of every seed.
        recipe: settings of the clips.
        record: receives the facts about the scene.
        seed: seed of all random draws.
        device: device to compute on.
        on_stage: callback for progress.

    Raises:
        InputError: photographs that cannot be read, are too small or too few, cameras that do not fit them, or a fit
            that cannot start. A segment for which the estimator fails gives a clip without content.
    """
    tell = on_stage or (lambda stage, share: None)
    device = torch.device(device)
    posed = in_order(posed.at_file_size())
    record.notes += posed.notes
    if len(posed) < 3:
        raise InputError(
            f"{len(posed)} photographs are two references at most; a scene needs three photographs or more"
        )
    require_pixels(posed, recipe.width, recipe.height)
    segments = segments_of(len(posed), recipe.segment, recipe.segments)
    record.counts |= {"photographs": len(posed), "segments": len(segments)}
    with record.timed("check"):
        _check(posed, recipe, record)
    tell("checked", _CHECKED)
    truth = _truth(posed, recipe, record, seed, device, tell) if recipe.pseudo else None
    for number, segment in enumerate(segments):
        rng = np.random.default_rng([seed, *name.encode(), number])
        yield from _Segment(posed, name, number, segment, recipe, record, device).clips(truth, rng)
        tell(f"segment {number + 1} of {len(segments)}", _FITTED + (1 - _FITTED) * (number + 1) / len(segments))


def _check(posed: PosedPhotos, recipe: SceneRecipe, record: SceneRecord) -> None:
    bound = recipe.filters.most_epipolar_error
    found = check_scene(posed, recipe.checked_pairs)
    record.verdicts.append(Verdict("epipolar_error", found.error, bound, is_least=False))
    if found.unmatched:
        record.notes.append(f"{len(found.unmatched)} photographs share nothing with their neighbours")
    if (refusal := found.refusal(bound)) is not None:
        raise InputError(refusal)


def _truth(
    posed: PosedPhotos, recipe: SceneRecipe, record: SceneRecord, seed: int, device: torch.device, tell: OnStage
) -> SceneTruth | None:
    """The fitted scene; None if it is not good enough to render ground truth."""
    steps = recipe.truth.iterations
    watched = FitRecord(on_progress=lambda done, total: tell("fit", _CHECKED + (_FITTED - _CHECKED) * done / total))
    with record.timed("start"):
        start = fit_start(posed, recipe.truth, device)
    with record.timed("fit"):
        truth = fit_truth(start, recipe.truth, seed, watched)
    record.counts["steps"] = steps
    record.counts["gaussians"] = len(truth.gaussians)
    verdict = Verdict("held_out_psnr", truth.held_out_psnr, recipe.filters.least_held_out_psnr)
    record.verdicts.append(verdict)
    return truth if verdict.passed else None


@dataclass(frozen=True)
class _Segment:
    """Consecutive photographs with the first and last one as references."""

    posed: PosedPhotos
    name: str
    number: int
    photographs: range
    recipe: SceneRecipe
    record: SceneRecord
    device: torch.device

    def clips(self, truth: SceneTruth | None, rng: np.random.Generator) -> Iterator[MadeClip]:
        recipe = self.recipe
        ends = [self.photographs[0], self.photographs[-1]]
        names = self.posed.names
        facts = {"segment": self.number, "references": [names[index] for index in ends]}
        scale = int(rng.choice(recipe.photograph_scales))
        draws = [int(rng.integers(2**62)) for _ in range(recipe.pseudo + recipe.photographic)]
        try:
            with self.record.timed("references"):
                references = self._references(ends, scale)
        except InputError as error:
            yield MadeClip(None, facts | {"reason": f"no depth of the references: {error}"})
            return
        seen = None if truth is None else truth.render(references.estimate.cameras)
        for place, draw in enumerate(draws):
            own = np.random.default_rng(draw)
            try:
                with self.record.timed("clips"):
                    if place >= recipe.pseudo:
                        made = self._photographic(references, own)
                    elif truth is not None and seen is not None:
                        made = self._pseudo(references, truth, seen, own)
                    else:
                        continue
            except InputError as error:
                made = MadeClip(None, {"reason": str(error)})
            made.facts.update(facts)
            yield made

    def _references(self, ends: list[int], scale: int) -> References:
        recipe, posed = self.recipe, self.posed.select(ends)
        framed = read_framed(posed, recipe.width, recipe.height)
        photographs = None
        finest = min(pixels_a_frame(size, recipe.width, recipe.height) for size in posed.sizes)
        scale = min(scale, int(finest))
        if scale > 1:
            photographs = list(read_framed(posed, scale * recipe.width, scale * recipe.height).images.to(self.device))
        with torch.no_grad():
            estimate = estimate_scene(
                framed.images.to(self.device),
                framed.cameras.to(self.device),
                recipe.estimator,
                valid=framed.valid.to(self.device),
            )
            if not bool((estimate.depths > 0).any()):
                raise InputError("the estimator finds none")
            return References(estimate, agree(estimate, photographs), photographs)

    def _pseudo(self, references: References, truth: SceneTruth, seen: Rendered, rng: np.random.Generator) -> MadeClip:
        recipe = self.recipe
        walked = framed_cameras(self.posed.select(list(self.photographs)), recipe.width, recipe.height)
        path, kind, zoom = draw_path(walked, seen.depths[0], references.estimate.scale, recipe, rng)
        rendered = truth.render(path)
        valid = rendered.alphas > 0.5
        verdicts = truth_verdicts(
            rendered, path, seen, references.estimate.cameras.to("cpu"), references.estimate.scale, recipe.filters
        )
        info = {"truth": "pseudo", "path": kind, "zoom": round(zoom, 3)}
        info["photographs"] = [self.posed.names[index] for index in self.photographs]
        return self._judged(references, path, rendered.images, valid, verdicts, info)

    def _photographic(self, references: References, rng: np.random.Generator) -> MadeClip:
        recipe = self.recipe
        inner = list(self.photographs)[1:-1]
        inner = [inner[i] for i in np.unique(np.linspace(0, len(inner) - 1, recipe.frames).round().astype(int))]
        finest = min(pixels_a_frame(self.posed.sizes[i], recipe.width, recipe.height) for i in inner)
        if finest < 1:
            raise InputError("the photographs are smaller than the frames")
        zoom = min(draw_zoom(recipe.zoom, rng), finest)
        target = draw_point(references.agreed.to("cpu"), rng)
        crops = read_crops(self.posed, inner, zoom, target, (recipe.width, recipe.height))
        names = self.posed.names
        info = {"truth": "photographic", "path": "photographs", "zoom": round(zoom, 3)}
        info["photographs"] = [names[index] for index in inner]
        known = float(crops.valid.float().mean(dim=(1, 2)).min())
        verdicts = [Verdict("opacity", known, recipe.filters.least_opacity)]
        return self._judged(references, crops.cameras, crops.images, crops.valid, verdicts, info)

    def _judged(
        self,
        references: References,
        path: Cameras,
        targets: Tensor,
        valid: Tensor,
        verdicts: list[Verdict],
        info: dict[str, Any],
    ) -> MadeClip:
        """The clip of a path, unless a filter refuses it."""
        with torch.no_grad():
            warped = fused_warp(references.agreed, path, references.photographs, False, agreed=True).to("cpu")
            verdicts = [*verdicts, *conditioning_verdicts(targets, valid, warped, self.recipe.filters)]
            facts = info | {"verdicts": [verdict.entry() for verdict in verdicts]}
            if not all_passed(verdicts):
                return MadeClip(None, facts)
            others = other_warps(self.recipe.others, references, path)
        others = {name: Warp(warp.images.cpu(), warp.masks.cpu()) for name, warp in others.items()}
        estimate = references.estimate.to("cpu")
        geometry = Geometry(estimate.cameras, estimate.depths, estimate.confidences, path.to("cpu"), warped.depths)
        known = {"kind": "scene", "scene": self.name, "segment": self.number, **info}
        clip = Clip(estimate.images, targets, warped.images, warped.masks, None, known, warped.layers, others, geometry)
        return MadeClip(clip, facts)
