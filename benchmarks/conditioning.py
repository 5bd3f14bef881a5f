"""Speed and memory of the conditioning (both warps, point render) and of the plane sweep on this machine's CPU.

    python benchmarks/conditioning.py                          # writes benchmarks/conditioning.md
    python benchmarks/conditioning.py --no-write --repeats 5 --threads 1
    python benchmarks/conditioning.py --only-fused             # prints the fused warp's table alone
    python benchmarks/conditioning.py --quick --no-write       # small sizes, to see that it runs

The compiled kernels are compared with equivalent tensor operations ("plain torch"), alternately in one process; times
are the minimum of the repeats after one warm-up call. Other programs on the machine affect the results, and plain torch
most.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rasterizer import machine_lines
from benchmarks.scenes import boards_before_a_wall
from cus.cameras import Cameras, trajectories
from cus.conditioning import Conditioning, agree, fused_warp, hierarchical_warp, render_scene_points
from cus.conditioning.options import Backend
from cus.estimators import SceneEstimate, estimate_scene
from cus.estimators.matching_cost import cost_volume, cost_volume_torch
from cus.estimators.plane_sweep import Sweep

GOAL = (1024, 576, 2, 25)  # width, height, views, targets: at most 2.5 s on two cores
CASES = {
    "size": [(256, 144, 2, 25), (512, 288, 2, 25), GOAL],
    "targets": [(512, 288, 2, 5), (512, 288, 2, 25), (512, 288, 2, 50)],
    "views": [(512, 288, 2, 10), (512, 288, 4, 10), (512, 288, 8, 10)],
}
QUICK_CASES = {"size": [(128, 72, 2, 3), (256, 144, 2, 3)], "targets": [(128, 72, 2, 6)], "views": [(128, 72, 4, 3)]}
# For the fused warp, in addition to the others' cases: the goal's size, with fewer targets and more references.
FUSED_CASES = [(1024, 576, 2, 5), (1024, 576, 4, 5), GOAL]
# The tensor operations process the picture once for each of ten layers, and take minutes for more than this.
PLAIN_POINTS, QUICK_PLAIN_POINTS = (256, 144, 2, 5), (128, 72, 2, 2)
SWEEP_SIZES, QUICK_SWEEP_SIZES = [(256, 170), (384, 256), (512, 341), (640, 426)], [(160, 106)]
SWEEP_PLANES = 128
Case = tuple[int, int, int, int]


def best_seconds(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The minimum time of each work, alternately, after a warm-up call for each."""
    return [seconds for seconds, _ in best_times(works, repeats)]


def best_times(works: Sequence[Callable[[], object]], repeats: int) -> list[tuple[float, float]]:
    """As `best_seconds`, the minimum of the time that passes and that of the processor time of all threads."""
    clocks, best = (time.perf_counter, time.process_time), [(float("inf"), float("inf"))] * len(works)
    for turn in range(repeats + 1):
        for index, work in enumerate(works):
            started = [clock() for clock in clocks]
            work()
            if turn:
                passed, used = (clock() - start for clock, start in zip(clocks, started, strict=True))
                best[index] = min(best[index][0], passed), min(best[index][1], used)
    return best


def scene_and_targets(case: Case) -> tuple[SceneEstimate, Cameras]:
    """A scene, and a zoom (x1 to x4) that visits all views."""
    width, height, views, frames = case
    scene = boards_before_a_wall(views, width, height)
    zoom = trajectories.zoom(scene.cameras, zoom=4.0, frames=frames)
    path = trajectories.interpolate(scene.cameras, zoom=1.0, frames=frames)
    return scene, Cameras(path.viewmats, zoom.Ks, width, height)


def conditioning_work(case: Case, backend: Backend) -> Callable[[], Conditioning]:
    """The hierarchical warp with one backend."""
    scene, targets = scene_and_targets(case)
    return lambda: hierarchical_warp(scene, targets, backend=backend)


def points_work(case: Case, backend: Backend, shrink_references: bool = False) -> Callable[[], Conditioning]:
    """ViewCrafter's point render with one backend."""
    scene, targets = scene_and_targets(case)
    return lambda: render_scene_points(scene, targets, shrink_references=shrink_references, backend=backend)


def conditioning_tables(cases: dict[str, list[Case]], repeats: int) -> list[str]:
    """A table for each dimension of the cost."""
    lines = []
    for name, rows in cases.items():
        lines += [
            f"### By {name}",
            "",
            "| size | views | targets | kernels | plain torch | x plain torch | ns per target and reference pixel |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for case in rows:
            width, height, views, targets = case
            fast, plain = best_seconds([conditioning_work(case, "cpu"), conditioning_work(case, "torch")], repeats)
            each = 1e9 * fast / (targets * views * width * height)
            lines.append(
                f"| {width}x{height} | {views} | {targets} | {fast:.2f} s | {plain:.2f} s | {plain / fast:.1f} "
                f"| {each:.1f} |"
            )
        lines.append("")
    return lines


def fused_work(case: Case) -> Callable[[], Conditioning]:
    """The fused warp with the agreement of its references."""
    scene, targets = scene_and_targets(case)
    return lambda: fused_warp(scene, targets)


def agreement_work(case: Case) -> Callable[[], SceneEstimate]:
    """Only the agreement."""
    scene, _ = scene_and_targets(case)
    return lambda: agree(scene)


def fused_table(cases: Sequence[Case], repeats: int) -> Iterator[str]:
    """Lines as they are measured, one row per case: fused warp, its one-time part, hierarchical warp, in one run.

    Ratios are of the time that passes and of processor time, which other programs affect less.
    """
    yield "| size | views | targets | fused | of it agreement | hierarchical | x hierarchical | without agreement |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for case in dict.fromkeys(cases):
        width, height, views, targets = case
        works = [fused_work(case), agreement_work(case), conditioning_work(case, "cpu")]
        fused, once, hierarchical = best_times(works, repeats)
        whole, rest = [], []
        for a, b, c in zip(fused, once, hierarchical, strict=True):  # time, then processor time
            whole.append(f"{a / c:.1f}")
            rest.append(f"{(a - b) / c:.1f}")
        yield (
            f"| {width}x{height} | {views} | {targets} | {fused[0]:.2f} s | {once[0]:.2f} s | {hierarchical[0]:.2f} s "
            f"| {' / '.join(whole)} | {' / '.join(rest)} |"
        )


def points_table(rows: list[Case], plain: Case, repeats: int) -> list[str]:
    """One row per size, with references shrunk for each target or once; and the time of tensor operations."""
    lines = [
        "| size | views | targets | shrunk per target | once (ViewCrafter) | ns per target and reference pixel |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in rows:
        width, height, views, targets = case
        suited, once = best_seconds([points_work(case, "cpu", shrink) for shrink in (False, True)], repeats)
        each = 1e9 * suited / (targets * views * width * height)
        lines.append(f"| {width}x{height} | {views} | {targets} | {suited:.2f} s | {once:.2f} s | {each:.1f} |")
    fast, slow = best_seconds([points_work(plain, "cpu"), points_work(plain, "torch")], repeats)
    return [
        *lines,
        "",
        f"{plain[3]} targets of {plain[0]}x{plain[1]} take {1e3 * fast:.0f} ms with the kernels and {slow:.2f} s in "
        f"plain torch, {slow / fast:.0f} times as long.",
    ]


def estimate_work(case: Case) -> Callable[[], object]:
    """Depth and confidence of all views with known cameras."""
    scene = boards_before_a_wall(case[2], case[0], case[1])
    return lambda: estimate_scene(scene.images, scene.cameras, "stereo")


WORKS: dict[str, Callable[[Case], Callable[[], object]]] = {
    "kernels": lambda case: conditioning_work(case, "cpu"),
    "plain torch": lambda case: conditioning_work(case, "torch"),
    "points": lambda case: points_work(case, "cpu"),
    "fused": fused_work,
    "estimate": estimate_work,
}


def peak_memory(what: str, case: Case) -> float:
    """Maximum MiB that a work of `WORKS` adds to a process, including its result; measured in a separate process."""
    command = [sys.executable, __file__, "--peak-memory", what, *map(str, case)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(run.stdout)


def print_peak_memory(what: str, case: Case) -> None:
    """The work of `peak_memory`'s process, on Linux."""
    WORKS[what]((160, 106, 2, 2))()  # small, to load compiled code and libraries first
    work = WORKS[what](case)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak after making the scene
    before = _kibibytes("VmRSS")
    work()
    print((_kibibytes("VmHWM") - before) / 1024)


def _kibibytes(field: str) -> int:
    """A field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def sweep_table(sizes: list[tuple[int, int]], repeats: int) -> list[str]:
    """One row per size: the whole estimate of a pair with known cameras, and its matching costs with both backends."""
    lines = [
        "| size | depth of both | matching costs of one | in plain torch | x plain torch | ns a pixel and plane |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for width, height in sizes:
        scene = boards_before_a_wall(2, width, height)
        valid = torch.ones((2, height, width), dtype=torch.bool)
        sweep = Sweep.between(scene.images, scene.cameras, 0, [1], valid)
        planes = torch.linspace(0.1, 0.45, SWEEP_PLANES)
        views = sweep.gray, sweep.sources, sweep.sources_valid, sweep.rays, sweep.shifts, planes, 5
        works = [
            estimate_work((width, height, 2, 0)),
            lambda views=views: cost_volume(*views),
            lambda views=views: cost_volume_torch(*views),
        ]
        whole, fast, plain = best_seconds(works, repeats)
        each = 1e9 * fast / (width * height * SWEEP_PLANES)
        lines.append(
            f"| {width}x{height} | {whole:.2f} s | {1e3 * fast:.0f} ms | {1e3 * plain:.0f} ms | {plain / fast:.1f} "
            f"| {each:.1f} |"
        )
    return lines


def main() -> None:
    """Measure, print, and write the tables next to this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="calls a time (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: one a core)")
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument("--only-fused", action="store_true", help="print the fused warp's table alone, write nothing")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--peak-memory", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.peak_memory:
        what, *case = arguments.peak_memory
        width, height, views, targets = map(int, case)
        return print_peak_memory(what, (width, height, views, targets))

    load, cases = os.getloadavg()[0], QUICK_CASES if arguments.quick else CASES
    fused_cases = [case for rows in cases.values() for case in rows] + ([] if arguments.quick else FUSED_CASES)
    if arguments.only_fused:
        for line in (*machine_lines(load), ""):
            print(line)
        for line in fused_table(fused_cases, arguments.repeats):
            print(line, flush=True)  # the larger cases take minutes
        return
    largest = cases["size"][-1]
    sizes = QUICK_SWEEP_SIZES if arguments.quick else SWEEP_SIZES
    pair = max(size for size in sizes if size[0] <= 512)
    command = " ".join(["python benchmarks/conditioning.py", *sys.argv[1:]])
    lines = ["# Conditioning and plane sweep", "", f"`{command}`", "", *machine_lines(load), ""]
    lines += ["## Hierarchical warp", "", *conditioning_tables(cases, arguments.repeats)]
    kernels, plain = (peak_memory(form, largest) for form in ("kernels", "plain torch"))
    result = largest[0] * largest[1] * largest[3] * (3 * 4 + 1 + 4) / 2**20
    lines += [
        f"Peak memory of {largest[3]} targets of {largest[0]}x{largest[1]}, above the scene's: {kernels:.0f} MiB with "
        f"the kernels, {plain:.0f} MiB in plain torch; {result:.0f} MiB of it are the result.",
        "",
        "## Fused warp",
        "",
        *fused_table(fused_cases, arguments.repeats),
        "",
        f"Peak memory of {largest[3]} targets of {largest[0]}x{largest[1]}, above the scene's: "
        f"{peak_memory('fused', largest):.0f} MiB, layers included.",
        "",
        "## Point render (discs at half the size, ten a pixel)",
        "",
        *points_table(cases["size"], QUICK_PLAIN_POINTS if arguments.quick else PLAIN_POINTS, arguments.repeats),
        "",
        f"Peak memory of {largest[3]} targets of {largest[0]}x{largest[1]}, above the scene's: "
        f"{peak_memory('points', largest):.0f} MiB; {result:.0f} MiB of it are the result.",
        "",
        f"## Plane sweep ({SWEEP_PLANES} planes for the matching costs)",
        "",
        *sweep_table(sizes, arguments.repeats),
        "",
        f"Peak memory of the depth of two views of {pair[0]}x{pair[1]}, above their own: "
        f"{peak_memory('estimate', (*pair, 2, 0)):.0f} MiB.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if not arguments.no_write:
        (Path(__file__).parent / "conditioning.md").write_text(text)


if __name__ == "__main__":
    main()
