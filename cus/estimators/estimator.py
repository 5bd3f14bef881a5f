"""The interface of all estimators, and the base of networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError, first_line
from cus.estimators.framing import FramedViews, FrameRule, frame_views
from cus.estimators.predictions import Prediction, explained_memory, scene_from
from cus.hub.weights import fetch_weights, find_weights
from cus.scene import SceneEstimate

STEPS = 3  # of the progress of a network
READING_ERRORS = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError)
# Emulation, which oneDNN has for every CPU with AVX-512, is not faster than float32.
_CPU_INSTRUCTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@dataclass(frozen=True)
class Availability:
    """Whether an estimator can be used immediately, without a download.

    Attributes:
        here: whether it is available.
        weights: available weights; None if none are needed.
        reason: reason why it is available, or not.
    """

    here: bool
    weights: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Request:
    """The arguments of `estimate_scene` (documented there), with consistent shapes."""

    images: Tensor
    cameras: Cameras | None = None
    valid: Tensor | None = None
    focals: Tensor | None = None
    sizes: Tensor | None = None
    all_views: bool = False
    on_progress: Callable[[int, int], None] | None = None


class Estimator(ABC):
    """Estimates cameras, depth and confidence of photographs. By default it needs no weights and is always available.

    Attributes:
        name: name for users.
        title: its name in messages.
        fewest: minimum number of photographs.
        most: maximum number of photographs; None: any number.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    fewest: ClassVar[int] = 2
    most: ClassVar[int | None] = None

    def weights_of(self, asked: str) -> str | None:
        """The weights requested by the user, or the default for "". Raises InputError if it takes none."""
        if asked:
            raise InputError(f"estimator '{self.name}:{asked}': {self.name} takes no weights")
        return None

    def available(self) -> Availability:
        """Whether it can be used immediately; quick."""
        return Availability(True)

    def prepare(self, weights: str | None) -> None:
        """Get what is missing. Raises InputError if it cannot be used."""
        return

    @abstractmethod
    def estimate(self, request: Request, weights: str | None) -> SceneEstimate:
        """Estimate cameras, depth and confidence, on the device of the images. Raises InputError on failure."""


class Network(Estimator):
    """An estimator with weights.

    Attributes:
        repositories: Hub ids of its weights, the default first.
        aliases: short names of weights.
        files: file names of weights in a repository or folder, in order of preference.
        licence: licence of the weights.
        package: package with the code; "" for this project's own.
        install: installation instructions for the package.
        rule: how to frame pictures for it.
    """

    repositories: ClassVar[tuple[str, ...]]
    aliases: ClassVar[Mapping[str, str]] = {}
    files: ClassVar[tuple[str, ...]] = ("model.safetensors",)
    licence: ClassVar[str]
    package: ClassVar[str] = ""
    install: ClassVar[str] = ""
    rule: ClassVar[FrameRule]

    def weights_of(self, asked: str) -> str | None:
        """A Hub id, a folder or a file."""
        return self.aliases.get(asked, asked) or self.repositories[0]

    def import_package(self) -> object:
        """Import what is used from the package."""
        return None

    def missing_package(self) -> str:
        """The reason why the package cannot be used; empty if it can."""
        if not self.package:
            return ""
        if find_spec(self.package) is None:
            return f"{self.title} is not installed"
        try:
            self.import_package()
        except Exception as error:  # "auto" must continue, whatever another project's code raises
            return f"{self.title} cannot be imported: {error}"
        return ""

    def require_package(self) -> None:
        """Raise InputError with installation instructions if the package cannot be used."""
        if trouble := self.missing_package():
            raise InputError(
                f"{trouble}; get it with: {self.install}. Licence of the weights: {self.licence}. Or use the estimator "
                "'stereo'"
            )

    def find(self, weights: str) -> Path | None:
        """The local checkpoint (`find_weights`), or None."""
        return find_weights(weights, self.files)

    def fetch(self, weights: str) -> Path:
        """The checked checkpoint, downloaded if necessary (`fetch_weights`)."""
        path = fetch_weights(weights, self.files, self.licence)
        self.check(path, weights)
        return path

    def check(self, path: Path, weights: str) -> None:
        """Raise InputError if the file found for `weights` cannot belong to the network."""

    def available(self) -> Availability:
        """Whether package and weights are available locally."""
        if trouble := self.missing_package():
            return Availability(False, reason=trouble)
        for repository in self.repositories:
            if self.find(repository) is not None:
                return Availability(True, repository, "its weights are on this machine")
        return Availability(
            False, reason=f"{self.title}'s weights are not on this machine ({self.name} downloads them)"
        )

    def prepare(self, weights: str | None) -> None:
        """Check the package, and download missing weights."""
        self.require_package()
        self.fetch(weights or self.repositories[0])

    def estimate(self, request: Request, weights: str | None) -> SceneEstimate:
        """The network's result in the photographs' own pixels; no view is left out."""
        images, device, valid, given = request.images, request.images.device, request.valid, request.cameras

        def report(done: int) -> None:
            if request.on_progress is not None:
                request.on_progress(done, STEPS)

        self.require_package()
        framed = frame_views(images, valid, self.rule)
        given = None if given is None else given.to(device)
        with explained_memory(self.title, len(images)):
            model = self.load(self.fetch(weights or self.repositories[0])).to(device)
            report(1)
            with torch.no_grad():
                output = self.run(model, framed, given)
            del model  # the rest may need its memory
            report(2)
            prediction = self.prediction(output, framed, given)
        valid = None if valid is None else valid.to(device)
        scene = scene_from(prediction, framed, images, valid, given, request.focals)
        report(STEPS)
        return scene

    def load(self, path: Path) -> Any:
        """Load a checkpoint, in evaluation mode on the CPU.

        Raises:
            InputError: a damaged file, or weights that do not match the network.
        """
        try:
            model = self.read(path)
        except READING_ERRORS as error:
            raise InputError(f"{path} cannot be read as {self.title} ({first_line(error)}); get it again") from error
        return model.eval().requires_grad_(False)

    @abstractmethod
    def read(self, path: Path) -> Any:
        """The network with the weights of a checkpoint; it may raise any of `READING_ERRORS`."""

    @abstractmethod
    def run(self, model: Any, framed: FramedViews, given: Cameras | None) -> Any:
        """Run the network on V views framed by `rule`.

        Args:
            model: the network, on the views' device.
            framed: framed views.
            given: V known cameras of the photographs, or None.
        """

    @abstractmethod
    def prediction(self, output: Any, framed: FramedViews, given: Cameras | None) -> Prediction:
        """Convert the output of `run`."""


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type in which a device multiplies matrices faster than in float32; None if there is none.

    On GPUs bfloat16 from Ampere on, float16 before; on CPUs bfloat16 if they have instructions for it.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in _CPU_INSTRUCTIONS):
        return torch.bfloat16
    return None
