"""Speed of the rasterizer's backends on this machine, against plain torch in the same run.

    python benchmarks/rasterizer.py                 # every backend that runs here; writes benchmarks/rasterizer.md
    python benchmarks/rasterizer.py --no-write --repeats 5 --backends cpu torch

Times are medians after one warm-up call, for `rasterization` from world-space Gaussians to the picture (forward), and
with all gradients (forward + backward). Other programs on the machine affect the results.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scenes import crowd
from cus.splats.rasterization import gsplat_available, rasterization

SIZES = ((50_000, 512, 288), (200_000, 960, 540))
# Rows: backend and tile size. Plain torch is fastest with tiles smaller than the default.
ROWS = {"torch": ("torch", 16), "torch, small tiles": ("torch", 8), "cpu": ("cpu", 16), "gsplat": ("gsplat", 16)}
FIRST_CALL = """
import time, torch
from benchmarks.scenes import crowd
from cus.splats.rasterization import rasterization
scene = {name: value.float().requires_grad_() for name, value in crowd(1000, 64, 48).items()}
started = time.perf_counter()
rasterization(**scene, width=64, height=48, backend="cpu")[0].sum().backward()
print(time.perf_counter() - started)
"""


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median duration of calls after a warm-up call."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def measure(row: str, size: tuple[int, int, int], repeats: int) -> tuple[float, float]:
    """Seconds for forward, and for forward and backward."""
    (backend, tile), (count, width, height) = ROWS[row], size
    device = "cuda" if backend == "gsplat" else "cpu"
    scene = {name: value.float().to(device).requires_grad_() for name, value in crowd(count, width, height).items()}
    options = dict(width=width, height=height, tile_size=tile, backend=backend)
    weights = torch.rand(1, height, width, 3, device=device)

    def forward() -> None:
        with torch.no_grad():
            rasterization(**scene, **options)

    def both() -> None:
        renders, alphas, _ = rasterization(**scene, **options)
        torch.autograd.backward([renders, alphas], [weights, torch.ones_like(alphas)])

    return median_seconds(forward, repeats), median_seconds(both, repeats)


def first_call_seconds() -> tuple[float, float]:
    """Seconds of the CPU kernels' first call in a new process: with compilation, and with a warm cache."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", FIRST_CALL]
        runs = [subprocess.run(command, env=environment, check=True, capture_output=True, text=True) for _ in range(2)]
    compiled, cached = (float(run.stdout) for run in runs)
    return compiled, cached


def speed_table(backends: list[str], repeats: int) -> list[str]:
    """One row per backend and size, with the ratio to plain torch with default options."""
    rows = [row for row, (backend, _) in ROWS.items() if backend in backends]
    lines = [
        "| Gaussians, picture | backend | forward | forward + backward | x torch, forward | x torch, both |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for size in SIZES:
        times = {row: measure(row, size, max(3, repeats // 3) if "torch" in row else repeats) for row in rows}
        for row, (forward, both) in times.items():
            ratios = ["", ""]
            if "torch" in times:
                ratios = [f"{base / t:.1f}" for base, t in zip(times["torch"], (forward, both), strict=True)]
            lines.append(
                f"| {size[0]:,}, {size[1]}x{size[2]} | {row} | {1e3 * forward:.1f} ms | {1e3 * both:.1f} ms "
                f"| {ratios[0]} | {ratios[1]} |"
            )
    return lines


def thread_lines(repeats: int) -> list[str]:
    """Speedup of the CPU kernels by threads, alternating so that other programs affect both equally."""
    most = torch.get_num_threads()
    lines = ["| threads | forward | forward + backward |", "| --- | ---: | ---: |"]
    runs: dict[int, list[tuple[float, float]]] = {1: [], most: []}
    for _ in range(3):
        for threads, times in runs.items():
            torch.set_num_threads(threads)
            times.append(measure("cpu", SIZES[0], repeats))
    torch.set_num_threads(most)
    best = {threads: [min(column) for column in zip(*times, strict=True)] for threads, times in runs.items()}
    for threads, (forward, both) in best.items():
        gains = [f"{base / t:.2f}" for base, t in zip(best[1], (forward, both), strict=True)]
        lines.append(f"| {threads} | {1e3 * forward:.1f} ms ({gains[0]}x) | {1e3 * both:.1f} ms ({gains[1]}x) |")
    return lines


def main() -> None:
    """Measure, print, and write the table next to this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ["torch", "cpu", *(["gsplat"] if gsplat_available() else [])]
    parser.add_argument("--backends", nargs="+", choices=known, default=known, help="default: all that run here")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="calls a median (default: %(default)s)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    lines = ["# Rasterizer", "", "`python benchmarks/rasterizer.py`", "", *machine_lines(load), ""]
    lines += speed_table(arguments.backends, arguments.repeats)
    if "cpu" in arguments.backends:
        compiled, cached = first_call_seconds()
        lines += ["", "CPU kernels, 50,000 Gaussians at 512x288:", "", *thread_lines(arguments.repeats), ""]
        lines += [f"First call, forward and backward: {compiled:.1f} s compiling, {cached:.1f} s from the cache."]
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.no_write:
        (Path(__file__).parent / "rasterizer.md").write_text(text)


def machine_lines(load: float) -> list[str]:
    """The machine and versions behind the numbers."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return [
        f"{torch.get_num_threads()} threads, {platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), {gpu}, "
        f"torch {torch.__version__.split('+')[0]}, load average at the start {load:.1f}.",
    ]


if __name__ == "__main__":
    main()
