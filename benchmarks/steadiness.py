"""Steadiness of conditioning images and frames along a path: changes beyond the effect of the cameras' motion.

    cus-infer --views a.jpg b.jpg --frames 25 --no-splat --out out
    python benchmarks/steadiness.py out

Neighbouring pictures of the run's path are warped onto each other with the depth of its conditioning, and compared
like renders in `cus-view --measure`: the mean absolute difference of co-visible pixels, and the same over the worst
1 % of blocks ("popping"), both of 255. All rows are compared with the same depth. The warps are recomputed from
the run's scene and photographs.
"""

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.cameras import Cameras
from cus.conditioning import agree, fused_warp, hierarchical_warp, render_scene_points
from cus.errors import InputError
from cus.inference.refit import read_run, recorded_photographs
from cus.viewer.steadiness import Shot, compare


def changes(pictures: Tensor, masks: Tensor, depths: Tensor, cameras: Cameras) -> tuple[float, float, float]:
    """Mean change, popping and fraction of compared pixels, averaged over neighbours of [T, 3, H, W] pictures."""
    shots = [Shot(cameras[t], pictures[t], masks[t].float(), depths[t]) for t in range(len(cameras))]
    found = torch.tensor([compare(*pair) for pair in itertools.pairwise(shots)], dtype=torch.float64)
    change, popping, share = found.mean(dim=0).tolist()
    return change, popping, share


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output of cus-infer")
    run = read_run(parser.parse_args(arguments).run)
    scene, cameras = run.made.scene, run.made.cameras
    if len(cameras) < 2:
        raise InputError("one frame has no neighbours: give cus-infer --frames 25")
    photographs, _ = recorded_photographs(run)
    fused = fused_warp(agree(scene, photographs), cameras, photographs, agreed=True)
    rows = {
        "hierarchical warp": hierarchical_warp(scene, cameras),
        "points": render_scene_points(scene, cameras),
        "fused warp": fused,
        "frames": replace(fused, images=run.made.frames, masks=torch.ones_like(fused.masks)),
    }
    print("| picture | change (of 255) | popping (of 255) | compared |\n| --- | ---: | ---: | ---: |")
    for name, shown in rows.items():
        masks = shown.masks & fused.masks
        change, popping, share = changes(shown.images, masks, fused.depths, cameras)
        print(f"| {name} | {change:.2f} | {popping:.1f} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
