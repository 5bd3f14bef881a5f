"""Score a default run of the example against ground truth.

    cus-infer --views examples/courtyard/a.jpg examples/courtyard/b.jpg && python examples/score.py out

The last frame of the run (zoom x4) is compared with `courtyard/close_zoom4.jpg`, shrunk by area to the frame's size:
PSNR and SSIM of the conditioning image, of its best Gaussian blur, of the generated frame and of the render of the
Gaussian scene.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from cus.report.video import read_video
from cus.splats import ssim


def read(path: Path) -> np.ndarray:
    """[H, W, 3] float32 RGB in [0, 1]."""
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise SystemExit(f"error: cannot read {path}; run the example first")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.float32) / 255


def scores(picture: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """PSNR in dB and SSIM."""
    psnr = -10 * np.log10(np.square(picture - truth).mean())
    to_tensor = [torch.from_numpy(p).permute(2, 0, 1)[None] for p in (picture, truth)]
    return float(psnr), float(ssim(*to_tensor).mean())


def main(folder: Path) -> None:
    """Print a table."""
    truth_large = read(Path(__file__).parent / "courtyard" / "close_zoom4.jpg")
    conditioning = read(sorted((folder / "conditioning").glob("*.png"))[-1])
    truth = cv2.resize(truth_large, conditioning.shape[1::-1], interpolation=cv2.INTER_AREA)
    rows = {"conditioning": conditioning}
    blurred = [cv2.GaussianBlur(conditioning, (0, 0), sigma) for sigma in np.arange(0.3, 3.0, 0.1)]
    rows["conditioning, best blur"] = max(blurred, key=lambda picture: scores(picture, truth)[0])
    if (folder / "frames").exists():
        rows["generated frame"] = read(sorted((folder / "frames").glob("*.png"))[-1])
    if (folder / "splat.mp4").exists():
        render = read_video(folder / "splat.mp4")[-1].astype(np.float32) / 255
        rows["render of the Gaussian scene"] = render[: truth.shape[0], : truth.shape[1]]
    for name, picture in rows.items():
        print(f"{name:<30} {scores(picture, truth)[0]:6.2f} dB  SSIM {scores(picture, truth)[1]:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
