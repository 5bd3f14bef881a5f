"""The stages of a run, each a function from what is known to what it adds (docs: the way of the data)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils import logging
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, PosedPhotos, read_photos, trajectories
from cus.cameras.conversions import focal_from_35mm, focal_from_fov
from cus.cameras.large_pictures import large_pictures
from cus.cameras.path_files import CameraPath, read_camera_path
from cus.cameras.photos import Photo, inspect_photo
from cus.conditioning import (
    Conditioning,
    ConditioningKind,
    FusedCloud,
    Layers,
    conditioning_of,
    fuse_views,
    render_points,
)
from cus.datasets.scenes import open_cameras
from cus.datasets.stored_photos import mask_note, masks_beside, with_masks
from cus.diffusion import PLANS, CloseUpShotPipeline, MemoryPlan, Sampling
from cus.diffusion.memory import Choice, Clip, choose_plan, skeleton
from cus.diffusion.parts import check_parts
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.estimators.choice import prepare
from cus.hub.fetch import OnFetched
from cus.hub.stored import SHIPPED, StoredModel, explained, open_model
from cus.inference.folder import State
from cus.inference.progress import OnProgress
from cus.inference.settings import InferSettings
from cus.inference.view_choice import Views
from cus.splats import Gaussians

# Longest side in pixels of photographs that colours are taken from: two of them take 400 MB.
LARGEST_PHOTOGRAPH = 8192
LAYERS = "layers."  # before the names of the layers' tensors in a recorded conditioning


@dataclass(frozen=True)
class Inputs:
    """The photographs of a run.

    Attributes:
        photos: what their headers say, V of them.
        posed: their known cameras, or None.
        masks: V files that are black where a photograph is to be ignored, or None; empty: none has one.
        notes: what the user should know about how they are read.
    """

    photos: tuple[Photo, ...]
    posed: PosedPhotos | None
    masks: tuple[Path | None, ...] = ()
    notes: tuple[str, ...] = ()

    def select(self, views: Sequence[int]) -> "Inputs":
        """Some of the photographs."""
        photos = tuple(self.photos[view] for view in views)
        masks = tuple(self.masks[view] for view in views) if self.masks else ()
        return Inputs(photos, None if self.posed is None else self.posed.select(list(views)), masks, self.notes)


@dataclass(frozen=True)
class Batch:
    """Decoded photographs at the working size.

    Attributes:
        set: images, valid pixels and scales, at one common size W x H.
        cameras: known cameras at that size, or None.
        focals: [V] focal lengths in pixels of the batch, NaN where unknown.
        sizes: [V, 2] width and height that each photograph fills; the rest is padding.
        origin: [3] of the known cameras' world (`PosedPhotos.origin`), else zero.
    """

    set: PhotoSet
    cameras: Cameras | None
    focals: Tensor
    sizes: Tensor
    origin: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def select(self, views: Sequence[int]) -> "Batch":
        """Some of the photographs."""
        chosen = list(views)
        part = self.set
        part = replace(part, images=part.images[chosen], valid=part.valid[chosen], scales=part.scales[chosen])
        cameras = None if self.cameras is None else self.cameras[chosen]
        return Batch(part, cameras, self.focals[chosen], self.sizes[chosen], self.origin)


def inspect(settings: InferSettings, views: Views) -> Inputs:
    """Look at every input before slow work starts. Raises InputError for the first that cannot be used."""
    if settings.cameras is not None:
        if views.frames:
            raise InputError("--cameras belong to photographs by their names; extract the frames of the video first")
        posed = with_masks(open_cameras(settings.cameras).match(views.paths).at_file_size())
        inputs = Inputs(tuple(posed.photo(index) for index in range(len(posed))), posed, posed.masks, posed.notes)
    else:
        masks = masks_beside(views.paths)
        count = sum(mask is not None for mask in masks)
        notes = (mask_note(count, len(masks)),) if count else ()
        inputs = Inputs(tuple(views.photo(path) or inspect_photo(path) for path in views.paths), None, masks, notes)
    prepare(settings.estimator)
    return inputs


def find_model(source: str, variant: str | None = None) -> StoredModel:
    """A checkpoint, before its weights are read. Raises InputError where there is none."""
    model = open_model(source)
    if model.hub is None:
        # A folder's gaps and faults can be known now; a Hub model's weights are not fetched for this.
        check_parts(model, model.complete(variant), variant)
    return model


def model_identity(model: StoredModel) -> list[Any]:
    """What tells a model's weights from others: a commit of the Hub, or a folder's files with their sizes and times."""
    if model.hub is not None or model.source in SHIPPED:
        return [model.name]
    files = sorted(path for path in model.folder.rglob("*") if path.suffix in (".json", ".safetensors"))
    stats = [(path.relative_to(model.folder).as_posix(), path.stat()) for path in files]
    return [model.name, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]


def load_model(
    model: str | StoredModel,
    device: torch.device,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    plan: MemoryPlan | None = None,
    on_fetched: OnFetched | None = None,
) -> CloseUpShotPipeline:
    """A checkpoint on a device, quietly, its weights in `dtype`. Raises InputError where it cannot be loaded."""
    # The library's own bar would break into the stages' bars.
    logging.disable_progress_bar()
    # Its warnings speak of configuration defaults; what is wrong with weights is refused by `from_pretrained`.
    logging.set_verbosity_error()
    pipeline = CloseUpShotPipeline.from_pretrained(model, variant=variant, on_fetched=on_fetched, dtype=dtype)
    return pipeline.use(plan or PLANS["middle"], device)


def plan_memory(model: StoredModel, clip: Clip, settings: InferSettings) -> Choice:
    """How the network is to use memory, from the checkpoint's configurations alone.

    Raises:
        InputError: the frames do not fit into the device's memory, with what would.
    """
    networks = skeleton(model, settings.torch_dtype())
    with explained(model.source):
        return choose_plan(networks, clip, settings.torch_device(), settings.memory)


def read(inputs: Inputs, settings: InferSettings) -> Batch:
    """Decode the photographs at the working size, undistorted where their lens is known."""
    if inputs.posed is not None:
        widths, heights = zip(*inputs.posed.sizes, strict=True)
        longest = max(max(widths), max(heights))
        scale = min(1.0, settings.photo_size / longest)
        photo_set, cameras = inputs.posed.read(round(max(widths) * scale), round(max(heights) * scale))
        sizes = torch.tensor(inputs.posed.sizes) * photo_set.scales
        return Batch(photo_set, cameras, cameras.Ks[:, 0, 0], sizes.round(), inputs.posed.origin)
    photo_set = read_photos(inputs.photos, settings.photo_size, inputs.masks)
    focals = [_focal(photo, settings) for photo in inputs.photos]
    sizes = torch.tensor([(photo.width, photo.height) for photo in inputs.photos]) * photo_set.scales
    return Batch(photo_set, None, torch.tensor(focals) * photo_set.scales[:, 0], sizes.round())


def _focal(photo: Photo, settings: InferSettings) -> float:
    """Focal length in pixels of the file: what the user says, else EXIF, else NaN."""
    if settings.focal_35mm is not None:
        return focal_from_35mm(settings.focal_35mm, photo.width, photo.height)
    if settings.fov is not None:
        return focal_from_fov(settings.fov, photo.width)
    return photo.focal or float("nan")


def estimate(batch: Batch, settings: InferSettings, on_progress: OnProgress) -> State:
    """Cameras, depth and confidence of the photographs."""
    scene = estimate_scene(
        batch.set.images.to(settings.torch_device()),
        batch.cameras,
        settings.estimator,
        valid=batch.set.valid,
        focals=batch.focals,
        sizes=batch.sizes,
        all_views=settings.all_views,
        on_progress=on_progress,
    )
    cameras = {"viewmats": scene.cameras.viewmats, "Ks": scene.cameras.Ks}
    maps = {"images": scene.images, "depths": scene.depths, "confidences": scene.confidences}
    maps["valid"] = batch.set.valid[list(scene.used)]
    found = {"left_out": torch.tensor(scene.left_out, dtype=torch.int64)}
    if scene.focal_range is not None:
        found["focal_range"] = torch.tensor(scene.focal_range, dtype=torch.float64)
    return State(maps | cameras | found, scene.notes)


def scene_from(state: State) -> SceneEstimate:
    """The estimate that `estimate` recorded."""
    tensors = state.tensors
    height, width = tensors["images"].shape[-2:]
    cameras = Cameras(tensors["viewmats"], tensors["Ks"], width, height)
    left_out = tuple(tensors["left_out"].tolist()) if "left_out" in tensors else ()
    maps = tensors["images"], cameras, tensors["depths"], tensors["confidences"]
    focal_range = None
    if "focal_range" in tensors:
        low, high = tensors["focal_range"].tolist()
        focal_range = low, high
    return SceneEstimate(*maps, notes=state.notes, left_out=left_out, focal_range=focal_range)


def state_of(value: Conditioning | Gaussians) -> State:
    """The tensors of a dataclass, to be recorded; a conditioning's layers in 8 bits, as photographs are."""
    values = {field.name: getattr(value, field.name) for field in fields(value)}
    tensors = {name: tensor for name, tensor in values.items() if isinstance(tensor, Tensor)}
    layers = value.layers if isinstance(value, Conditioning) else None
    if layers is not None:
        tensors |= {f"{LAYERS}{name}": _to_bytes(getattr(layers, name)) for name in ("images", "masks", "gate")}
    return State(tensors)


def conditioning_from(state: State) -> Conditioning:
    """The conditioning that `state_of` recorded."""
    tensors = state.tensors
    layers = None
    if f"{LAYERS}gate" in tensors:
        images, masks, gate = (tensors[f"{LAYERS}{name}"] for name in ("images", "masks", "gate"))
        layers = Layers(images.float() / 255, masks, gate.float() / 255)
    return Conditioning(tensors["images"], tensors["masks"], tensors["depths"], layers)


def _to_bytes(values: Tensor) -> Tensor:
    """[0, 1] -> 0 .. 255; what is bool stays."""
    return values if values.dtype == torch.bool else (values.clamp(0, 1) * 255).round().to(torch.uint8)


def frame_size(photo: Photo, longest_side: int) -> tuple[int, int]:
    """(width, height) of the frames: the photograph's aspect, the given longest side, both even for video codecs."""
    scale = longest_side / max(photo.width, photo.height)
    return max(2, 2 * round(photo.width * scale / 2)), max(2, 2 * round(photo.height * scale / 2))


def size_inside(batch: Batch, photo: Photo) -> tuple[int, int]:
    """(width, height) that the first photograph fills of its image in the batch; the rest is padding."""
    scale_x, scale_y = batch.set.scales[0].tolist()
    return round(photo.width * scale_x), round(photo.height * scale_y)


def first_reference(scene: SceneEstimate, batch: Batch, photo: Photo) -> Tensor:
    """[1, 3, h, w] the first photograph without padding: the network's image context."""
    width, height = size_inside(batch, photo)
    return scene.images[:1, :, :height, :width]


def target_cameras(
    scene: SceneEstimate, batch: Batch, photo: Photo, settings: InferSettings, frames: int, longest_side: int
) -> CameraPath:
    """The cameras of the frames, T of them, at the size of the frames.

    Raises:
        InputError: a trajectory that cannot be, or a target at which the first view has no depth.
    """
    width, height = frame_size(photo, longest_side)
    inside = size_inside(batch, photo)
    cameras = scene.cameras.to("cpu").cropped(0, 0, *inside)
    zoom, target = settings.end_zoom(), settings.target
    if settings.trajectory == "zoom":
        path = trajectories.zoom(cameras, zoom, target, frames)
    elif settings.trajectory == "interpolate":
        path = trajectories.interpolate(cameras, zoom, target, frames)
    elif settings.trajectory in ("dolly", "orbit"):
        move = trajectories.dolly if settings.trajectory == "dolly" else trajectories.orbit
        path = move(cameras, zoom, target, frames, depth=depth_at(scene, inside, target))
    else:
        # A file says where every camera stands, and how many there are.
        return read_camera_path(settings.trajectory, width, height, settings.frames, batch.origin)
    return CameraPath(path.resized(width, height))


def depth_at(scene: SceneEstimate, inside: tuple[int, int], target: tuple[float, float] | None) -> float:
    """Median depth of the first view in a window of 1/20 of the picture's width around the target, in scene units."""
    u, v = target or (0.5, 0.5)
    width, height = inside
    radius = max(2, width // 40)
    x, y = min(int(u * width), width - 1), min(int(v * height), height - 1)
    window = scene.depths[0, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
    depths = window[window > 0]
    if depths.numel() == 0:
        raise InputError(f"no depth is known around the target {u:g},{v:g}; choose a point that both photographs show")
    return depths.median().item()


def conditioning_kind(settings: InferSettings, defaults: Sampling) -> ConditioningKind:
    """The kind of conditioning images that is asked for; "auto" is what the checkpoint does best with."""
    return defaults.conditioning if settings.conditioning == "auto" else settings.conditioning


def photographs(inputs: Inputs, batch: Batch) -> list[Tensor]:
    """The photographs at their own resolution, V of [3, H, W] uint8, where their pictures in the batch are.

    Larger ones than `LARGEST_PHOTOGRAPH` are shrunk; a note should say so (`oversized`).
    """
    return _photographs(inputs, batch, range(len(inputs.photos)))


def photograph(inputs: Inputs, batch: Batch, index: int) -> Tensor:
    """One of them."""
    return _photographs(inputs, batch, [index])[0]


def _photographs(inputs: Inputs, batch: Batch, indices: Sequence[int]) -> list[Tensor]:
    height, width = batch.set.images.shape[-2:]
    photos, posed = inputs.photos, inputs.posed
    pictures = (photos[i].pixels() if posed is None else posed.straight_picture(i).pixels for i in indices)
    return large_pictures(pictures, batch.set.scales[list(indices)], width, height, LARGEST_PHOTOGRAPH)


def oversized(sizes: Sequence[tuple[int, int]]) -> str | None:
    """A sentence on photographs (width, height) that are larger than what colours are taken from, or None."""
    count = sum(max(size) > LARGEST_PHOTOGRAPH for size in sizes)
    if not count:
        return None
    return (
        f"{count} of {len(sizes)} photographs have more than {LARGEST_PHOTOGRAPH} pixels along the longest side; "
        "colours are taken from them shrunk to that"
    )


def warp(
    scene: SceneEstimate,
    cameras: Cameras,
    kind: ConditioningKind,
    settings: InferSettings,
    on_progress: OnProgress,
    photographs: Sequence[Tensor] | None = None,
    with_layers: bool = False,
) -> State:
    """The conditioning images (Algorithm 1 and Eq. 5, ViewCrafter's point renders, or the fused warp).

    `photographs` and `with_layers` are the fused warp's.
    """
    conditioning = conditioning_of(
        kind,
        scene,
        cameras,
        suppress_background=settings.suppress_background,
        photographs=photographs,
        with_layers=with_layers,
        on_progress=on_progress,
    )
    return state_of(conditioning)


def generate(
    pipeline: CloseUpShotPipeline,
    reference: Tensor,
    conditioning: Conditioning,
    structure: Tensor | None,
    settings: InferSettings,
    on_progress: OnProgress,
) -> Tensor:
    """One pass of the video diffusion model: frames [T, 3, H, W] in [0, 1]. Both passes draw the same noise."""
    frames = pipeline(
        reference,
        conditioning,
        structure,
        steps=settings.steps,
        guidance=settings.guidance,
        generator=torch.Generator().manual_seed(settings.seed),
        on_progress=on_progress,
    )
    if not bool(torch.isfinite(frames).all()):
        raise InputError(f"the model gave values that are not numbers in {settings.torch_dtype()}; try --dtype float32")
    return frames


@dataclass(frozen=True)
class Generated:
    """Generated frames with what they were made from.

    Attributes:
        scene: the estimate of the photographs.
        cameras: T cameras of the frames.
        warped: their conditioning.
        frames: [T, 3, H, W] in [0, 1].
        valid: [V, H', W'] bool, where the photographs have pixels that count, at the scene's size; None: everywhere.
    """

    scene: SceneEstimate
    cameras: Cameras
    warped: Conditioning
    frames: Tensor
    valid: Tensor | None = None

    def with_references(self) -> tuple[Tensor, Tensor, Cameras]:
        """Frames, then photographs, as one batch at the frames' size: images, depths [T + V, H, W], cameras.

        A generated frame's depth is that of its conditioning: its camera is the asked one by construction, and where
        the warp has no surface there is none to check.
        """
        height, width = self.frames.shape[-2:]
        images = F.interpolate(self.scene.images, (height, width), mode="area")
        depths = F.interpolate(self.scene.depths[:, None], (height, width), mode="nearest")[:, 0]
        cameras = self.cameras.to(images.device)
        return (
            torch.cat([self.frames.to(images), images]),
            torch.cat([self.warped.depths * self.warped.masks, depths]).to(images),
            Cameras.cat([cameras, self.scene.cameras.resized(width, height)]),
        )


def fuse(made: Generated, on_progress: OnProgress) -> FusedCloud:
    """The global point cloud of frames and references (Eq. 6)."""
    return fuse_views(*made.with_references(), scale=made.scene.scale, on_progress=on_progress)


def cloud_state(cloud: FusedCloud) -> State:
    """The cloud, to be recorded."""
    tensors = {"points": cloud.points, "colors": cloud.colors, "counts": cloud.counts}
    return State(tensors | {"needed": torch.tensor(cloud.needed)})


def cloud_from(state: State) -> FusedCloud:
    """The cloud that `cloud_state` recorded."""
    tensors = state.tensors
    return FusedCloud(tensors["points"], tensors["colors"], tensors["counts"], int(tensors["needed"]))


def structure_images(cloud: FusedCloud, cameras: Cameras) -> Conditioning:
    """The global cloud seen from the targets: the structure guidance of the second pass (Section III-D)."""
    return render_points(cloud.points, cloud.colors, cameras.to(cloud.points.device))
