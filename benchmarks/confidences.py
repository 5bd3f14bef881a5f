r"""Table IV of the paper for a run: the effect of the confidences of Eqs. 9 and 10 on the Gaussian scene.

    cus-infer --views examples/courtyard/a.jpg examples/courtyard/b.jpg \
        --cameras examples/courtyard/transforms.json --no-splat --out out/courtyard
    python benchmarks/confidences.py out/courtyard examples/courtyard/transforms.json

The scene is fitted to the generated frames and the photographs of the run, once per row, and rendered from photographs
that the run never saw: those in the transforms.json that are not its views, or `--photographs`. The run's cameras must
come from the same file. `--crops 2 4` compares close-ups of the held-out photographs instead: their central crops at
full resolution, shrunk to the frames' size. A row is the mean over `--seeds` seeds; PSNR in dB.

`--swap 6` tests inconsistent frames, like those of a model that invents content: in each frame six random rectangles
show another part of it, and the cloud is fused anew.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos, load_transforms
from cus.closeup import CloseUp, fuse
from cus.conditioning import FusedCloud
from cus.errors import InputError
from cus.inference.fitting import FitOptions, supervision
from cus.inference.photo_fit import scored
from cus.inference.refit import RecordedRun, read_run
from cus.splats import fit_views, render

# The paper's rows are the first three; image confidence comes before pixel confidence.
ROWS = {
    "vanilla": FitOptions(image_confidence=False, pixel_confidence=False),
    "+ image confidence": FitOptions(pixel_confidence=False),
    "+ image and pixel confidence": FitOptions(),
    "pixel confidence alone": FitOptions(image_confidence=False),
}


@dataclass(frozen=True)
class Truth:
    """The ground truth of a close-up: picture [3, H, W]."""

    name: str
    camera: Cameras
    picture: Tensor


def truths(posed: PosedPhotos, indices: list[int], crops: list[float], longest: int) -> list[Truth]:
    """Central crops (1: all) of photographs at full resolution, shrunk to `longest` pixels."""
    found = []
    for index in indices:
        images, camera = posed.select([index]).load(*posed.sizes[index])
        for zoom in crops:
            width, height = round(camera.width / zoom), round(camera.height / zoom)
            x, y = (camera.width - width) // 2, (camera.height - height) // 2
            scale = longest / max(width, height)
            size = round(height * scale), round(width * scale)
            part = images[..., y : y + height, x : x + width]
            picture = torch.nn.functional.interpolate(part, size, mode="area")[0]
            seen = camera.cropped(x, y, width, height).resized(size[1], size[0])
            found.append(Truth(f"{posed.paths[index].stem} x{zoom:g}", seen, picture))
    return found


def check_world(run: RecordedRun, posed: PosedPhotos) -> None:
    """Raise InputError if the run's photographs are not at the file's poses: nothing could be compared."""
    photos = run.results.inputs.photos
    known = posed.match(tuple(photo.path for photo in photos))
    placed = run.made.scene.cameras.viewmats
    if not torch.allclose(placed, known.viewmats.to(placed), atol=1e-3):
        raise InputError("the run estimated its own cameras: repeat it with --cameras and the transforms.json")


def swapped(frames: Tensor, count: int, seed: int) -> Tensor:
    """Frames [T, 3, H, W] with `count` rectangles, about a sixth of the sides, that show another part of the frame."""
    generator = torch.Generator().manual_seed(seed)
    out, size = frames.clone(), torch.tensor(frames.shape[-2:])
    for before, after in zip(frames, out, strict=True):
        for _ in range(count):
            h, w = (size * (0.12 + 0.1 * torch.rand(2, generator=generator))).long().tolist()
            corners = (torch.rand(2, 2, generator=generator) * (size - torch.tensor([h, w]))).long()
            (y, x), (from_y, from_x) = corners.tolist()
            after[:, y : y + h, x : x + w] = before[:, from_y : from_y + h, from_x : from_x + w]
    return out


def evaluate(
    made: CloseUp, cloud: FusedCloud, valid: Tensor, options: FitOptions, against: list[Truth], seeds: int
) -> list[tuple[float, float]]:
    """(PSNR, SSIM) for each truth, means over the seeds."""
    views = supervision(made, cloud, options, valid=valid)
    config = options.config(views.images.device, views.cameras.width, views.cameras.height)
    totals = torch.zeros(len(against), 2)
    for seed in range(seeds):
        found = fit_views(views, cloud, config, seed)
        for row, truth in enumerate(against):
            picture = render(found.gaussians, truth.camera, antialiased=config.antialiased)[0]
            score = scored(truth.name, picture, truth.picture, torch.ones_like(picture[0], dtype=torch.bool))
            totals[row] += torch.tensor([score.psnr, score.ssim])
    return [(psnr, ssim) for psnr, ssim in (totals / seeds).tolist()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of cus-infer")
    parser.add_argument("transforms", type=Path, help="transforms.json with the cameras of photographs it never saw")
    parser.add_argument("--photographs", nargs="+", metavar="NAME", help="default: all that are no views of the run")
    parser.add_argument("--crops", nargs="+", type=float, default=[1.0], metavar="ZOOM", help="default: 1, all of it")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="fits a row (default: %(default)s)")
    parser.add_argument("--swap", type=int, default=0, metavar="N", help="rectangles a frame that show another part")
    parser.add_argument("--iterations", type=int, metavar="N", help="steps of a fit (default: the backend's)")
    arguments = parser.parse_args()
    run, posed = read_run(arguments.run), load_transforms(arguments.transforms)
    seen = {photo.path.resolve() for photo in run.results.inputs.photos}
    names = arguments.photographs or [path.name for path in posed.paths if path.resolve() not in seen]
    indices = [index for index, path in enumerate(posed.paths) if path.name in names or path.stem in names]
    if len(indices) != len(names) or any(posed.paths[index].resolve() in seen for index in indices):
        raise InputError(f"--photographs must name photographs of {arguments.transforms} that are no views of the run")
    check_world(run, posed)
    made, cloud = run.made, run.made.cloud
    if arguments.swap:
        made = replace(made, frames=swapped(made.frames, arguments.swap, seed=0))
        cloud = fuse(made)
    against = truths(posed, indices, arguments.crops, max(made.cameras.width, made.cameras.height))
    print("| fit | " + " | ".join(truth.name for truth in against) + " | mean PSNR | mean SSIM |")
    print("| --- |" + " ---: |" * (len(against) + 2))
    for name, options in ROWS.items():
        options = replace(options, iterations=arguments.iterations)
        scores = evaluate(made, cloud, run.results.batch.set.valid, options, against, arguments.seeds)
        psnr, ssim = (sum(column) / len(scores) for column in zip(*scores, strict=True))
        cells = " | ".join(f"{score[0]:.2f}" for score in scores)
        print(f"| {name} | {cells} | {psnr:.2f} | {ssim:.4f} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
