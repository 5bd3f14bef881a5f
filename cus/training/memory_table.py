"""The table of memory per GPU and setting printed by train/memory.py."""

from collections.abc import Callable
from dataclasses import dataclass

from cus.diffusion.lora import TARGETS, add_lora
from cus.diffusion.memory import GIB
from cus.training.memory import StepNeed, full_size, measure_step
from cus.training.unet import AUTOCAST, UNetConfig

RANK = 16
CARDS = (16, 24, 32, 40, 48, 80, 141)


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
