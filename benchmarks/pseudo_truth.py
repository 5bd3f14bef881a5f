"""Is a fit to full-size photographs the better ground truth for close-ups (Fig. 7)? Both fits, scored at photographs.

    python benchmarks/pseudo_truth.py photos/fountain_p11

Gaussians are fitted to the photographs of a scene at `--size` pixels, and again with crops of the photographs at
`--zoom` times that, by the code of data/build_clips.py. Both are rendered where photographs were held out: in whole,
and as close-ups, windows of `--size` pixels of the photograph at `--zoom` times the size. The close-ups are the ground
truth that a clip would get.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.cameras import Cameras, PosedPhotos
from cus.datasets.scene_clips.recipe import TruthRecipe
from cus.datasets.scene_clips.truth import FitStart, SceneTruth, fit_start, fit_truth
from cus.datasets.scenes import open_scene
from cus.evaluation.metrics.weight_free import psnr, ssim
from cus.models.perceptual import PerceptualDistance

# Centres of the close-ups, as shares of the picture.
CENTERS = ((0.5, 0.5), (0.3, 0.35), (0.7, 0.35), (0.3, 0.65), (0.7, 0.65))


def windows(posed: PosedPhotos, width: int, height: int, zoom: int) -> Iterator[tuple[Tensor, Tensor, Cameras]]:
    """Close-ups of photographs: pixels [3, height, width], valid [height, width], and the camera of each."""
    photos, cameras = posed.read(zoom * width, zoom * height)
    for view in range(len(posed)):
        for across, down in CENTERS:
            x, y = (round(share * (zoom - 1) * side) for share, side in ((across, width), (down, height)))
            part = (slice(y, y + height), slice(x, x + width))
            yield photos.images[view][:, *part], photos.valid[view][part], cameras[view].cropped(x, y, width, height)


def scores(truth: SceneTruth, pictures: list[tuple[Tensor, Tensor, Cameras]], distance: PerceptualDistance) -> str:
    """Mean PSNR, SSIM and ST-LPIPS of renders."""
    found = []
    for picture, valid, camera in pictures:
        render = truth.render(camera).images[0]
        near = float(distance(render[None], picture[None]).mean())
        found.append((psnr(render, picture, valid), ssim(render, picture, valid), near))
    means = torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist()
    return f"PSNR {means[0]:6.2f} dB  SSIM {means[1]:.3f}  ST-LPIPS {means[2]:.3f}"


def main(arguments: list[str]) -> None:
    """Print both fits' scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="scene in any layout of docs/data.md")
    parser.add_argument("--size", type=int, default=320, help="longest side of whole photographs in pixels (320)")
    parser.add_argument("--zoom", type=int, default=4, help="size of full photographs and close-ups relative to it (4)")
    parser.add_argument("--iterations", type=int, default=800, help="steps of each fit (800)")
    parser.add_argument("--max-gaussians", type=int, default=100_000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    full = TruthRecipe(
        size=options.size, full_size=options.zoom * options.size, iterations=options.iterations,
        max_gaussians=options.max_gaussians, sh_degree=1, cloud_views=8, cloud_size=options.size,
    )  # fmt: skip
    distance = PerceptualDistance.load("alex")
    posed, device = open_scene(options.scene), torch.device(options.device)
    start = fit_start(posed, full, device)
    width, height = start.views.cameras.width, start.views.cameras.height
    photos, cameras = start.held_out.read(width, height)
    whole = [(photos.images[i], photos.valid[i], cameras[i]) for i in range(len(cameras))]
    near = list(windows(start.held_out, width, height, options.zoom))
    print(f"held out: {', '.join(start.held_out.names)}; {len(near)} close-ups of {width}x{height}")
    quarter = FitStart(replace(start.views, photographs=()), start.cloud, start.held_out)
    for name, given, recipe in (("a quarter of it", quarter, replace(full, crops=0)), ("full size", start, full)):
        began = time.process_time()
        truth = fit_truth(given, recipe)
        print(f"fit to {name}, {len(truth.gaussians)} Gaussians, {time.process_time() - began:.0f} CPU seconds")
        print(
            f"  whole      {scores(truth, whole, distance)}\n  x{options.zoom} close  {scores(truth, near, distance)}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
