"""Predicts the memory of a training step of the U-Net, without weights or a GPU.

The step itself runs once, forward and backward, on tensors that have shapes but no values, while the bytes alive are
counted; weights, moments and averages follow from the number of weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from cus.diffusion.context import ContextEncoder, PromptEmbeddings
from cus.diffusion.lora import TARGETS, add_lora
from cus.diffusion.memory import FIXED_BYTES, GIB, OVERHEAD, LiveBytes
from cus.models.clip import ImageEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet
from cus.training.loop import checkpoint_activations
from cus.training.unet import AUTOCAST, Denoiser, UNetConfig

# Bytes of AdamW's two moments per weight; 8-bit ones have a scale for each block of 256.
MOMENTS = {"adamw": 8.0, "adamw8bit": 2 + 2 * 4 / 256}
RANK = 16
CARDS = (16, 24, 32, 40, 48, 80, 141)


@dataclass(frozen=True)
class StepNeed:
    """GPU memory of a step in bytes.

    Attributes:
        learning: number of trained weights.
        weights: bytes of the trained weights.
        frozen: bytes of the frozen weights.
        working: bytes of activations and gradients at the peak.
    """

    learning: int
    weights: int
    frozen: int
    working: int

    def total(self, optimizer: str = "adamw", averages: bool = False, processes: int = 1) -> int:
        """Peak bytes, including overheads of allocator and driver.

        Args:
            optimizer: name of the optimizer in `MOMENTS`.
            averages: whether averaged weights are kept on the GPU.
            processes: number of processes over which FSDP2 shards everything but the activations.
        """
        states = self.weights + self.frozen + self.learning * (MOMENTS[optimizer] + (4 if averages else 0))
        gradients = min(self.weights, self.working)
        needed = (states + gradients) / processes + self.working - gradients
        return round(OVERHEAD * needed) + FIXED_BYTES["cuda"]


def full_size() -> Denoiser:
    """The full-size networks on the meta device."""
    with torch.device("meta"):
        context = ContextEncoder(PromptEmbeddings(), ImageEncoder(), ImageProjector())
        return Denoiser(UNet(), context)


def measure_step(
    module: Denoiser,
    shape: tuple[int, int, int, int],
    *,
    precision: str = "bf16",
    gradient_checkpointing: bool = False,
    as_on_cuda: bool = True,
) -> StepNeed:
    """Measure the memory of a step.

    Args:
        module: networks on any device; values are ignored, and parameters that require gradients are trained. It is
        modified: discard it afterwards.
        shape: (B, T, h, w) of the latents.
        precision: precision of autocast, as in `LoopSettings`.
        gradient_checkpointing: whether to use gradient checkpointing.
        as_on_cuda: whether to compute norms in float32 under autocast, as on a GPU but not on a CPU.
    """
    items, frames, height, width = shape
    options: Any = module.unet.config
    side: Any = module.context.image_encoder.config["image_size"]  # pyright: ignore
    with FakeTensorMode():
        _without_values(module)
        if gradient_checkpointing:
            checkpoint_activations(module)
        sample = torch.empty(items, options["in_channels"], frames, height, width)
        target = torch.empty(items, options["out_channels"], frames, height, width)
        batch = {"reference": torch.empty(items, 3, side, side)}
        drops = (torch.zeros(items, dtype=torch.bool), torch.zeros(items, dtype=torch.bool))
        dtype = AUTOCAST.get(precision)
        with LiveBytes() as counted, _norms_in_float32(module) if as_on_cuda and dtype else nullcontext():
            # Views of the weights, which are counted separately.
            own = (*module.parameters(), *module.buffers())
            counted.known |= {tensor.untyped_storage()._cdata for tensor in own}
            # Twice: from the second batch on, the gradients of the first exist.
            for _ in range(2):
                with torch.autocast("cpu", dtype) if dtype else nullcontext():
                    v = module(sample, torch.zeros(items, dtype=torch.long), batch, drops, 10)
                (v.float() - target).square().mean().backward()
                del v
        given = sum(tensor.nbytes for tensor in (sample, target, batch["reference"]))
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
        return StepNeed(
            learning=sum(parameter.numel() for parameter in learning),
            weights=sum(parameter.nbytes for parameter in learning),
            frozen=sum(tensor.nbytes for tensor in [*frozen, *module.buffers()]),
            working=counted.peak + given,
        )


def _without_values(module: nn.Module) -> None:
    """Replace a module's tensors by tensors of the active fake mode."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(part, name, nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))


@contextmanager
def _norms_in_float32(module: nn.Module) -> Iterator[None]:
    """Make norms compute in float32 for any input, as autocast does on a GPU."""
    norms = [part for part in module.modules() if isinstance(part, nn.GroupNorm | nn.LayerNorm)]
    for norm in norms:
        norm.forward = _in_float32(norm)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _in_float32(norm: nn.GroupNorm | nn.LayerNorm):  # noqa: ANN202  (a forward method)
    def forward(x: Tensor) -> Tensor:
        weight = None if norm.weight is None else norm.weight.float()
        bias = None if norm.bias is None else norm.bias.float()
        if isinstance(norm, nn.GroupNorm):
            return F.group_norm(x.float(), norm.num_groups, weight, bias, norm.eps)
        return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps)

    return forward


@dataclass(frozen=True)
class Row:
    """A row: what is trained, with which options, and on how many GPUs."""

    trained: str
    checkpointing: bool
    optimizer: str = "adamw"
    averages: bool = False
    processes: int = 1

    @property
    def lora(self) -> bool:
        """Whether an adapter is trained instead of the weights."""
        return self.trained == "LoRA"


ROWS = (
    Row("LoRA", False),
    Row("LoRA", True),
    Row("all", False),
    Row("all", True),
    Row("all", True, averages=True),
    Row("all", True, "adamw8bit"),
    Row("all", True, averages=True, processes=2),
    Row("all", True, averages=True, processes=8),
)


def table(config: UNetConfig, on_progress: Callable[[int, int], None]) -> str:
    """Make the table in Markdown, one line for each of `ROWS`.

    Args:
        config: settings, of which `frames`, `crop`, `loop.batch`, `loop.precision` and `lora` are used.
        on_progress: called with (rows done, total rows).

    Raises:
        InputError: peft is not installed.
    """
    needs: dict[tuple[bool, bool], StepNeed] = {}
    wanted = list(dict.fromkeys((row.lora, row.checkpointing) for row in ROWS))
    for done, (lora, checkpointing) in enumerate(wanted):
        on_progress(done, len(wanted))
        needs[lora, checkpointing] = _counted(config, lora, checkpointing)
    on_progress(len(wanted), len(wanted))
    rank = config.lora.rank or RANK
    lines = [
        "| trained | gradient checkpointing | optimizer | averages on the GPU | GPUs | GiB on each | fits into |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in ROWS:
        need = needs[row.lora, row.checkpointing].total(row.optimizer, row.averages, row.processes) / GIB
        fits = next((f"{card} GB" for card in CARDS if need * GIB <= card * 1e9), "no single card")
        cells = [
            f"LoRA, rank {rank}" if row.lora else "the U-Net",
            "yes" if row.checkpointing else "no",
            row.optimizer,
            "yes" if row.averages else "no",
            "1" if row.processes == 1 else f"{row.processes} (FSDP2)",
            f"{need:.1f}",
            fits,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _counted(config: UNetConfig, lora: bool, checkpointing: bool) -> StepNeed:
    module = full_size()
    trained = {"unet"} if lora else set(config.trained)
    module.requires_grad_(False)
    for name in trained:
        (module.unet if name == "unet" else getattr(module.context, name)).requires_grad_(True)
    for parameter in module.context.image_encoder.unread_parameters():  # pyright: ignore
        parameter.requires_grad_(False)
    if lora:
        rank = config.lora.rank or RANK
        add_lora(module.unet, rank, config.lora.alpha or rank, config.lora.targets or TARGETS)  # pyright: ignore
        if (dtype := AUTOCAST.get(config.loop.precision)) is not None:
            for parameter in module.parameters():
                parameter.data = parameter.data if parameter.requires_grad else parameter.data.to(dtype)
    shape = (config.loop.batch, config.frames, *config.crop)
    return measure_step(module, shape, precision=config.loop.precision, gradient_checkpointing=checkpointing)
