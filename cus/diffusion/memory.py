"""Predicts a run's memory use before its weights are loaded, and chooses a plan that fits.

The prediction is not a formula: the pipeline itself runs once on the meta device, where tensors have shapes but no
values, while the bytes alive are counted. So it follows every change of the code.
"""

import weakref
from dataclasses import dataclass, replace
from typing import Any, get_args

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cus.choices import Memory
from cus.diffusion.layers import Layers
from cus.diffusion.parts import NETWORKS, empty_network
from cus.diffusion.pipeline import CloseUpShotPipeline
from cus.diffusion.sampling import PLANS, MemoryPlan
from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError
from cus.hub.stored import StoredModel, explained

# Memory of allocators, kernels' workspaces and the driver besides tensors: a fraction of the tensors plus a fixed sum.
OVERHEAD = 1.1
FIXED_BYTES = {"cuda": 700 << 20, "cpu": 200 << 20}
GIB = 2**30


@dataclass(frozen=True)
class Clip:
    """A pipeline call, as far as its memory depends on it.

    Attributes:
        frames: number of frames T over all chunks.
        height: frame height in pixels.
        width: frame width in pixels.
        structure: whether structure guidance is given.
        guidance: classifier-free guidance scale; None takes the checkpoint's.
    """

    frames: int
    height: int
    width: int
    structure: bool = False
    guidance: float | None = None


@dataclass(frozen=True)
class Need:
    """Bytes that a run needs on the device, excluding the photographs and other memory of the process.

    Attributes:
        weights: bytes of each network's weights.
        working: bytes of all other tensors at the peak.
    """

    weights: dict[str, int]
    working: int

    def total(self, offload: bool, device_type: str) -> int:
        """Peak bytes including overhead; with `offload` only one network at a time is on the device."""
        weights = max(self.weights.values()) if offload and device_type != "cpu" else sum(self.weights.values())
        return round(OVERHEAD * (weights + self.working)) + FIXED_BYTES.get(device_type, FIXED_BYTES["cuda"])


_PACE = {
    "high": "it works at full speed",
    "middle": "it works a little slower to fit",
    "low": "it works slowly, in small pieces",
}


@dataclass(frozen=True)
class Choice:
    """A memory plan that fits.

    Attributes:
        name: name of the plan: "high", "middle" or "low".
        plan: settings of the plan.
        need: bytes that it needs on the device.
        free: bytes that were free when it was chosen.
    """

    name: str
    plan: MemoryPlan
    need: int
    free: int

    def describe(self) -> str:
        """One line for the user."""
        memory = f"the network takes about {self.need / GIB:.1f} GiB of memory, {self.free / GIB:.1f} GiB are free"
        return f"{memory}: {_PACE[self.name]} (--memory {self.name})"


def skeleton(model: StoredModel, dtype: torch.dtype = torch.float32) -> CloseUpShotPipeline:
    """Build a stored model's pipeline without values, on the meta device; reads only its configurations.

    Raises:
        InputError: a configuration is missing or does not belong to these networks.
    """
    networks: dict[str, nn.Module] = {}
    for name in NETWORKS:
        made = empty_network(model, name)
        # The library's own `to` prints warnings that do not apply to these networks.
        networks[name] = nn.Module.to(made.eval(), dtype=dtype)
    with explained(model.source):
        return CloseUpShotPipeline(**networks, scheduler=NoiseSchedule(), sampling=model.index.get("sampling"))  # pyright: ignore


def measure_need(pipeline: CloseUpShotPipeline, clip: Clip, plan: MemoryPlan) -> Need:
    """Measure the memory of a pipeline call.

    Args:
        pipeline: pipeline on the meta device, from `skeleton`, with the dtype of the weights.
        clip: frames to make.
        plan: memory plan to measure.
    """
    # Two chunks show the needs of a chunk and its predecessor; further frames only add their pictures.
    frames = min(clip.frames, 2 * pipeline.sampling.frames - 1)
    with torch.device("meta"):
        images = torch.empty(1, 3, clip.height, clip.width)
        conditioning = torch.empty(frames, 3, clip.height, clip.width)
        structure = torch.empty_like(conditioning) if clip.structure else None
    kept, pipeline.plan = pipeline.plan, plan
    try:
        with LiveBytes() as counted, _AttentionUnseen():
            # A single step is as large as any number of steps.
            shown = _Layered(conditioning, _layers_like(conditioning, pipeline.sampling.layers))
            pipeline(images, shown, structure, steps=1, guidance=clip.guidance)
    finally:
        pipeline.plan = kept
    given = sum(tensor.nbytes for tensor in (images, conditioning, structure) if tensor is not None)
    return Need(_weights(pipeline), counted.peak + given + _pictures(clip, clip.frames - frames))


@dataclass(frozen=True)
class _Layered:
    """Conditioning images with layers."""

    images: Tensor
    layers: Layers | None


def _layers_like(images: Tensor, count: int) -> Layers | None:
    if count == 0:
        return None
    frames, _, height, width = images.shape
    masks = images.new_empty(frames, count, height, width, dtype=torch.bool)
    return Layers(images.new_empty(frames, count, 3, height, width), masks, images.new_empty(frames, height, width))


def _weights(pipeline: CloseUpShotPipeline) -> dict[str, int]:
    """Bytes of each network."""
    return {
        name: sum(tensor.nbytes for tensor in module.state_dict().values())
        for name, module in pipeline.components.items()
        if isinstance(module, nn.Module)
    }


def _pictures(clip: Clip, frames: int) -> int:
    """Bytes of `frames` frames: those of each chunk, all of them together, and their inputs."""
    return frames * (4 if clip.structure else 3) * 3 * clip.height * clip.width * 4


def free_memory(device: torch.device) -> int:
    """Bytes that a run can still allocate on a device."""
    if device.type == "cuda":
        # Memory that torch's allocator caches counts as free.
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + spare
    return psutil.virtual_memory().available


def choose_plan(
    pipeline: CloseUpShotPipeline,
    clip: Clip,
    device: torch.device,
    memory: Memory = "auto",
    *,
    free: int | None = None,
) -> Choice:
    """Choose a plan for a clip: the fastest that fits ("auto"), or the requested one.

    Args:
        pipeline: pipeline from `skeleton`, with the dtype of the weights.
        clip: frames to make.
        device: device to compute on.
        memory: "auto"; "low": as little memory as possible; "high": as fast as possible.
        free: bytes free on the device; None queries the device.

    Raises:
        InputError: it does not fit; the message says what would.
        ValueError: an unknown `memory`.
    """
    if memory not in get_args(Memory):
        raise ValueError(f"memory must be one of {', '.join(get_args(Memory))}, got {memory!r}")
    free = free_memory(device) if free is None else free
    needs: dict[str, int] = {}
    for name in PLANS if memory == "auto" else [memory]:
        needs[name] = _total(pipeline, clip, name, device, free)
        if needs[name] <= free:
            return Choice(name, PLANS[name], needs[name], free)
    raise InputError(_too_large(pipeline, clip, device, free, needs))


def _total(pipeline: CloseUpShotPipeline, clip: Clip, name: str, device: torch.device, free: int) -> int:
    """Bytes that a plan needs; only weights and pictures if these alone exceed the free memory."""
    plan = PLANS[name]
    least = Need(_weights(pipeline), _pictures(clip, clip.frames)).total(plan.offload, device.type)
    return least if least > free else measure_need(pipeline, clip, plan).total(plan.offload, device.type)


def _too_large(
    pipeline: CloseUpShotPipeline, clip: Clip, device: torch.device, free: int, needs: dict[str, int]
) -> str:
    """The error message: what is needed, what is free, and what would fit."""
    name, need = min(needs.items(), key=lambda item: item[1])
    said = (
        f"{clip.frames} frames of {clip.width}x{clip.height} need {need / GIB:.1f} GiB on {device} with memory plan "
        f"{name!r}, and {free / GIB:.1f} GiB are free"
    )
    if "low" not in needs and _total(pipeline, clip, "low", device, free) <= free:
        return f"{said}; --memory low fits"
    for fraction in (0.875, 0.75, 0.625, 0.5, 0.375, 0.25):
        height, width = (max(2, 2 * round(fraction * side / 2)) for side in (clip.height, clip.width))
        if _total(pipeline, replace(clip, height=height, width=width), "low", device, free) <= free:
            return f"{said}; --size {max(width, height)} --memory low fits, or free some memory"
    return f"{said}; not even frames a quarter as wide fit: ask for fewer, free some memory, or take a smaller model"


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors created inside the block, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


class _AttentionUnseen(TorchFunctionMode):
    """Makes fused attention a single step, because the meta device would run it in parts with large tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
