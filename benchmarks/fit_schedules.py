r"""The effect of a fit's settings, such as iterations and half-size images at the start, on a run's scene.

    cus-infer --views examples/courtyard/a.jpg examples/courtyard/b.jpg --no-splat
    python benchmarks/fit_schedules.py out \
        --close-ups 4=examples/courtyard/close_zoom4.jpg 2=examples/courtyard/close_zoom2.jpg \
        --fits iterations=1000 iterations=800,coarse_share=0

A row is one fit: the defaults with these settings of `FitConfig` changed, its CPU seconds (of all threads), and PSNR in
dB and SSIM of its renders, before video compression: at each close-up ZOOM=FILE, a picture taken by the first
photograph's camera with a lens that many times as long, and at the run's photographs, at the frames' size.
"""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from torch import Tensor

from cus.cameras import Cameras, trajectories
from cus.errors import InputError
from cus.inference.fitting import FitOptions, supervision
from cus.inference.photo_fit import scored
from cus.inference.refit import RecordedRun, read_run, recorded_photographs
from cus.splats import FitConfig, fit_views, render


@dataclass(frozen=True)
class Truth:
    """The ground truth of a camera: its name, the camera and the picture [3, H, W]."""

    name: str
    camera: Cameras
    picture: Tensor


def truths(run: RecordedRun, close_ups: list[str]) -> list[Truth]:
    """The close-ups ZOOM=FILE, and the run's photographs. Raises InputError for a file that cannot be read."""
    made = run.made
    size = made.cameras.width, made.cameras.height
    cameras = made.with_references()[2][len(made.frames) :]
    wanted = [(i, 1.0, path) for i, path in enumerate(run.posed.paths)]
    for text in reversed(close_ups):
        zoom, _, path = text.partition("=")
        wanted.insert(0, (0, float(zoom), Path(path)))
    found = []
    for index, zoom, path in wanted:
        pixels = cv2.imread(str(path))
        if pixels is None:
            raise InputError(f"cannot read {path}")
        shrunk = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), size, interpolation=cv2.INTER_AREA)
        camera = trajectories.zoom(cameras[index], zoom, frames=2)[1]
        found.append(Truth(path.stem, camera, torch.from_numpy(shrunk).permute(2, 0, 1).float() / 255))
    return found


def changed(config: FitConfig, text: str) -> FitConfig:
    """The settings with NAME=VALUE,... changed. Raises InputError for unknown or invalid settings."""
    pairs: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        pairs[name] = yaml.safe_load(value)
    try:
        config = replace(config, **pairs)
    except TypeError as error:
        raise InputError(f"{text}: {error}") from error
    config.check()
    return config


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of cus-infer")
    parser.add_argument("--close-ups", nargs="+", default=[], metavar="ZOOM=FILE", help="what is seen there")
    parser.add_argument("--fits", nargs="+", default=[""], metavar="NAME=VALUE,...", help="default: one, by default")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (default: %(default)s)")
    arguments = parser.parse_args()
    run = read_run(arguments.run)
    cloud = run.made.cloud
    if cloud is None:
        raise InputError("the run has no point cloud: finish it with cus-infer --resume")
    against = truths(run, arguments.close_ups)
    photographs, notes = recorded_photographs(run)
    views = supervision(run.made, cloud, FitOptions(), photographs, run.results.batch.set.valid)
    plain = FitOptions().config(views.images.device, views.cameras.width, views.cameras.height)
    configs = [changed(plain, text) for text in arguments.fits]
    for note in notes:
        print(f"note: {note}")
    print("| fit | " + " | ".join(truth.name for truth in against) + " | CPU time |")
    print("| --- |" + " ---: |" * (len(against) + 1))
    for text, config in zip(arguments.fits, configs, strict=True):
        started = time.process_time()
        found = fit_views(views, cloud, config, arguments.seed)
        seconds = time.process_time() - started
        cells = []
        for truth in against:
            picture = render(found.gaussians, truth.camera, antialiased=config.antialiased)[0]
            score = scored(truth.name, picture, truth.picture, torch.ones_like(picture[0], dtype=torch.bool))
            cells.append(f"{score.psnr:.2f} / {score.ssim:.3f}")
        print(f"| {text or 'default'} | {' | '.join(cells)} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
