"""Time and peak memory of every stage over sizes, and their growth: docs/performance.md.

    python benchmarks/stages.py                                  # all; some minutes on two cores
    python benchmarks/stages.py --stages conditioning fusion     # replaces these stages' part of the page
    python benchmarks/stages.py --redraw                         # the page again, from what was measured
    python benchmarks/stages.py --quick --no-write               # two small sizes each, to see that it runs

Each size is measured in a separate process: the median of a few calls, and the peak of memory above the process's
memory before its inputs were made. A power law is fitted to each series; its exponent is 1 for a proportional cost.
Other programs on the machine affect the results: the page states the load. Results are stored in
benchmarks/stages.json, the figures in docs/figures.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.measure import measured, preload  # noqa: E402
from benchmarks.rasterizer import machine_lines  # noqa: E402
from benchmarks.stage_figure import check_figures  # noqa: E402
from benchmarks.stage_page import RESULTS, around_results, growth_lines, stage_lines, write_page  # noqa: E402
from benchmarks.stage_series import AMOUNTS, Stage, absent, quick, stages  # noqa: E402
from benchmarks.stage_works import WORKS, StageTask  # noqa: E402
from cus.errors import InputError  # noqa: E402

PATIENCE, QUICK_PATIENCE = 2.0, 0.2  # seconds of calls per size


def measure_stage(name: str, stage: Stage, repeats: int, patience: float, device: str, model: str) -> dict[str, Any]:
    """Measure one stage: its part of benchmarks/stages.json."""
    part: dict[str, Any] = {
        "label": stage.label,
        "about": stage.about,
        "baseline": stage.baseline,
        "machine": machine_lines(os.getloadavg()[0])[0],
        "series": [],
    }
    for series in stage.series:
        rows = []
        for method in stage.methods:
            for size in series.sizes:
                found = measured(StageTask(name, method, size, device, model), repeats, patience)
                amount = AMOUNTS[series.grows](size)
                said = found.error or f"{1e3 * found.seconds:.1f} ms, {found.memory / 2**20:.0f} MiB"
                print(f"{name}, {method}, {amount:,} {series.grows}: {said}", file=sys.stderr, flush=True)
                numbers = {} if found.error else {"seconds": found.seconds, "memory": found.memory}
                row = {"method": method, "amount": amount, "size": asdict(size), "error": found.error}
                rows.append(row | numbers)
        growing = {"grows": series.grows, "expected": series.expected, "why": series.why}
        part["series"].append(growing | {"rows": rows})
    return part


def main() -> int:
    """Measure, print, and write after each stage, so that no measurement is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=WORKS, default=list(WORKS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="two small sizes each; never written to the page")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: page and figures from stages.json")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="calls a median (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--model", default="mini", help="whose networks are measured (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        raise InputError(f"--repeats must be at least 1, got {arguments.repeats}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device that torch can use; leave the option out")
    write = not (arguments.no_write or arguments.quick)
    if write:
        check_figures()
        around_results(ROOT)
    path = ROOT / RESULTS
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if arguments.redraw:
        if not kept:
            raise InputError(f"--redraw: there is no {RESULTS} yet; measure first")
        write_page(ROOT, kept)
        return 0
    known, failed = stages(arguments.device), 0
    preload(["benchmarks.stage_works"])
    new: dict[str, Any] = {}
    for name in arguments.stages:
        stage = quick(known[name]) if arguments.quick else known[name]
        patience = QUICK_PATIENCE if arguments.quick else PATIENCE
        new[name] = measure_stage(name, stage, arguments.repeats, patience, arguments.device, arguments.model)
        print("\n".join(stage_lines(new[name])), flush=True)
        failed += sum(row["error"] is not None for series in new[name]["series"] for row in series["rows"])
        if write:
            every = kept.get("stages", {}) | new
            ordered = {key: every[key] for key in WORKS if key in every}
            write_page(ROOT, {"absent": absent(arguments.device), "stages": ordered})
    print("\n".join(["", *absent(arguments.device), "", *growth_lines(new)]))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was measured of whole stages is kept")
