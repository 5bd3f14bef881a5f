"""The single entry to all estimators: chooses one, checks that package and weights are available, and runs it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.da3 import DA3
from cus.estimators.dust3r import DUSt3R
from cus.estimators.estimator import Estimator, Request
from cus.estimators.from_transformers import DepthAnything2, DepthPro
from cus.estimators.map_anything import MapAnything
from cus.estimators.mono import Mono
from cus.estimators.predictions import MemoryShortage
from cus.estimators.stereo import Stereo
from cus.estimators.vggt import VGGT
from cus.kernels.threads import yield_cores
from cus.scene import SceneEstimate, check_arguments

REGISTRY: dict[str, Estimator] = {
    one.name: one for one in (Stereo(), VGGT(), DUSt3R(), MapAnything(), DA3(), DepthPro(), DepthAnything2(), Mono())
}
"""Estimators by name."""
ESTIMATORS = ("auto", *REGISTRY)
AUTOMATIC = ("vggt", "da3", "stereo")  # choices of "auto" in order of preference
AUTOMATIC_ALONE = ("da3", "depth-pro", "depth-anything-2", "mono")  # choices of "auto" for one photograph


@dataclass(frozen=True)
class Choice:
    """An estimator with its weights.

    Attributes:
        name: name in `REGISTRY`.
        weights: a Hub id, a folder or a file; None if none are needed.
        reason: reason for the choice of "auto", or empty.
    """

    name: str
    weights: str | None = None
    reason: str = ""

    @property
    def estimator(self) -> str:
        """The name for `choose`, with the weights after a colon."""
        return f"{self.name}:{self.weights}" if self.weights else self.name

    @property
    def note(self) -> str:
        """One line about the choice for the report."""
        told = f"estimator: {self.name}" + (f" with {self.weights}" if self.weights else "")
        return told + (f" (auto: {self.reason})" if self.reason else "")


def choose(estimator: str, views: int | None = None) -> Choice:
    """Choose an estimator by name; quick: for "auto" it only imports installed packages.

    "auto" takes VGGT if its package works and one of its checkpoints is in the Hub's cache, else Depth Anything 3 if
    one of its checkpoints is there, else stereo; for one photograph the first available one of `AUTOMATIC_ALONE`.
    Nothing is downloaded.

    Args:
        estimator: one of `ESTIMATORS`; weights may follow a network's name after a colon, as a Hub id, folder or file:
            "vggt:facebook/VGGT-1B-Commercial". "da3:small" and "da3:base" are short for the published weights.
        views: number of photographs; None: not known yet.

    Raises:
        InputError: unknown estimator, weights for one without any, or an unsuitable number of photographs.
    """
    name, colon, weights = estimator.partition(":")
    if name not in ESTIMATORS:
        raise InputError(
            f"there is no estimator {estimator!r}; estimator must be one of {', '.join(ESTIMATORS)}; weights may "
            "follow as in vggt:facebook/VGGT-1B-Commercial"
        )
    if colon and not weights:
        raise InputError(f"estimator {estimator!r}: no weights after {name}:")
    if name == "auto" and weights:
        raise InputError(f"estimator {estimator!r}: auto takes no weights")
    if name == "auto":
        return _automatic(views)
    if views is not None:
        _check_number(REGISTRY[name], views)
    return Choice(name, REGISTRY[name].weights_of(weights))


def _check_number(estimator: Estimator, views: int) -> None:
    alone = _either([name for name, one in REGISTRY.items() if one.fewest == 1])
    if views < estimator.fewest:
        raise InputError(
            f"{estimator.name} measures depth between photographs and needs at least {estimator.fewest} of the scene, "
            f"got {views}; add another view, or use an estimator that sees depth in one: {alone}"
        )
    if estimator.most is not None and views > estimator.most:
        several = _either([name for name, one in REGISTRY.items() if one.most is None])
        raise InputError(
            f"{estimator.name} sees the depth of one photograph, and not how {views} of them lie to each other; use "
            f"{several}, or give one photograph"
        )


def _either(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def prepare(estimator: str, views: int | None = None) -> Choice:
    """Like `choose`, but makes the package and weights of a named estimator available.

    Missing weights are downloaded, unless the estimator is "auto".

    Raises:
        InputError: as `choose`; a missing package; missing weights that cannot be downloaded.
    """
    choice = choose(estimator, views)
    REGISTRY[choice.name].prepare(choice.weights)
    return choice


def _automatic(views: int | None) -> Choice:
    reasons = []
    for name in AUTOMATIC_ALONE if views == 1 else AUTOMATIC:
        found = REGISTRY[name].available()
        if found.reason:
            reasons.append(found.reason)
        if found.here:
            return Choice(name, found.weights, "; ".join(reasons))
    raise InputError(
        f"no estimator that sees depth in one photograph can be used at once ({'; '.join(reasons)}); name one to "
        f"download it, such as --estimator {AUTOMATIC_ALONE[0]}, or add a second photograph, taken from a step aside"
    )


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
    """Estimate cameras, depth and confidence of a few photographs of one scene.

    Args:
        images: [V, 3, H, W] float32 RGB in [0, 1], V >= 1, without lens distortion; a single image needs a network for
            one view, such as Depth Anything 3, and several need an estimator for more.
        cameras: known cameras of these images: their poses and scale are kept. None: both are estimated, the first
            camera becomes the identity, and the unit of length is the scene scale (`SceneEstimate.scale` == 1).
        estimator: "stereo" (embedded, needs no weights), "vggt", "dust3r", "da3" (Depth Anything 3), for one photograph
            also "depth-pro", "depth-anything-2" or "mono", or "auto": VGGT if it is installed and its weights are
            local, else Depth Anything 3 if its weights are local, else stereo (see `choose`). A named network downloads
            missing weights;
            other weights may follow after a colon, as a Hub id, folder or file: "vggt:facebook/VGGT-1B-Commercial",
            "da3:base". The notes of the estimate name the choice.
        valid: [V, H, W] bool, False where a smaller photo was padded, masked or transparent: such pixels are ignored,
            and get no depth and no confidence.
        focals: [V] focal lengths in pixels of `images`, NaN where unknown; ignored when `cameras` are given.
        sizes: [V, 2] width and height in pixels of each photograph from the top left, without padding; its middle is
            the principal point of unknown cameras. None: the bounding box of the valid pixels.
        all_views: refuse photographs if one cannot be placed; otherwise stereo leaves it out with a note, as long as
            two remain. With given cameras none is left out: such a photograph gets no depth.
        on_progress: called with (steps done, total steps).

    Returns:
        The estimate; its views are the photographs `SceneEstimate.used`, the first of which is the reference.

    Raises:
        InputError: an unsuitable number of views, no features, no overlap, no parallax, given cameras that do not fit,
            or an estimator whose package or weights are not available.
        ValueError: inconsistent shapes.
    """
    check_arguments(images, cameras, valid, focals, sizes)
    yield_cores()
    choice = prepare(estimator, len(images))
    request = Request(images, cameras, valid, focals, sizes, all_views, on_progress)
    try:
        return REGISTRY[choice.name].estimate(request, choice.weights).with_notes(choice.note)
    except MemoryShortage:
        if estimator != "auto" or len(images) == 1:
            raise
        title = REGISTRY[choice.name].title
    # Not while the error is handled, because its traceback keeps the network in the GPU's memory.
    choice = Choice("stereo", reason=f"{title} with {len(images)} photographs needs more memory than the GPU has")
    return REGISTRY["stereo"].estimate(request, None).with_notes(choice.note)
