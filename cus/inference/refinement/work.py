"""A scene to refine and its photographs, prepared for any method."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from cus.cameras import Cameras
from cus.inference.folder import RunFolder
from cus.inference.progress import OnProgress
from cus.inference.refinement.settings import RefineSettings
from cus.refinement.pseudo_labels import PseudoLabels
from cus.scene import SceneEstimate
from cus.splats import FitConfig, FitRecord, Gaussians, fit_views
from cus.splats.crops import ViewSource
from cus.splats.fit_views import Views
from cus.viewer.steadiness import NEEDLE_RATIO

# Half axes change by at most this factor in a fit that must not make needles.
STRETCH = 2**0.5


@dataclass(kw_only=True)
class Enlargeable:
    """A fitted scene and its photographs, and where unfinished work on them is kept.

    Attributes:
        given: the scene.
        settings: settings of the refinement.
        views: V photographs to fit, with the depths of their surfaces, also at their own size.
        config: settings of a fit that continues the scene's.
        folder: output folder, prepared.
        made_from: fingerprint of the scene and the settings.
        resume: whether to continue interrupted work.
        estimate: the photographs with depths and confidences.
        notes: messages for the user, collected by the method.
        unfinished: files of interrupted work, which are removed when the result is written.
    """

    given: Gaussians
    settings: RefineSettings
    views: Views
    config: FitConfig
    folder: RunFolder
    made_from: str
    resume: bool
    estimate: SceneEstimate
    notes: list[str] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)

    def record(self, stage: str, on_fit: OnProgress) -> FitRecord:
        """Record of a resumable fit; `stage` names its checkpoint."""
        return FitRecord(
            on_status=lambda now: on_fit(now.iteration, now.iterations, str(now)),
            checkpoint=self.part(stage),
            on_unusable=lambda reason: self.notes.append(f"{reason}, so the refinement started from scratch"),
        )

    def part(self, stage: str) -> Path:
        """Path of unfinished work, which the same command finds again with --resume."""
        path = self.folder.checkpoint(stage, self.made_from, keep=self.resume)
        self.unfinished.append(path)
        return path


@dataclass(kw_only=True)
class Work(Enlargeable):
    """A scene to refine, with everything that the methods share.

    Attributes:
        labels: pseudo-labels of the photographs.
        walk: cameras of the path towards the target.
    """

    labels: PseudoLabels
    walk: Cameras

    def fit(self, stage: str, gaussians: Gaussians, seed: int, source: ViewSource, on_fit: OnProgress) -> Gaussians:
        """Continue the scene's fit with photographs and the views of a source, so that no Gaussian becomes a needle."""
        start = gaussians.shortened().thickened(NEEDLE_RATIO / STRETCH**2)
        config = replace(self.config, max_stretch=STRETCH)
        return fit_views(self.views, start, config, seed, self.record(stage, on_fit), source).gaussians
