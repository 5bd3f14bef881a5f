"""What separates conditioning images from the truth: exposure, alignment, or missing detail.

    python data/make_cases.py out=runs/validation "scenes=[castle,door]" cases=5
    python benchmarks/headroom.py runs/validation

For each case it prints the PSNR of the conditioning image, and its PSNR after corrections fitted to the truth, which
are upper bounds for any method: one affine map of its colours; the best linear filter of 7x7 pixels (blur,
sharpening, a shift); dense optical flow to the truth, smoothed by Gaussians of several widths (the wider, the more of
it is large-scale geometry).
The last column is the correlation, over pixels and both axes, between the displacement of the two references' warps,
which a model sees, and the displacement to the truth, which it would need to know: near 0, its inputs do not tell a
model how to realign the picture.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.datasets.clips import Clip, clip_paths, load_clip
from cus.evaluation.metrics.weight_free import color_corrected_psnr, psnr

SMOOTHING = (0, 4, 16)  # pixels
# Smoothing in pixels of the displacements that are correlated.
CORRELATED = 4
COLUMNS = ("shown", "colours", "filter", *(f"flow {sigma}" for sigma in SMOOTHING), "correlation")
FILTER = 7  # pixels along a side


def dense_flow(first: Tensor, second: Tensor) -> np.ndarray:
    """[H, W, 2] with first(p) = second(p + flow), for pictures [3, H, W] in [0, 1]."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    colors = [(255 * picture).round().to(torch.uint8).permute(1, 2, 0).numpy() for picture in (first, second)]
    grays = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in colors]
    return search.calc(grays[0], grays[1], np.zeros((*grays[0].shape, 2), np.float32))


def smoothed(flow: np.ndarray, sigma: float) -> np.ndarray:
    """Each component smoothed by a Gaussian of `sigma` pixels."""
    return cv2.GaussianBlur(flow, (0, 0), sigma) if sigma else flow


def displaced(picture: Tensor, flow: np.ndarray) -> Tensor:
    """[3, H, W] picture(p + flow) by Lanczos interpolation."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    values = picture.permute(1, 2, 0).numpy()
    moved = cv2.remap(values, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT)
    return torch.from_numpy(moved).permute(2, 0, 1).clamp(0, 1)


def filtered(picture: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """[3, H, W] the picture after the linear filter that best matches it to the truth.

    The filter is the same for all channels and its taps sum to 1, so that it cannot correct the exposure.
    """
    padded = F.pad(picture[:, None], (FILTER // 2,) * 4, mode="reflect")
    differences = F.unfold(padded, FILTER).double() - picture.double().flatten(1)[:, None]  # [3, taps, H W]
    counted = differences[:, :, mask.flatten()].transpose(1, 2).flatten(0, 1)
    missing = (truth - picture)[:, mask].double().reshape(-1, 1)
    taps = torch.linalg.lstsq(counted, missing, driver="gelsd").solution
    return (picture + (differences * taps).sum(dim=1).view_as(picture)).float().clamp(0, 1)


def correlation(clip: Clip, flow: np.ndarray, mask: Tensor) -> float:
    """Correlation of the displacement between the two references' warps with that to the truth; NaN without two."""
    layers = clip.layers
    if layers is None:
        return float("nan")
    both = mask & layers.masks[0].all(dim=0)
    if int(both.sum()) < 2:
        return float("nan")
    between = smoothed(dense_flow(layers.images[0, 0], layers.images[0, 1]), CORRELATED)
    to_truth = smoothed(flow, CORRELATED)
    return float(np.corrcoef(between[both.numpy()].ravel(), to_truth[both.numpy()].ravel())[0, 1])


def headroom(clip: Clip) -> list[float]:
    """The columns of one case's row."""
    shown, truth, mask = clip.conditioning[0], clip.targets[0], clip.masks[0]
    flow = dense_flow(truth, shown)
    realigned = [psnr(displaced(shown, smoothed(flow, sigma)), truth, mask) for sigma in SMOOTHING]
    fitted = [color_corrected_psnr(shown, truth, mask), psnr(filtered(shown, truth, mask), truth, mask)]
    return [psnr(shown, truth, mask), *fitted, *realigned, correlation(clip, flow, mask)]


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, help="out= folder of data/make_cases.py")
    parser.add_argument(
        "--least", type=float, default=21.5, metavar="DB", help="leave out cases shown worse than this (21.5 dB)"
    )
    options = parser.parse_args(arguments)
    rows = []
    print(f"{'case':56}" + "".join(f"{name:>12}" for name in COLUMNS))
    for path in clip_paths(options.cases):
        values = headroom(load_clip(path))
        if values[0] >= options.least:
            rows.append(values)
            print(f"{path.stem[:55]:56}" + "".join(f"{value:12.2f}" for value in values), flush=True)
    if not rows:
        raise SystemExit(f"error: no case is shown at {options.least} dB or better; try a smaller --least")
    print(f"{f'mean of {len(rows)}':56}" + "".join(f"{value:12.2f}" for value in np.nanmean(rows, axis=0)))


if __name__ == "__main__":
    main(sys.argv[1:])
