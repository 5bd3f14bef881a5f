"""The ways to refine a scene: from the prepared scene and its photographs to better Gaussians."""

from collections.abc import Callable
from dataclasses import dataclass

from cus.inference.progress import OnProgress
from cus.inference.refinement.settings import RefineSettings
from cus.inference.refinement.subject import Subject
from cus.inference.refinement.work import Work
from cus.splats import Gaussians


def _pseudo_labels(work: Work, on_fit: OnProgress) -> Gaussians:
    """Photographs warped into virtual close-ups supervise the scene, too."""
    start = work.given.baked()
    if start is not work.given:
        work.notes.append("the scene's levels of detail are baked: pseudo-labels refine the finest one everywhere")
    found = work.fit("refine", start, work.settings.seed, work.labels, on_fit)
    work.notes.append(work.labels.note)
    return found


def _progressive(work: Work, on_fit: OnProgress) -> Gaussians:
    """Generated views train the scene, three times nearer in each round."""
    from cus.inference.refinement.progressive import rounds

    return rounds(work, on_fit)


def _check_progressive(subject: Subject, settings: RefineSettings) -> None:
    from cus.diffusion.loading import find_model

    find_model(settings.model)


def _vsd(work: Work, on_fit: OnProgress) -> Gaussians:
    """Enlarged photographs supervise the scene, in rounds."""
    from cus.inference.refinement.vsd import rounds

    return rounds(work, on_fit)


def _check_vsd(subject: Subject, settings: RefineSettings) -> None:
    from cus.inference.refinement.vsd import check

    check(subject, settings)


@dataclass(frozen=True)
class RefineMethod:
    """A way to refine a scene.

    Attributes:
        run: makes better Gaussians.
        check: refuses what cannot be refined like this, before any slow work. Raises InputError.
    """

    run: Callable[[Work, OnProgress], Gaussians]
    check: Callable[[Subject, RefineSettings], None] = lambda subject, settings: None


METHODS: dict[str, RefineMethod] = {
    "pseudo-labels": RefineMethod(_pseudo_labels),
    "progressive": RefineMethod(_progressive, _check_progressive),
    "vsd": RefineMethod(_vsd, _check_vsd),
}
"""Methods by their name in `RefineSettings.method`."""
