"""The one entry to all estimators: which to take, whether its package and weights are there, and its estimate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import dust3r, vggt
from cus.estimators.predictions import MemoryShortage
from cus.estimators.scene import SceneEstimate, check_arguments
from cus.estimators.stereo import estimate_stereo
from cus.kernels.threads import yield_cores

ESTIMATORS = ("auto", "stereo", "vggt", "dust3r")


@dataclass(frozen=True)
class Choice:
    """An estimator with its weights.

    Attributes:
        name: stereo, vggt or dust3r.
        weights: a Hub id, a folder or a file; None where none are needed.
        reason: why "auto" took it, or nothing.
    """

    name: str
    weights: str | None = None
    reason: str = ""

    @property
    def estimator(self) -> str:
        """What `choose` would take for it: the name, and the weights after a colon."""
        return f"{self.name}:{self.weights}" if self.weights else self.name

    @property
    def note(self) -> str:
        """One line for the report."""
        told = f"estimator: {self.name}" + (f" with {self.weights}" if self.weights else "")
        return told + (f" (auto: {self.reason})" if self.reason else "")


def choose(estimator: str) -> Choice:
    """The estimator that a name means; quick, nothing is loaded but, for "auto", a package that is installed.

    "auto" takes VGGT where its package works and one of its checkpoints is in the Hub's cache: it downloads nothing.

    Args:
        estimator: one of `ESTIMATORS`; weights may follow "vggt" and "dust3r" after a colon, as a Hub id, a folder or
            a file: "vggt:facebook/VGGT-1B-Commercial".

    Raises:
        InputError: no such estimator, or weights for one that takes none.
    """
    name, colon, weights = estimator.partition(":")
    if name not in ESTIMATORS:
        raise InputError(
            f"there is no estimator {estimator!r}; estimator must be one of {', '.join(ESTIMATORS)}; weights may "
            "follow as in vggt:facebook/VGGT-1B-Commercial"
        )
    if colon and (name in ("auto", "stereo") or not weights):
        raise InputError(
            f"estimator {estimator!r}: " + (f"{name} takes no weights" if weights else f"no weights after {name}:")
        )
    if name == "vggt":
        return Choice(name, weights or vggt.REPOSITORIES[0])
    if name == "dust3r":
        return Choice(name, weights or dust3r.REPOSITORY)
    if name == "stereo":
        return Choice(name)
    trouble = vggt.missing_package()
    if trouble:
        return Choice("stereo", reason=trouble)
    for repository in vggt.REPOSITORIES:
        if vggt.find_checkpoint(repository) is not None:
            return Choice("vggt", repository, "its weights are on this machine")
    return Choice("stereo", reason="VGGT is installed, but its weights are not on this machine; vggt downloads them")


def prepare(estimator: str) -> Choice:
    """`choose`, and the package and the weights of an estimator that was named are there afterwards.

    Weights that are missing are downloaded, unless the estimator is "auto".

    Raises:
        InputError: as `choose`; a package that is missing; weights that are missing and cannot be downloaded.
    """
    choice = choose(estimator)
    if choice.weights is not None:
        module = vggt if choice.name == "vggt" else dust3r
        module.require_package()
        module.fetch_checkpoint(choice.weights)
    return choice


def estimate_scene(
    images: Tensor,
    cameras: Cameras | None = None,
    estimator: str = "auto",
    *,
    valid: Tensor | None = None,
    focals: Tensor | None = None,
    sizes: Tensor | None = None,
    all_views: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> SceneEstimate:
    """Cameras, depth and confidence of a few photographs of one scene.

    Args:
        images: [V, 3, H, W] float32 RGB in [0, 1], V >= 2, without lens distortion.
        cameras: known cameras of these images: their poses and their scale are kept. None: both are estimated, the
            first camera becomes the identity and the unit of length is the scene scale (`SceneEstimate.scale` == 1).
        estimator: "stereo" (embedded, needs no weights), "vggt", "dust3r", or "auto": VGGT where it is installed and
            its weights are on this machine, else stereo. "vggt" and "dust3r" download their weights where they are
            missing; other weights may follow after a colon, as a Hub id, a folder or a file:
            "vggt:facebook/VGGT-1B-Commercial". The notes of the estimate name what was taken.
        valid: [V, H, W] bool, False where a smaller photo was padded, masked or transparent: such pixels count for
            nothing, and get no depth and no confidence.
        focals: [V] focal lengths in pixels of `images`, NaN where unknown; ignored when `cameras` are given.
        sizes: [V, 2] width and height in pixels that each photograph fills from the top left, padding left out; its
            middle is the principal point of cameras that are not known. None: the box around what is valid.
        all_views: refuse photographs of which one cannot be placed; else stereo leaves it out with a note while two
            remain. With given cameras nothing is left out: such a photograph gets no depth.
        on_progress: called with (steps done, steps in all).

    Returns:
        The estimate; its views are the photographs `SceneEstimate.used`, the first of which is the reference.

    Raises:
        InputError: one view, no features, no overlap, no parallax, given cameras that do not fit, or an estimator whose
            package or weights cannot be had.
        ValueError: arguments whose shapes do not belong together.
    """
    check_arguments(images, cameras, valid, focals, sizes)
    yield_cores()
    choice = prepare(estimator)
    rest: dict[str, Any] = {"valid": valid, "focals": focals, "on_progress": on_progress}
    if choice.weights is not None:
        network = vggt.estimate_vggt if choice.name == "vggt" else dust3r.estimate_dust3r
        try:
            return network(images, cameras, weights=choice.weights, **rest).with_notes(choice.note)
        except MemoryShortage:
            if estimator != "auto":
                raise
            choice = Choice("stereo", reason=f"VGGT with {len(images)} photographs needs more memory than the GPU has")
    # Not while the error is handled: its traceback keeps the network in the GPU's memory.
    return estimate_stereo(images, cameras, sizes=sizes, all_views=all_views, **rest).with_notes(choice.note)
