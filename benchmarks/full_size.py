"""Time and memory of the full-size networks with random weights: a denoising step, and whole calls with each plan.

    python benchmarks/full_size.py                                       # on a CPU: steps, and whole calls of one step
    python benchmarks/full_size.py --calls --sizes 576x1024 --plans low  # a part: other rows of the page stay
    python benchmarks/full_size.py --device cuda                         # on a GPU: whole calls of 50 steps

Rows are stored in benchmarks/full_size.json and rendered to benchmarks/full_size.md (--no-write only prints). Weights
are random and small: time and memory do not depend on values. Each row runs in a separate process. The need is the
prediction of `cus.diffusion.memory`; measured is the peak of the process above its memory before the networks were
made, on CUDA the allocator's peak. The baseline is ViewCrafter's README: 120 s and 23.5 GB for 50 steps of 25 frames at
576x1024 on an A100.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import Measured, measured, preload
from cus.diffusion import PLANS, CloseUpShotPipeline, NoiseSchedule
from cus.diffusion.memory import GIB, NETWORKS, Clip, measure_need

PAGE, STORE = Path(__file__).with_suffix(".md"), Path(__file__).with_suffix(".json")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FRAMES = 25
BASELINE_SECONDS, BASELINE_GB, BASELINE_STEPS = 120, 23.5, 50


@dataclass(frozen=True)
class FullSize:
    """One row of the table.

    Attributes:
        kind: "step" for the U-Net alone without guidance, or "call" for the pipeline.
        plan: name of a call's memory plan.
        height: frame height in pixels.
        width: frame width in pixels.
        steps: number of a call's denoising steps.
        device: device to compute on.
        dtype: name of the weights' precision.
    """

    kind: str
    plan: str
    height: int
    width: int
    steps: int
    device: str
    dtype: str

    def tiny(self) -> Callable[[], object]:
        """The libraries' first use, with a small network."""
        layer = nn.Conv2d(8, 8, 3).to(self.device, DTYPES[self.dtype])
        return lambda: layer(torch.ones(1, 8, 8, 8, device=self.device, dtype=DTYPES[self.dtype]))

    def work(self) -> Callable[[], object]:
        """Networks with random weights, and the call to measure."""
        if self.kind == "step":
            return self._step()
        pipeline = randomized(DTYPES[self.dtype]).use(PLANS[self.plan], self.device)
        images, conditioning = (torch.rand(count, 3, self.height, self.width) for count in (1, FRAMES))
        return lambda: pipeline(images, conditioning, steps=self.steps)

    def _step(self) -> Callable[[], object]:
        unet = randomized(DTYPES[self.dtype]).unet.to(self.device)
        sample = torch.rand(1, 8, FRAMES, self.height // 8, self.width // 8, device=self.device)
        context, timesteps = torch.rand(1, 333, 1024, device=self.device), torch.full((1,), 999, device=self.device)

        def step() -> object:
            with torch.inference_mode():
                return unet(sample, timesteps, context)

        return step

    def need(self) -> int | None:
        """Predicted bytes of a call; None for a step."""
        if self.kind == "step":
            return None
        clip = Clip(FRAMES, self.height, self.width)
        plan = PLANS[self.plan]
        return measure_need(on_meta(DTYPES[self.dtype]), clip, plan).total(plan.offload, self.device)


def on_meta(dtype: torch.dtype) -> CloseUpShotPipeline:
    """The full-size pipeline without values."""
    with torch.device("meta"):
        networks = {name: nn.Module.to(network().eval(), dtype=dtype) for name, network in NETWORKS.items()}
    return CloseUpShotPipeline(**networks, scheduler=NoiseSchedule())  # pyright: ignore[reportArgumentType]


def randomized(dtype: torch.dtype) -> CloseUpShotPipeline:
    """The full-size pipeline with small random weights and initial norms."""
    pipeline = on_meta(dtype)
    torch.manual_seed(0)
    for name in NETWORKS:
        network = getattr(pipeline, name).to_empty(device="cpu")
        for module in network.modules():
            is_norm = isinstance(module, nn.GroupNorm | nn.LayerNorm)
            for parameter_name, parameter in module.named_parameters(recurse=False):
                value = float(is_norm and parameter_name == "weight")
                parameter.data.fill_(value) if parameter.ndim < 2 else parameter.data.normal_(std=0.02)
    return pipeline


def line(row: FullSize, result: Measured, need: float, machine: str) -> str:
    """One line of the table."""
    steps = f"{row.steps} step{'s' if row.steps > 1 else ''}"
    what = "U-Net, one step, no guidance" if row.kind == "step" else f"whole call, {steps}, guidance, plan {row.plan}"
    start = f"| {FRAMES} x {row.width}x{row.height} | {what}, {row.dtype} | {machine} |"
    if result.error:
        return f"{start} {result.error} | | | |"
    said = "" if need != need else f"{need / GIB:.1f} GiB"
    ratio = ""
    if row.kind == "call" and row.steps == BASELINE_STEPS and (row.height, row.width) == (576, 1024):
        ratio = (
            f"{BASELINE_SECONDS / result.seconds:.1f}x as fast, {result.memory / BASELINE_GB / 1e9:.2f} of the memory"
        )
    return f"{start} {result.seconds:.0f} s | {result.memory / GIB:.1f} GiB | {said} | {ratio} |"


def page(kept: dict[str, dict[str, Any]]) -> str:
    """The page with all measurements."""
    lines = [line(FullSize(**k["row"]), Measured(**k["measured"]), k["need"], k["machine"]) for k in kept.values()]
    head = [
        "# Full size",
        "",
        "`python benchmarks/full_size.py`: random weights. The text at the head of the script explains the columns.",
        "",
        f"| frames | work | machine | time | peak memory | said before | {BASELINE_SECONDS} s and {BASELINE_GB} GB |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    return "\n".join([*head, *sorted(lines)]) + "\n"


def machine_name() -> str:
    """A short description of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return (
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, load {os.getloadavg()[0]:.1f}"
    )


def sizes(text: str) -> tuple[int, int]:
    """`576x1024` -> (576, 1024)."""
    height, width = (int(part) for part in text.split("x"))
    return height, width


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--sizes", nargs="+", type=sizes, default=[(320, 576), (576, 1024)], metavar="HxW")
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=PLANS)
    parser.add_argument("--steps", type=int, help="of a whole call (default: 50 on CUDA, 1 on a CPU)")
    parser.add_argument("--calls", action="store_true", help="whole calls only")
    parser.add_argument("--no-calls", action="store_true", help="single steps only")
    parser.add_argument("--no-write", action="store_true", help="print the rows, leave the page")
    options = parser.parse_args()
    steps = options.steps or (50 if options.device.startswith("cuda") else 1)
    rows = []
    for height, width in options.sizes:
        kinds = ([] if options.calls else [("step", "")]) + (
            [] if options.no_calls else [("call", plan) for plan in options.plans]
        )
        rows += [FullSize(kind, plan, height, width, steps, options.device, options.dtype) for kind, plan in kinds]
    kept = json.loads(STORE.read_text()) if STORE.is_file() else {}
    preload(["benchmarks.full_size"])
    for row in rows:
        machine = machine_name()
        result = measured(row, repeats=1, patience=1.0)
        need = float(row.need() or "nan")
        print(line(row, result, need, machine), flush=True)
        kept[str(row)] = {"row": asdict(row), "measured": asdict(result), "need": need, "machine": machine}
        if not options.no_write:
            STORE.write_text(json.dumps(kept, indent=1) + "\n")
            PAGE.write_text(page(kept))


if __name__ == "__main__":
    main()
