r"""CPU time of a fit with pseudo-labels over that of the same fit without.

    python benchmarks/label_cost.py photos/lund_door DSC_0001 DSC_0003 DSC_0006 DSC_0009 --size 512 --iterations 200

Prints CPU seconds of both fits and their ratio, without the depths, which are the same. The first steps compile or load
kernels; a short fit beforehand takes this time.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.cameras.photos import large_pictures
from cus.datasets.scenes import open_scene
from cus.estimators import estimate_scene
from cus.inference.fit_options import FitOptions
from cus.inference.photo_fit import fused_photos, photo_views
from cus.inference.photographs import LARGEST_PHOTOGRAPH
from cus.refinement.pseudo_labels import PseudoLabels
from cus.splats import fit_views


def main() -> None:
    """Fit twice and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="folder of posed photographs")
    parser.add_argument("names", nargs="+", help="at least two of them")
    parser.add_argument("--size", type=int, default=512, help="longest side of the images in pixels")
    parser.add_argument("--iterations", type=int, default=200)
    given = parser.parse_args()
    posed = open_scene(given.scene)
    posed = posed.select([posed.find(name) for name in given.names])
    widest, highest = (max(sides) for sides in zip(*posed.sizes, strict=True))
    scale = given.size / max(widest, highest)
    photos, cameras = posed.read(round(widest * scale), round(highest * scale))
    estimate = estimate_scene(photos.images, cameras, valid=photos.valid)
    full = posed.at_file_size()
    pictures = (full.straight_picture(index).pixels for index in range(len(full)))
    width, height = estimate.cameras.width, estimate.cameras.height
    own = large_pictures(pictures, photos.scales, width, height, LARGEST_PHOTOGRAPH)
    options = FitOptions(iterations=given.iterations, strategy="mcmc", size=given.size)
    config = options.config(torch.device("cpu"), width, height)
    views, cloud = replace(photo_views(estimate, photos.valid), photographs=tuple(own)), fused_photos(estimate)
    seconds = []
    for labelled in (False, True):
        source = PseudoLabels.beside(estimate, own, views, config) if labelled else None
        fit_views(views, cloud, replace(config, iterations=3, coarse_share=0.0), source=source)
        began = time.process_time()
        fit_views(views, cloud, config, source=source)
        seconds.append(time.process_time() - began)
    plain, labelled = seconds
    print(
        f"{width}x{height}, {given.iterations} steps: plain {plain:.1f} s, with pseudo-labels {labelled:.1f} s of CPU"
    )
    print(f"ratio {labelled / plain:.2f}")


if __name__ == "__main__":
    main()
