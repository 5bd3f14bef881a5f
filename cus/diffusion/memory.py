"""How much memory a run needs, known before its weights are loaded, and which plan fits.

The need is not a formula: the pipeline itself runs once on the meta device, where tensors have a shape and no values,
while the bytes alive are counted. What it says therefore follows every change of the code.
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

# What allocators, kernels' workspaces and the driver take beside the tensors: a part of the tensors, and a fixed sum.
OVERHEAD = 1.1
FIXED_BYTES = {"cuda": 700 << 20, "cpu": 200 << 20}
GIB = 2**30


@dataclass(frozen=True)
class Clip:
    """What is asked of a pipeline, as far as memory depends on it.

    Attributes:
        frames: T, over all chunks.
        height: of the frames, in pixels.
        width: likewise.
        structure: whether structure guidance is given.
        guidance: classifier-free guidance scale; None is the checkpoint's.
    """

    frames: int
    height: int
    width: int
    structure: bool = False
    guidance: float | None = None


@dataclass(frozen=True)
class Need:
    """Bytes that a run needs on the device, without the photographs and what else the process holds.

    Attributes:
        weights: of each network.
        working: of all other tensors, at the peak.
    """

    weights: dict[str, int]
    working: int

    def total(self, offload: bool, device_type: str) -> int:
        """The peak, overhead included; with `offload` one network at a time is on the device."""
        weights = max(self.weights.values()) if offload and device_type != "cpu" else sum(self.weights.values())
        return round(OVERHEAD * (weights + self.working)) + FIXED_BYTES.get(device_type, FIXED_BYTES["cuda"])


_PACE = {
    "high": "it works at full speed",
    "middle": "it works a little slower to fit",
    "low": "it works slowly, in small pieces",
}


@dataclass(frozen=True)
class Choice:
    """A plan that fits.

    Attributes:
        name: "high", "middle" or "low".
        plan: what it stands for.
        need: bytes on the device.
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
    """The pipeline of a stored model with shapes and no values, on the meta device; reads its configurations only.

    Raises:
        InputError: a configuration is missing or is not one of these networks'.
    """
    networks: dict[str, nn.Module] = {}
    for name in NETWORKS:
        made = empty_network(model, name)
        # The library's own `to` warns of what does not concern these networks.
        networks[name] = nn.Module.to(made.eval(), dtype=dtype)
    with explained(model.source):
        return CloseUpShotPipeline(**networks, scheduler=NoiseSchedule(), sampling=model.index.get("sampling"))  # pyright: ignore


def measure_need(pipeline: CloseUpShotPipeline, clip: Clip, plan: MemoryPlan) -> Need:
    """What a call of the pipeline on a clip needs.

    Args:
        pipeline: on the meta device, from `skeleton`; its dtype is that of the weights.
        clip: what is to be made.
        plan: how.
    """
    # Two chunks show all that a chunk and the one before it need; what further frames add is their pictures.
    frames = min(clip.frames, 2 * pipeline.sampling.frames - 1)
    with torch.device("meta"):
        images = torch.empty(1, 3, clip.height, clip.width)
        conditioning = torch.empty(frames, 3, clip.height, clip.width)
        structure = torch.empty_like(conditioning) if clip.structure else None
    kept, pipeline.plan = pipeline.plan, plan
    try:
        with LiveBytes() as counted, _AttentionUnseen():
            # One step is as large as any number of them.
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
    """Bytes of so many frames: those of each chunk, all of them together, and what they are made from."""
    return frames * (4 if clip.structure else 3) * 3 * clip.height * clip.width * 4


def free_memory(device: torch.device) -> int:
    """Bytes that a run can still have on a device."""
    if device.type == "cuda":
        # What torch's allocator keeps for later is as good as free.
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
    """The plan for a clip: the fastest that fits ("auto"), or the one that is asked for.

    Args:
        pipeline: from `skeleton`, in the dtype of the weights to come.
        clip: what is to be made.
        device: where.
        memory: "auto"; "low": as little as can be; "high": as fast as can be.
        free: bytes free there; None asks the device.

    Raises:
        InputError: it does not fit, with what would.
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
    """Bytes that a plan needs; where weights and pictures alone are more than is free, no more than these."""
    plan = PLANS[name]
    least = Need(_weights(pipeline), _pictures(clip, clip.frames)).total(plan.offload, device.type)
    return least if least > free else measure_need(pipeline, clip, plan).total(plan.offload, device.type)


def _too_large(
    pipeline: CloseUpShotPipeline, clip: Clip, device: torch.device, free: int, needs: dict[str, int]
) -> str:
    """The message: what is needed, what is free, and what would fit."""
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
    """Counts the bytes of tensors made inside the block that are alive, and their peak."""

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
    """Fused attention has no large tensors inside; the meta device would run it in parts that have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
