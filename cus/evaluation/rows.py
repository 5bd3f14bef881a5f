"""How each row of a table makes its picture of a case; what rows share is made once."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras, trajectories
from cus.closeup import CloseUp, Each, close_up, condition
from cus.conditioning import Conditioning, ConditioningKind, conditioning_kind, hierarchical_warp
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.loading import load_model
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.estimators.filling import continue_smoothly
from cus.evaluation.settings import EvalSettings, RowSettings
from cus.inference.fitting import FitOptions, supervision
from cus.inference.photo_fit import fused_photos, photo_views
from cus.inference.settings import torch_device, torch_dtype
from cus.splats import FitResult, fit_views, render

T = TypeVar("T")


class Models:
    """Checkpoints, loaded when first asked for, and how they are run."""

    def __init__(self, settings: EvalSettings) -> None:
        self.settings, self.device = settings, torch_device(settings.device)
        self._loaded: dict[str, CloseUpShotPipeline] = {}

    def __getitem__(self, name: str) -> CloseUpShotPipeline:
        if name not in self._loaded:
            # One at a time: two full-size models are more than a card holds.
            self._loaded.clear()
            self._loaded[name] = load_model(name, self.device, dtype=torch_dtype(self.settings.dtype, self.device))
        return self._loaded[name]


class _Shared:
    """Values by key, each made once."""

    def __init__(self) -> None:
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]


class References(_Shared):
    """What the rows know of a pair of references, for all cases that use it.

    Args:
        scene: the references at the model's size, in the data set's world.
        valid: [V, H, W] bool, where they have pixels.
        models: checkpoints.
        read_larger: (longest side in pixels) -> the references as V pictures [3, h, w] uint8 of at most that size.
    """

    def __init__(
        self,
        scene: SceneEstimate,
        valid: Tensor,
        models: Models,
        read_larger: Callable[[int], list[Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.scene, self.valid, self.models, self.read_larger = scene, valid, models, read_larger
        self.settings = models.settings

    def photographs(self, row: RowSettings) -> list[Tensor] | None:
        """What colours come from beyond the scene's images; None: nothing. Raises InputError without photographs."""
        if row.photo_size is None:
            return None
        if self.read_larger is None:
            raise InputError(f"row {row.name}: photographs of {row.photo_size} pixels cannot be read here")
        read, size = self.read_larger, row.photo_size
        return self.once(("photographs", size), lambda: read(size))

    def splat(self, row: RowSettings) -> FitResult:
        """3DGS of the photographs alone."""

        def make() -> FitResult:
            # As `cus-fit` does it for photographs.
            options = self.options(row, row.strategy or "mcmc")
            cameras = self.scene.cameras
            config = options.config(self.scene.images.device, cameras.width, cameras.height)
            views = replace(photo_views(self.scene, self.valid), photographs=tuple(self.photographs(row) or ()))
            return fit_views(views, fused_photos(self.scene), config, options.seed)

        return self.once(("splat", row.photo_size, row.iterations, row.strategy), make)

    def options(self, row: RowSettings, strategy: str | None) -> FitOptions:
        """Of a row's fit."""
        return FitOptions(
            iterations=row.iterations or self.settings.splat_iterations,
            strategy=strategy,
            image_confidence=row.image_confidence,
            pixel_confidence=row.pixel_confidence,
            size=max(self.scene.cameras.width, self.scene.cameras.height),
            seed=self.settings.seed,
        )


class CaseWork(_Shared):
    """One case: references, and the camera whose picture is asked for.

    Args:
        camera: one camera of the size that is scored.
    """

    def __init__(self, references: References, camera: Cameras) -> None:
        super().__init__()
        self.references, self.camera = references, camera.to(references.scene.images.device)
        self.scene, self.models, self.settings = references.scene, references.models, references.settings

    def picture(self, row: RowSettings) -> Tensor:
        """[3, h, w] in [0, 1]. Raises InputError where the row has no answer."""
        if row.kind == "nearest":
            return nearest_reference(self.scene, self.camera)
        if row.kind in ("warp", "points", "fused"):
            warped = self.warped(row)
            image, mask = warped.images[0], warped.masks[0]
            return push_pull(image, mask) if row.inpaint else image
        if row.kind == "references_splat":
            return self._rendered(self.references.splat(row), row)
        if row.kind == "frames":
            return self.generated(row).frames[-1]
        return self._rendered(self.splat(row), row)

    def warped(self, row: RowSettings) -> Conditioning:
        """What a kind of conditioning shows of the target."""
        kind = _kind(row.kind if row.kind in ("points", "fused") else "hierarchical", row)
        key, photographs = self._shown(kind, row)

        def make() -> Conditioning:
            return condition(kind, self.scene, self.camera, photographs, True, self._each(row, 1, *key))

        return self.once(("warp", *key), make)

    def _shown(self, kind: ConditioningKind, row: RowSettings) -> tuple[tuple[Hashable, ...], list[Tensor] | None]:
        """What conditioning images depend on beside the cameras, and the photographs that they are made from."""
        if not kind.takes_photographs:
            return (kind, None), None
        return (kind, row.photo_size), self.references.photographs(row)

    def path(self, frames: int) -> Cameras:
        """From the nearest reference to the target, which is last: the model is asked for a clip, not for a picture."""
        start = nearest_index(self.scene.cameras, self.camera)
        reference = self.scene.cameras[start].resized(self.camera.width, self.camera.height)
        return trajectories.interpolate(Cameras.cat([reference.to("cpu"), self.camera.to("cpu")]), frames=frames)

    @cached_property
    def nearest(self) -> Tensor:
        """[1, 3, H, W]: the reference at which the path starts, the image context of the network."""
        start = nearest_index(self.scene.cameras, self.camera)
        return self.scene.images[start : start + 1]

    def generated(self, row: RowSettings) -> CloseUp:
        """The model's frames along the path, the second pass's where there is one."""
        name = row.model or self.settings.model
        sampling = self.models[name].sampling
        kind = _kind(sampling.conditioning if row.conditioning == "auto" else row.conditioning, row)
        passes = 1 + (sampling.second_pass if row.structure is None else row.structure)
        shown, photographs = self._shown(kind, row)
        key = (name, *shown, row.steps, row.guidance)

        def make() -> CloseUp:
            frames = self.settings.frames or sampling.frames
            return close_up(
                self.scene,
                self.once(("path", frames), lambda: self.path(frames).to(self.scene.images.device)),
                self.models[name],
                passes=passes,
                kind=kind,
                photographs=photographs,
                reference=self.nearest,
                steps=row.steps,
                guidance=row.guidance,
                seed=self.settings.seed,
                each=self._each(row, passes, *key),
            )

        return self.once(("close-up", passes, *key), make)

    def _each(self, row: RowSettings, passes: int, *key: Hashable) -> Each:
        """Makes the stages of close-ups with the same key once."""

        def each(name: str, function: Callable[..., T], *arguments: Any) -> T:
            if name == "agreement":
                return self.references.once((name, row.photo_size), lambda: function(*arguments))
            # The first of two passes is the only one of one.
            stage = ("frames", 1) if name == "coarse" else (name, passes if name in ("frames", "cloud") else 0)
            return self.once((*stage, *key), lambda: function(*arguments))

        return each

    def splat(self, row: RowSettings) -> FitResult:
        """3DGS of frames and references (Eqs. 8 to 10)."""
        made = self.generated(row)
        confidences = row.image_confidence, row.pixel_confidence
        key = ("splat", id(made), row.photo_size, confidences, row.strategy, row.iterations)

        def make() -> FitResult:
            options = self.references.options(row, row.strategy)
            config = options.config(self.scene.images.device, made.cameras.width, made.cameras.height)
            views = supervision(made, made.cloud, options, self.references.photographs(row), self.references.valid)
            return fit_views(views, made.cloud, config, options.seed)

        return self.once(key, make)

    def _rendered(self, found: FitResult, row: RowSettings) -> Tensor:
        config = self.references.options(row, row.strategy).config(
            self.scene.images.device, self.camera.width, self.camera.height
        )
        return render(found.gaussians, self.camera, antialiased=config.antialiased)[0]


def _kind(name: str, row: RowSettings) -> ConditioningKind:
    """A kind of conditioning images with a row's options."""
    return conditioning_kind(
        name,
        suppress_background=row.suppress_background,
        scales=None if row.scales is None else tuple(row.scales),
        shrink_references=row.shrink_references,
    )


def nearest_index(cameras: Cameras, camera: Cameras) -> int:
    """Which of the cameras stands nearest to the one."""
    return int(torch.cdist(camera.centers.to(cameras.centers), cameras.centers)[0].argmin())


def nearest_reference(scene: SceneEstimate, camera: Cameras) -> Tensor:
    """The reference nearest to a camera, sampled bicubically through its own depths; black where it says nothing.

    The depth that the camera sees is the hierarchical warp's of that reference alone, so that only the sampling of
    colours differs from it.

    Args:
        scene: references.
        camera: one.

    Returns:
        [3, h, w] in [0, 1].
    """
    i = nearest_index(scene.cameras, camera)
    part = slice(i, i + 1)
    alone = SceneEstimate(scene.images[part], scene.cameras[part], scene.depths[part], scene.confidences[part])
    warped = hierarchical_warp(alone, camera)
    pixels, depths = alone.cameras.project(camera.backproject(warped.depths)[0].flatten(0, 1))
    size = pixels.new_tensor([alone.cameras.width, alone.cameras.height])
    grid = (2 * pixels[0] / size - 1).view(1, camera.height, camera.width, 2)
    seen = warped.masks[0] & (depths[0].view(camera.height, camera.width) > 0)
    image = F.grid_sample(alone.images, grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    return torch.where(seen, image.clamp(0, 1), 0.0)


def push_pull(image: Tensor, mask: Tensor) -> Tensor:
    """[3, h, w] with the pixels outside the mask [h, w] filled from a pyramid of means of those inside."""
    if not bool(mask.any()):
        return image
    return torch.stack([continue_smoothly(channel, mask) for channel in image]).clamp(0, 1)
