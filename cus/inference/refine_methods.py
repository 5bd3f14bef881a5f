"""The ways to refine a scene: from the prepared scene and its photographs to better Gaussians."""

from collections.abc import Callable

from cus.inference.progress import OnProgress
from cus.inference.refine_work import LONGEST, Work
from cus.splats import Gaussians, fit_views


def _pseudo_labels(work: Work, on_fit: OnProgress) -> Gaussians:
    """Photographs warped into virtual close-ups supervise the scene, too."""
    start = work.given.baked()
    if start is not work.given:
        work.notes.append("the scene's levels of detail are baked: pseudo-labels refine the finest one everywhere")
    record = work.record("refine", on_fit)
    found = fit_views(work.views, start.shortened(LONGEST), work.config, work.settings.seed, record, work.labels)
    work.notes.append(work.labels.note)
    return found.gaussians


def _progressive(work: Work, on_fit: OnProgress) -> Gaussians:
    """Generated views train the scene, three times nearer in each round."""
    from cus.inference.refine_progressive import rounds

    return rounds(work, on_fit)


METHODS: dict[str, Callable[[Work, OnProgress], Gaussians]] = {
    "pseudo-labels": _pseudo_labels,
    "progressive": _progressive,
}
"""Methods by their name in `RefineSettings.method`."""
