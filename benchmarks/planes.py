"""What planes in the agreement of the references gain: errors of depths, and conditioning images.

    python benchmarks/planes.py                                   # the example, whose renderer knows the depths
    python benchmarks/planes.py photos/door photos/castle         # held-out crops of posed photographs

Everything is done twice: with the rounds of the agreement as they are, and with rounds of optical flow alone. For the
example it prints how far the references' depths are off, as the displacement in the other photograph in pixels of the
working size, away from depth edges; then PSNR in dB, SSIM and ST-LPIPS of the fused warps of its four true close-ups,
and means over the cases of each scene. Holes count as right.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `examples` and `procedural` are not installed

from cus.cameras import Cameras, load_transforms
from cus.conditioning import agree, depth_edges, fused_warp
from cus.conditioning.fused import agreement
from cus.conditioning.warp import pixel_map
from cus.datasets.scenes import open_scenes
from cus.estimators import estimate_scene
from cus.evaluation.metrics.metric import make_metrics
from cus.evaluation.protocol import LEVELS, Rules, choose_cases, index_of, thinned
from cus.evaluation.targets import frame_size, read_target, references_at
from cus.scene import SceneEstimate
from examples.render import courtyard
from procedural.tracer import render

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "courtyard"
FLOW_ALONE = {"ROUNDS": (4.0, 2.5, 1.5), "COARSE": (4.0, 2.5), "FINE": (2.5, 1.5, 1.0)}
WAYS = {"flow alone": FLOW_ALONE, "with planes": {"ROUNDS": agreement.ROUNDS}}
METRICS = ("psnr", "ssim", "st_lpips")
BAND = 4  # pixels on each side of a depth edge that are left out


def displacements(depths: Tensor, exact: Tensor, cameras: Cameras) -> Tensor:
    """[N] pixels by which the surface points of two views are displaced in the other one, away from depth edges."""
    found = []
    edges = torch.nn.functional.max_pool2d(depth_edges(exact).float(), 2 * BAND + 1, 1, BAND) > 0
    for view in range(2):
        M, v = (torch.as_tensor(part, dtype=torch.float64) for part in pixel_map(cameras[view], cameras[1 - view]))
        pixels = torch.cat([cameras[view].pixel_centers().double(), torch.ones_like(depths[view, ..., None])], dim=-1)
        places = []
        for z in (depths[view], exact[view]):
            point = z.double()[..., None] * (pixels.double() @ M.T) + v
            places.append(point[..., :2] / point[..., 2:].clamp(min=1e-9))
        off = (places[0] - places[1]).norm(dim=-1)
        found.append(off[~edges[view] & (depths[view] > 0) & (exact[view] > 0)])
    return torch.cat(found)


def example() -> tuple[SceneEstimate, list[Tensor], Tensor, list[tuple[Tensor, Cameras]]]:
    """The example's references and photographs, their exact depths, and its close-ups."""
    posed = load_transforms(EXAMPLE / "transforms.json")
    images, cameras = posed.select([0, 1]).load(width=1024)
    photographs, _ = posed.select([0, 1]).load(width=1280)
    exact = render(courtyard(), cameras, 1)[1]
    pictures, views = posed.select(range(2, len(posed.names))).load(width=512)
    close_ups = [(picture, views[index]) for index, picture in enumerate(pictures)]
    return estimate_scene(images, cameras, "stereo"), list(photographs), exact, close_ups


def cases(
    path: Path, arguments: argparse.Namespace
) -> Iterator[tuple[SceneEstimate, list[Tensor] | None, Tensor, Cameras]]:
    """References, photographs, target picture and camera of a scene's cases."""
    for posed in open_scenes(path).values():
        chosen = choose_cases(posed, Rules(zooms=(arguments.zoom,), centers=("centre",)))
        for level in LEVELS:
            for case in thinned([case for case in chosen if case.level == level], arguments.cases):
                pair = posed.select([index_of(posed, name) for name in case.references])
                photos, cameras = pair.read(*frame_size(*pair.sizes[0], arguments.size))
                scene = estimate_scene(photos.images, cameras, "stereo", valid=photos.valid)
                large = references_at(pair, photos, arguments.photo_size, scene.used) if arguments.photo_size else None
                target = read_target(posed, case, min(arguments.size, 512))
                yield scene, large, target.picture, target.camera


def scores(scene: SceneEstimate, photographs: list[Tensor] | None, truth: Tensor, camera: Cameras) -> list[float]:
    """The metrics of the fused warp of a scene that agrees."""
    shown = fused_warp(scene, camera, photographs, agreed=True)
    picture = torch.where(shown.masks[0], shown.images[0], truth).clamp(0, 1)
    return [metric(picture, truth) for metric in make_metrics(METRICS)[0]]


def line(name: str, values: list[float]) -> None:
    """Print the scores of one row."""
    psnr, ssim, lpips = values
    print(f"{name:<40} {psnr:6.2f} dB   SSIM {ssim:.4f}   ST-LPIPS {lpips:.4f}", flush=True)


@torch.no_grad()
def measure_example() -> None:
    """Print the errors and scores of the example."""
    scene, photographs, exact, close_ups = example()
    for way, changed in WAYS.items():
        with patch.multiple(agreement, **changed):
            agreed = agree(scene, photographs)
        off = displacements(agreed.depths, exact, scene.cameras).numpy()
        shares = ", ".join(f"{100 * (off > bound).mean():.1f} % by more than {bound:g}" for bound in (0.5, 1.0, 3.0))
        print(f"example, {way}: depths are off by {np.median(off):.3f} pixels in the median, {shares}")
        for name, (truth, camera) in zip(("zoom x2", "zoom x4", "between, x4", "dolly x2"), close_ups, strict=True):
            line(f"  {name}, {way}", scores(agreed, photographs, truth, camera))


@torch.no_grad()
def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="*", help="posed scenes, or folders of them")
    parser.add_argument("--size", type=int, default=1024, help="longest side of references in pixels (1024)")
    parser.add_argument("--photo-size", type=int, default=2048, help="that of photographs (2048); 0: as --size")
    parser.add_argument("--zoom", type=float, default=3.0, help="magnification of the crops (3)")
    parser.add_argument("--cases", type=int, default=1, help="cases per scene and level (1)")
    arguments = parser.parse_args()
    if not arguments.scenes:
        measure_example()
    for path in arguments.scenes:
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for references, large, truth, camera in cases(path, arguments):
            for way, changed in WAYS.items():
                with patch.multiple(agreement, **changed):
                    agreed = agree(references, large)
                found[way].append(scores(agreed, large, truth, camera))
        for way, rows in found.items():
            line(f"{path.name} ({len(rows)} cases), {way}", np.mean(rows, axis=0).tolist() if rows else [0.0] * 3)


if __name__ == "__main__":
    main()
