"""Cases of posed scenes as one-frame clips: shrunk photographs against full-resolution crops of held-out ones.

They validate a training on real pictures with estimates, at no extra cost; where poses and licences permit, they are
training pairs. data/make_cases.py is their command.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING

from cus.cameras import PosedPhotos
from cus.conditioning import agree, fused_warp
from cus.datasets.clips import Clip, is_clip, save_clip
from cus.datasets.other_warps import OTHER_WARPS, References, other_warps
from cus.datasets.scenes import open_scenes
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.evaluation.protocol import CENTERS, LEVELS, Case, Rules, choose_cases, index_of, thinned
from cus.evaluation.targets import frame_size, read_target, references_at
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.scripts import REMEDY


@dataclass
class CaseClips:
    """Settings of the clips to build.

    Attributes:
        out: output folder of the clips.
        scenes: posed scenes, each a folder in any layout that `cus-eval` reads.
        size: longer side of references and targets, in pixels.
        zooms: magnifications of the crops.
        centers: names of the crops' centres.
        cases: maximum number of cases per scene and level, evenly spaced.
        pair_overlap: minimum fraction of each reference's picture that lies within the other's.
        overlap: minimum fraction of the target's crop that lies within each reference's picture.
        estimator: estimator of the references' depths; their poses are the given ones.
        photo_size: longest side in pixels of the photographs that provide the colours; 0: as for `size`.
        others: names of additional warps in the clips besides the fused one, from `OTHER_WARPS`.
    """

    out: str = MISSING
    scenes: list[str] = field(default_factory=list)
    size: int = limited(384, low=64, high=8192)
    zooms: list[float] = limited(default_factory=lambda: [4.0], low=1)
    centers: list[str] = limited(default_factory=lambda: ["centre"], choices=tuple(CENTERS))
    cases: int = limited(4, low=1)
    pair_overlap: float = limited(0.5, low=0, high=1)
    overlap: float = limited(0.7, low=0, high=1)
    estimator: str = "stereo"
    photo_size: int = limited(0, low=0, high=16384)
    others: list[str] = limited(default_factory=list, choices=tuple(OTHER_WARPS))


def build(settings: CaseClips, on_progress: Callable[[int, int], None]) -> None:
    """Build the clips that are missing. Raises InputError."""
    if not settings.scenes:
        raise InputError("name the scenes: scenes=[folder, ...]")
    work = [item for scene in settings.scenes for item in _cases(settings, Path(scene))]
    folder = OutputFolder(Path(settings.out), "training clips", REMEDY)
    folder.open(("settings.yaml", "case-*.safetensors"), inputs=[Path(scene) for scene in settings.scenes])
    try:
        config.write(settings, folder, "settings.yaml", ("out", "scenes"))
        estimates: dict[tuple[str, tuple[str, ...]], References] = {}
        for done, (scene, posed, case) in enumerate(work):
            on_progress(done, len(work))
            name = f"case-{scene}-{case.name}.safetensors".replace("/", "_")
            if folder.is_ours(name) and is_clip(folder.path / name):
                continue
            key = (scene, case.references)
            if key not in estimates:
                # One at a time: successive cases share a pair of references.
                estimates = {key: _estimate(settings, posed, case)}
            save_clip(folder.claim(name), case_clip(estimates[key], posed, case, settings, scene))
        on_progress(len(work), len(work))
    finally:
        folder.close()


def case_clip(references: References, posed: PosedPhotos, case: Case, settings: CaseClips, name: str) -> Clip:
    """Turn a case into a one-frame clip, with the nearest reference first.

    Args:
        references: references of the case.
        posed: photographs of the scene.
        case: the crop of a photograph to make.
        settings: size and content of the clip.
        name: name of the scene.

    Raises:
        InputError: the target cannot be read, or warping into it fails.
    """
    scene = references.agreed
    target = read_target(posed, case, settings.size)
    warped = fused_warp(scene, target.camera, references.photographs, agreed=True)
    others = other_warps(settings.others, references, target.camera)
    order = (scene.cameras.centers - target.camera.centers).norm(dim=-1).argsort()
    names = [*case.references, case.target]
    info = {"kind": "case", "scene": name, "case": case.name, "level": case.level, "photographs": names}
    images = references.estimate.images[order]
    return Clip(images, target.picture[None], warped.images, warped.masks, None, info, warped.layers, others)


def _cases(settings: CaseClips, path: Path) -> list[tuple[str, PosedPhotos, Case]]:
    """The cases of the scenes at a path: name, photographs, case; sorted by their pair of references."""
    rules = Rules(
        zooms=tuple(settings.zooms),
        centers=tuple(settings.centers),
        pair_overlap=settings.pair_overlap,
        overlap=settings.overlap,
    )
    chosen = []
    for name, posed in open_scenes(path).items():
        cases = choose_cases(posed, rules)
        for level in LEVELS:
            some = thinned([case for case in cases if case.level == level], settings.cases)
            chosen += [(name, posed, case) for case in sorted(some, key=lambda case: case.references)]
    return chosen


def _estimate(settings: CaseClips, posed: PosedPhotos, case: Case) -> References:
    chosen = posed.select([index_of(posed, name) for name in case.references])
    width, height = frame_size(*chosen.sizes[0], settings.size)
    photos, cameras = chosen.read(width, height)
    with torch.no_grad():
        estimate = estimate_scene(photos.images, cameras, settings.estimator, valid=photos.valid)
        large = references_at(chosen, photos, settings.photo_size, estimate.used) if settings.photo_size else None
        return References(estimate, agree(estimate, large), large)
