"""How each row of a table makes its picture of a case; what rows share is made once."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras, trajectories
from cus.conditioning import (
    CONDITIONING_KINDS,
    Conditioning,
    ConditioningKind,
    FusedCloud,
    agree,
    conditioning_of,
    fuse_views,
    hierarchical_warp,
    render_points,
)
from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.estimators.filling import continue_smoothly
from cus.evaluation.settings import EvalSettings, RowSettings
from cus.inference.fitting import FitOptions, supervision
from cus.inference.photo_fit import fused_photos, photo_views
from cus.inference.settings import torch_device, torch_dtype
from cus.inference.stages import Generated, load_model
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

    def agreed(self, row: RowSettings) -> SceneEstimate:
        """The references made to agree, for the fused warp."""
        return self.once(("agreed", row.photo_size), lambda: agree(self.scene, self.photographs(row)))

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
        kinds: dict[str, ConditioningKind] = {"points": "points", "fused": "fused"}
        kind = kinds.get(row.kind, "hierarchical")
        return self.once(("warp", *_shown(kind, row)), lambda: self._conditioning(kind, row, self.camera))

    def _conditioning(self, kind: ConditioningKind, row: RowSettings, cameras: Cameras) -> Conditioning:
        fused = kind == "fused"
        return conditioning_of(
            kind,
            self.references.agreed(row) if fused else self.scene,
            cameras,
            suppress_background=row.suppress_background,
            scales=row.scales,
            shrink_references=row.shrink_references,
            photographs=self.references.photographs(row) if fused else None,
            agreed=fused,
            with_layers=fused,
        )

    def kind(self, row: RowSettings) -> ConditioningKind:
        """Of the conditioning images that a row's model is shown."""
        for kind in CONDITIONING_KINDS:
            if row.conditioning == kind:
                return kind
        return self.models[row.model or self.settings.model].sampling.conditioning

    def path(self, frames: int) -> Cameras:
        """From the nearest reference to the target, which is last: the model is asked for a clip, not for a picture."""
        start = nearest_index(self.scene.cameras, self.camera)
        reference = self.scene.cameras[start].resized(self.camera.width, self.camera.height)
        return trajectories.interpolate(Cameras.cat([reference.to("cpu"), self.camera.to("cpu")]), frames=frames)

    def generated(self, row: RowSettings) -> Generated:
        """The model's frames along the path, the second pass's where there is one."""
        name = row.model or self.settings.model
        kind = self.kind(row)
        sampling = (name, *_shown(kind, row), row.steps, row.guidance)

        def make() -> Generated:
            pipeline = self.models[name]
            path = self.path(self.settings.frames or pipeline.sampling.frames).to(self.scene.images.device)
            warped = self._conditioning(kind, row, path)
            return Generated(self.scene, path, warped, self._frames(row, name, warped, None), self.references.valid)

        first = self.once(("frames", *sampling), make)
        second = self.models[name].sampling.second_pass if row.structure is None else row.structure
        if not second:
            return first

        def again() -> Generated:
            cloud = self._cloud(("cloud", *sampling), first)
            structure = render_points(cloud.points, cloud.colors, first.cameras)
            return replace(first, frames=self._frames(row, name, first.warped, structure.images))

        return self.once(("frames", "second", *sampling), again)

    def splat(self, row: RowSettings) -> FitResult:
        """3DGS of frames and references (Eqs. 8 to 10)."""
        made = self.generated(row)
        confidences = row.image_confidence, row.pixel_confidence
        key = ("splat", id(made), row.photo_size, confidences, row.strategy, row.iterations)

        def make() -> FitResult:
            options = self.references.options(row, row.strategy)
            config = options.config(self.scene.images.device, made.cameras.width, made.cameras.height)
            cloud = self._cloud(("cloud", id(made)), made)
            views = supervision(made, cloud, options, self.references.photographs(row))
            return fit_views(views, cloud, config, options.seed)

        return self.once(key, make)

    def _cloud(self, key: Hashable, made: Generated) -> FusedCloud:
        return self.once(key, lambda: fuse_views(*made.with_references(), scale=made.scene.scale))

    def _frames(self, row: RowSettings, name: str, warped: Conditioning, structure: Tensor | None) -> Tensor:
        """[T, 3, h, w]: one pass of the model; both passes draw the same noise."""
        # The first photograph gives the image context: the nearest one, as the path starts there.
        start = nearest_index(self.scene.cameras, self.camera)
        order = [start, *(i for i in range(len(self.scene)) if i != start)]
        pipeline = self.models[name]
        frames = pipeline(
            self.scene.images[order],
            warped,
            structure,
            steps=row.steps,
            guidance=row.guidance,
            generator=torch.Generator().manual_seed(self.settings.seed),
        )
        if not bool(torch.isfinite(frames).all()):
            raise InputError(f"the model gave values that are not numbers in {pipeline.unet.dtype}; try dtype=float32")
        return frames

    def _rendered(self, found: FitResult, row: RowSettings) -> Tensor:
        config = self.references.options(row, row.strategy).config(
            self.scene.images.device, self.camera.width, self.camera.height
        )
        return render(found.gaussians, self.camera, antialiased=config.antialiased)[0]


def _shown(kind: ConditioningKind, row: RowSettings) -> tuple[Hashable, ...]:
    """What conditioning images of a kind depend on."""
    if kind == "points":
        return (kind, row.shrink_references)
    if kind == "fused":
        return (kind, row.photo_size, row.suppress_background)
    return (kind, tuple(row.scales or ()), row.suppress_background)


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
