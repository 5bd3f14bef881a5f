"""Learning curve of a training: scores of held-out clips over steps, next to those of their conditioning.

It reads the output of `train/unet.py`: `python benchmarks/learning_curve.py runs/unet curve.png`. For several runs,
each started from the previous one's weights, the steps are added up.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# Curves: the measure's name in log.jsonl, its title, and the sign of a gain.
MEASURES = (("psnr", "PSNR gain (dB)", 1), ("ssim", "SSIM gain", 1), ("st_lpips", "ST-LPIPS gain", -1))


def scores(runs: list[Path]) -> list[dict[str, Any]]:
    """Lines with scores in the runs' logs, with steps accumulated over the runs."""
    found, before = [], 0
    for run in runs:
        path = run / "log.jsonl"
        if not path.is_file():
            raise SystemExit(f"error: there is no {path}; is it the out= folder of train/unet.py?")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found += [line | {"step": before + line["step"]} for line in lines if "psnr" in line]
        before += max((line["step"] for line in lines), default=0)
    if not found:
        raise SystemExit("error: no run has scores; train with held_out= and loop.sample_every=")
    return found


def gains(lines: list[dict[str, Any]], name: str, sign: int) -> tuple[list[int], list[float]]:
    """Steps, and the gain of a measure over the conditioning."""
    found = [(line["step"], sign * (line[name] - line[f"{name}_conditioning"])) for line in lines if name in line]
    return [step for step, _ in found], [gain for _, gain in found]


def draw(lines: list[dict[str, Any]], out: Path) -> None:
    """Write the figure; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measures = [measure for measure in MEASURES if gains(lines, measure[0], measure[2])[0]]
    figure = Figure(figsize=(3.4 * len(measures), 2.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, title, sign) in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        axes.plot(*gains(lines, name, sign), color="#0072b2", marker="o", markersize=3, linewidth=1.2)
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(True, alpha=0.3)
    figure.savefig(out)


def main(arguments: list[str]) -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="out= folders of train/unet.py, in order")
    parser.add_argument("out", type=Path, help="a .png")
    given = parser.parse_args(arguments)
    if given.out.exists():
        raise SystemExit(f"error: {given.out} exists; name a new file")
    draw(scores(given.runs), given.out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
