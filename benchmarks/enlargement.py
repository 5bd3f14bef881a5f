r"""Enlarged photographs against the true ones: what each gradient and prior adds before any fit.

    python benchmarks/enlargement.py photos/sceaux_castle 00003 00004 --size 128 \
        --ways none mini,sds,steps=6 mini,vsd runs/noisy/export,rsd,high=0.3

The photographs are shrunk to a quarter of the truth's size and enlarged again. A way is a prior, a gradient and options
of the distillation: steps, rate, low, high (noise range), every (steps for each of the critic's), critic_rate.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.cameras import Cameras
from cus.datasets.scenes import open_scene
from cus.estimators import SceneEstimate, estimate_scene
from cus.evaluation.metrics import make_metrics
from cus.refinement.distillation import DistillOptions
from cus.refinement.priors import CriticOptions, open_prior
from cus.refinement.super_resolution import SuperResolution, conditioning_of, enlarged

FACTOR = 4
METRICS = ("psnr", "ssim", "st_lpips", "niqe")


def read(folder: Path, names: list[str], size: int) -> tuple[SceneEstimate, Tensor]:
    """The shrunk photographs with depths, and the true ones [V, 3, H, W]."""
    posed = open_scene(folder)
    posed = posed.select([posed.find(name) for name in names])
    width, height = (round(side * size / max(posed.sizes[0])) for side in posed.sizes[0])
    photos, cameras = posed.read(width, height)
    truth, _ = posed.read(FACTOR * width, FACTOR * height)
    given = Cameras(cameras.viewmats, cameras.Ks, width, height)
    return estimate_scene(photos.images, given, valid=photos.valid), truth.images


def options_of(way: str) -> tuple[str, SuperResolution, CriticOptions]:
    """A way in words -> prior, options, critic."""
    prior, *words = way.split(",")
    gradient = next((word for word in words if "=" not in word), "vsd")
    given = {name: float(value) for name, value in (word.split("=") for word in words if "=" in word)}
    distillation = DistillOptions(
        gradient,  # pyright: ignore[reportArgumentType]  (checked by `distill`)
        steps=int(given.pop("steps", 12)),
        rate=given.pop("rate", 1.0),
        noise_range=(given.pop("low", 0.02), given.pop("high", 0.98)),
        critic_every=int(given.pop("every", 3)),
    )
    critic = CriticOptions(rate=given.pop("critic_rate", CriticOptions.rate))
    if given:
        raise SystemExit(f"{way}: unknown {', '.join(given)}")
    return prior, SuperResolution(FACTOR, distillation=distillation), critic


def main() -> None:
    """Print one row of the table for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="folder of posed photographs")
    parser.add_argument("names", nargs="+", help="names of at least two photographs")
    parser.add_argument("--size", type=int, default=128, help="longest side of the shrunk photographs in pixels")
    parser.add_argument("--ways", nargs="+", default=["none", "mini,sds", "mini,rsd", "mini,vsd"])
    arguments = parser.parse_args()
    scene, truth = read(arguments.scene, arguments.names, arguments.size)
    metrics = [metric for metric in make_metrics(None)[0] if metric.name in METRICS]
    conditioning = conditioning_of(scene, FACTOR)

    def row(name: str, images: list[Tensor], seconds: float) -> None:
        scores = [[metric(image, true) for metric in metrics] for image, true in zip(images, truth, strict=True)]
        print("| " + " | ".join([name, *(f"{v:.3f}" for v in np.mean(scores, axis=0)), f"{seconds:.0f} s"]) + " |")

    print(f"| {' | '.join(['way', *(metric.label for metric in metrics), 'time'])} |")
    row("bicubic", enlarged(scene, None, SuperResolution(FACTOR, projected=False), None, None, 0), 0)
    row("fused warp", list(conditioning.images), 0)
    for way in arguments.ways:
        name, options, critic = options_of(way)
        prior = open_prior(name, FACTOR, torch.device("cpu"), critic=critic)
        started = time.perf_counter()
        made = enlarged(scene, None, options, prior, None if prior is None else conditioning, 0)
        row(way.replace(",", ", "), made, time.perf_counter() - started)


if __name__ == "__main__":
    main()
