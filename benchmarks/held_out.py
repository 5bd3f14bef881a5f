"""Score checkpoints on held-out clips, next to their conditioning.

    python data/make_cases.py out=runs/validation "scenes=[castle,door]" cases=5
    python benchmarks/held_out.py runs/validation mini runs/unet/export
    python benchmarks/held_out.py runs/validation runs/teacher/export:25,4,1 runs/student/export:4,1

It prints the means of PSNR, SSIM and ST-LPIPS (extra `metrics`) over whole frames, for each scene and over all clips,
and the PSNR between each model's frames and those of the first one, which start from the same noise. Training scores
crops of a few of them as it goes (`held_out=`); this script uses all.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.datasets.clips import Clip, clip_paths, load_clip
from cus.diffusion import CloseUpShotPipeline
from cus.evaluation.metrics.weight_free import psnr, ssim
from cus.models.perceptual import PerceptualDistance

SHOWN = "conditioning"
Scores = tuple[float, float, float]
Row = list[tuple[str, Scores, float]]
"""A model's clips: scene, scores of the frames, and PSNR between them and the first model's."""


def scorer() -> Callable[[Tensor, Tensor], Scores]:
    """A function that averages the measures over frames [T, 3, H, W] in [0, 1]."""
    distance = PerceptualDistance.load("alex")

    def score(frames: Tensor, targets: Tensor) -> Scores:
        pairs = list(zip(frames.clamp(0, 1), targets, strict=True))
        means = [sum(measure(*pair) for pair in pairs) / len(pairs) for measure in (psnr, ssim)]
        return float(means[0]), float(means[1]), float(distance(frames.clamp(0, 1), targets).mean())

    return score


def with_steps(model: str) -> tuple[str, list[int | None]]:
    """A model and its numbers of sampling steps, from "MODEL" or "MODEL:25,4"; None is the checkpoint's own number."""
    found = re.fullmatch(r"(.+):(\d+(?:,\d+)*)", model)
    return (model, [None]) if found is None else (found[1], [int(steps) for steps in found[2].split(",")])


def frames_of(pipeline: CloseUpShotPipeline, clip: Clip, steps: int | None) -> Tensor:
    """A checkpoint's frames for a clip, with the same noise for every clip."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return pipeline(clip.references, clip.shown, steps=steps, generator=draws, dtype=torch.bfloat16)


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of held-out clips")
    parser.add_argument("models", nargs="+", help='"mini", a folder or a Hub id; :25,4: with 25 and 4 sampling steps')
    parser.add_argument(
        "--least", type=float, default=21.5, metavar="DB", help="leave out clips shown worse than this (21.5 dB)"
    )
    options = parser.parse_args(arguments)
    paths, score = clip_paths(options.clips), scorer()
    models = [
        (name if number is None else f"{name}, steps: {number}", pipeline, number)
        for name, numbers in map(with_steps, options.models)
        for pipeline in [CloseUpShotPipeline.from_pretrained(name)]
        for number in numbers
    ]
    rows: dict[str, Row] = {name: [] for name in (SHOWN, *(name for name, _, _ in models))}
    for done, path in enumerate(paths, 1):
        clip, first = load_clip(path), None
        shown, scene = score(clip.conditioning, clip.targets), str(clip.info.get("scene", ""))
        if shown[0] >= options.least:
            rows[SHOWN].append((scene, shown, math.nan))
            for name, pipeline, number in models:
                frames = frames_of(pipeline, clip, number)
                alike = math.nan if first is None else sum(map(psnr, frames, first)) / len(frames)
                first = frames if first is None else first
                rows[name].append((scene, score(frames, clip.targets), alike))
        print(f"{done} of {len(paths)}", end="\r", file=sys.stderr)
    if not rows[SHOWN]:
        raise SystemExit(f"error: no clip is shown at {options.least} dB or better; try a smaller --least")
    for scene in (*sorted({scene for scene, _, _ in rows[SHOWN]}), None):
        chosen = {name: [clip for clip in row if scene in (clip[0], None)] for name, row in rows.items()}
        print(f"{scene or 'all'}, {len(chosen[SHOWN])} clips")
        for name, clips in chosen.items():
            means = torch.tensor([scores for _, scores, _ in clips], dtype=torch.float64).mean(dim=0).tolist()
            told = f"  {name[-40:]:40} PSNR {means[0]:6.2f} dB  SSIM {means[1]:.4f}  ST-LPIPS {means[2]:.4f}"
            alike = sum(like for _, _, like in clips) / len(clips)
            print(told + (f"  like the first {alike:.2f} dB" if math.isfinite(alike) else ""))


if __name__ == "__main__":
    main(sys.argv[1:])
