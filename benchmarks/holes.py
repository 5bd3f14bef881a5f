"""Fills of the holes of conditioning images, scored at held-out photographs: none, smooth, and continued texture.

    python benchmarks/holes.py photos/sceaux_castle photos/lund_door --pictures out/holes

Targets are whole photographs and parts of them, of which two others show between 60 and 98.5 %. Only holes are scored:
the PSNR of their pixels, and ST-LPIPS (extra `metrics`) of the true picture with the holes filled. Cases whose visible
part is shown worse than 18 dB say little and are left out.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.cameras import Cameras, PosedPhotos
from cus.completion.surroundings import fill_holes
from cus.conditioning import Conditioning, agree, continued, fused_warp
from cus.datasets.scenes import open_scenes
from cus.estimators import estimate_scene
from cus.evaluation.metrics.weight_free import psnr
from cus.evaluation.protocol import LEVELS, Case, Rules, choose_cases, index_of, thinned
from cus.evaluation.targets import frame_size, read_target
from cus.models.perceptual import PerceptualDistance

RULES = Rules(zooms=(1.0, 1.6), centers=("centre", "upper-left"), pair_overlap=0.3, overlap=0.4)
COVERAGE, LEAST_PSNR = (0.6, 0.985), 18.0


def shown(posed: PosedPhotos, case: Case, size: int) -> tuple[Conditioning, Cameras, Tensor]:
    """What the references show of a case: conditioning image, its camera, and the true picture [3, H, W]."""
    chosen = posed.select([index_of(posed, name) for name in case.references])
    photos, cameras = chosen.read(*frame_size(*chosen.sizes[0], size))
    scene = agree(estimate_scene(photos.images, cameras, "stereo", valid=photos.valid))
    target = read_target(posed, case, size)
    return fused_warp(scene, target.camera, agreed=True, with_layers=False), target.camera, target.picture


def cases_with_holes(scene: Path, most: int, size: int) -> Iterator[tuple[str, Conditioning, Cameras, Tensor]]:
    """At most `most` cases per scene and level that have holes and are otherwise well shown."""
    for name, posed in open_scenes(scene).items():
        cases = choose_cases(posed, RULES)
        for level in LEVELS:
            for case in thinned([case for case in cases if case.level == level], most):
                warped, camera, truth = shown(posed, case, size)
                seen = warped.masks[0]
                visible = float(psnr(torch.where(seen, warped.images[0], truth), truth))
                if COVERAGE[0] <= float(warped.coverage[0]) <= COVERAGE[1] and visible >= LEAST_PSNR:
                    yield f"{name}-{case.name}", warped, camera, truth


def fills(warped: Conditioning, camera: Cameras) -> dict[str, Tensor]:
    """The picture [3, H, W] with its holes filled in every way."""
    completed = continued(warped, camera).completed
    assert completed is not None
    smooth = fill_holes(warped.images, warped.masks, warped.depths)
    return {"black": warped.images[0], "smooth": smooth[0], "continued": completed[0]}


@torch.no_grad()
def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+", help="posed scenes in any layout of docs/data.md")
    parser.add_argument("--cases", type=int, default=4, help="cases per scene and level, before any is left out (4)")
    parser.add_argument("--size", type=int, default=384, help="longest side of all pictures, in pixels (384)")
    parser.add_argument("--pictures", type=Path, help="folder for the fills side by side, the truth last")
    options = parser.parse_args(arguments)
    distance = PerceptualDistance.load("alex")
    scores: dict[str, list[tuple[float, float]]] = {}
    for scene in options.scenes:
        for name, warped, camera, truth in cases_with_holes(scene, options.cases, options.size):
            hole = ~warped.masks[0]
            made = fills(warped, camera)
            for way, picture in made.items():
                mixed = torch.where(hole, picture, truth)
                near = float(distance(mixed[None], truth[None]).mean())
                scores.setdefault(way, []).append((float(psnr(picture, truth, hole)), near))
            print(name, *(f"{way} {found[-1][0]:.2f} dB {found[-1][1]:.4f}" for way, found in scores.items()), sep="  ")
            if options.pictures is not None:
                options.pictures.mkdir(parents=True, exist_ok=True)
                row = torch.cat([*made.values(), truth], dim=-1)
                save_image(row, options.pictures / f"{name}.png".replace("/", "_"))
    for way, found in scores.items():
        means = torch.tensor(found, dtype=torch.float64).mean(dim=0).tolist()
        print(f"{way:10} {len(found)} cases  PSNR {means[0]:.2f} dB  ST-LPIPS {means[1]:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
