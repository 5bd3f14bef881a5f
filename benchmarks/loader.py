"""Does the loader keep up with the fastest card? Items a second of cached latents, against the least time of a step.

    python benchmarks/loader.py

It writes random latents of clips of the full size (25 frames of 1024x576), reads them as `train/unet.py latents=` does,
in this process, and counts the operations of the U-Net's training step on tensors without values. No card computes
faster than its peak, so the step of a real one takes longer than this bound.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.tensor_files import save_tensors
from cus.training.latents import FORMAT, VIDEOS, LatentCrops
from cus.training.memory import full_size

FRAMES, HEIGHT, WIDTH = 25, 72, 128  # of the latents
CLIPS = 8
# A backward pass computes twice as much as a forward pass, and gradient checkpointing repeats the latter.
PASSES = {"with gradient checkpointing": 4, "without": 3}


def items_a_second(seconds: float) -> float:
    """Items read in a second, of clips that are in the system's cache."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(CLIPS):
            tensors = {name: torch.rand(FRAMES, 8, HEIGHT, WIDTH).half() for name in VIDEOS}
            tensors["reference"] = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)
            save_tensors(tensors, Path(folder) / f"{number}.safetensors", {"format": FORMAT})
        items = LatentCrops(Path(folder), FRAMES, (HEIGHT, WIDTH), seed=0, structure_share=0.5)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            items[count]
            count += 1
        return count / (time.perf_counter() - started)


def forward_operations() -> float:
    """Floating-point operations of the U-Net for one clip."""
    unet = full_size().unet.requires_grad_(False)
    options: Any = unet.config
    channels, width = options["in_channels"], options["context_dim"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        tokens = options["text_tokens"] + 16 * FRAMES
        sample = torch.empty(1, channels, FRAMES, HEIGHT, WIDTH)
        unet(sample, torch.zeros(1, dtype=torch.long), torch.empty(1, tokens, width), torch.zeros(1, dtype=torch.long))
    return float(counter.get_total_flops())


def main(arguments: list[str]) -> None:
    """Print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=989, help="the card's peak in bfloat16 (989, an H100's)")
    parser.add_argument("--seconds", type=float, default=10, help="how long to read (10)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rate, operations = items_a_second(options.seconds), forward_operations()
    print(f"loader: {rate:.1f} items a second on one core, in one process")
    print(f"U-Net: {operations / 1e12:.1f} T operations forward")
    for name, passes in PASSES.items():
        least = passes * operations / (options.tflops * 1e12)
        print(f"step of one item {name}: at least {least:.2f} s at {options.tflops:g} TFLOP/s; "
              f"the loader gives {rate * least:.1f} times what it takes")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
