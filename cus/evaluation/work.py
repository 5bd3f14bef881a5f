"""The inputs of the rows of a table: references and camera of a case; results shared by several rows are made once."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from cus.cameras import Cameras, trajectories
from cus.choices import StrategyName
from cus.closeup import Each, condition
from cus.conditioning import Conditioning
from cus.conditioning.kinds import ConditioningKind
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.loading import load_model
from cus.diffusion.lora import find_lora
from cus.errors import InputError
from cus.inference.fit_options import FitOptions
from cus.inference.settings import torch_device, torch_dtype
from cus.scene import SceneEstimate
from cus.splats import FitResult, render

T = TypeVar("T")


@dataclass(frozen=True)
class Defaults:
    """Defaults for rows that do not override them.

    Attributes:
        model: "mini", a folder, or a Hub id.
        frames: number of frames of a path; None: the model's.
        iterations: number of iterations of a fit; None: the backend's.
        seed: seed of every random draw.
    """

    model: str = "mini"
    frames: int | None = None
    iterations: int | None = None
    seed: int = 0


class Models:
    """Checkpoints, loaded on first use.

    Args:
        device: a torch device, or "auto".
        dtype: precision of the network, or "auto".
    """

    def __init__(self, device: str = "auto", dtype: str = "auto") -> None:
        self.device, self.dtype = torch_device(device), dtype
        self._loaded: dict[tuple[str, str | None], CloseUpShotPipeline] = {}

    def __getitem__(self, names: tuple[str, str | None]) -> CloseUpShotPipeline:
        """A checkpoint with a LoRA, or with none."""
        if names not in self._loaded:
            # One at a time: two full-size models are more than a card holds.
            self._loaded.clear()
            model, adapter = names
            lora = None if adapter is None else find_lora(adapter)
            dtype = torch_dtype(self.dtype, self.device)
            self._loaded[names] = load_model(model, self.device, dtype=dtype, lora=lora)
        return self._loaded[names]


class _Shared:
    """Values by key, each made once."""

    def __init__(self) -> None:
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]


class References(_Shared):
    """The rows' knowledge of a pair of references, shared by all cases that use it.

    Args:
        scene: references at the model's size, in the data set's world.
        valid: [V, H, W] bool, False where the references have no pixels.
        models: checkpoints by name.
        defaults: defaults of the rows.
        read_larger: (longest side in pixels) -> the references as V pictures [3, h, w] uint8 of at most that size.
    """

    def __init__(
        self,
        scene: SceneEstimate,
        valid: Tensor,
        models: Models,
        defaults: Defaults,
        read_larger: Callable[[int], list[Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.scene, self.valid, self.models, self.defaults = scene, valid, models, defaults
        self.read_larger = read_larger

    def photographs(self, size: int | None) -> list[Tensor] | None:
        """The references at most `size` pixels long; None for None. Raises InputError without photographs."""
        if size is None:
            return None
        if self.read_larger is None:
            raise InputError(f"photographs of {size} pixels cannot be read here")
        read = self.read_larger
        return self.once(("photographs", size), lambda: read(size))

    def fit_options(
        self,
        iterations: int | None,
        strategy: str | None,
        image_confidence: bool = True,
        pixel_confidence: bool = True,
    ) -> FitOptions:
        """Options of a row's fit."""
        return FitOptions(
            iterations=iterations or self.defaults.iterations,
            strategy=cast(StrategyName | None, strategy),  # rows restrict it to the choices
            image_confidence=image_confidence,
            pixel_confidence=pixel_confidence,
            size=max(self.scene.cameras.width, self.scene.cameras.height),
            seed=self.defaults.seed,
        )


class CaseWork(_Shared):
    """One case: references, and the target camera.

    Args:
        camera: one camera of the scored size.
    """

    def __init__(self, references: References, camera: Cameras) -> None:
        super().__init__()
        self.references, self.camera = references, camera.to(references.scene.images.device)
        self.scene, self.models, self.defaults = references.scene, references.models, references.defaults

    @cached_property
    def nearest(self) -> Tensor:
        """[1, 3, H, W]: the reference where the path starts, the image context of the network."""
        start = nearest_index(self.scene.cameras, self.camera)
        return self.scene.images[start : start + 1]

    def path(self, frames: int) -> Cameras:
        """A path from the nearest reference to the target at its end: the model makes a clip, not a picture."""

        def make() -> Cameras:
            start = nearest_index(self.scene.cameras, self.camera)
            reference = self.scene.cameras[start].resized(self.camera.width, self.camera.height)
            ends = Cameras.cat([reference.to("cpu"), self.camera.to("cpu")])
            return trajectories.interpolate(ends, frames=frames).to(self.scene.images.device)

        return self.once(("path", frames), make)

    def warped(self, kind: ConditioningKind, photo_size: int | None = None) -> Conditioning:
        """Conditioning of the target of one kind, from photographs with a longest side of at most `photo_size`."""
        key = (kind, photo_size)
        photographs = self.references.photographs(photo_size)

        def make() -> Conditioning:
            return condition(kind, self.scene, self.camera, photographs, True, self.each(photo_size, 1, *key))

        return self.once(("warp", *key), make)

    def each(self, photo_size: int | None, passes: int, *key: Hashable) -> Each:
        """Runs each stage of close-ups with the same key only once."""

        def each(name: str, function: Callable[..., T], *arguments: Any) -> T:
            if name == "agreement":
                return self.references.once((name, photo_size), lambda: function(*arguments))
            # The first of two passes is the same as the only one of one.
            stage = ("frames", 1) if name == "coarse" else (name, passes if name in ("frames", "cloud") else 0)
            return self.once((*stage, *key), lambda: function(*arguments))

        return each

    def rendered(self, found: FitResult) -> Tensor:
        """[3, h, w]: render of a fitted scene from the target camera."""
        options = self.references.fit_options(None, None)
        config = options.config(self.scene.images.device, self.camera.width, self.camera.height)
        return render(found.gaussians, self.camera, antialiased=config.antialiased)[0]


def nearest_index(cameras: Cameras, camera: Cameras) -> int:
    """The index of the camera nearest to `camera`."""
    return int(torch.cdist(camera.centers.to(cameras.centers), cameras.centers)[0].argmin())
