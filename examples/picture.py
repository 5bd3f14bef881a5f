r"""The example in one picture: both photographs at the top, the generated and the true close-up below.

    cus-infer --views examples/courtyard/a.jpg examples/courtyard/b.jpg \
        --trajectory interpolate --zoom 4 --frames 5 --quick
    python examples/picture.py out docs/figures/close_up.jpg

The close-up is the path's middle frame: halfway between the photographs, where there was no camera, at four times the
focal length. `courtyard/close_between4.jpg` is its ground truth.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

GAP = 8  # white pixels between the pictures
COURTYARD = Path(__file__).parent / "courtyard"


def read(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 BGR."""
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise SystemExit(f"error: cannot read {path}; run the example first")
    return pixels


def main(folder: Path, out: Path) -> None:
    """Write the picture. `folder` is the output of `cus-infer`."""
    if out.exists():
        raise SystemExit(f"error: {out} exists; name a new file")
    frames = sorted((folder / "frames").glob("*.png"))
    if len(frames) % 2 == 0:
        raise SystemExit(f"error: {folder} holds {len(frames)} frames, which have no middle one")
    frame = read(frames[len(frames) // 2])
    height, width = frame.shape[:2]
    large = [read(COURTYARD / f"{name}.jpg") for name in ("a", "b", "close_between4")]
    small = [cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in large]
    cells = [*small[:2], frame, small[2]]
    beside, below = (
        np.full((height, GAP, 3), 255, dtype=np.uint8),
        np.full((GAP, 2 * width + GAP, 3), 255, dtype=np.uint8),
    )
    above, under = (np.concatenate([left, beside, right], axis=1) for left, right in (cells[:2], cells[2:]))
    sheet = np.concatenate([above, below, under])
    cv2.imwrite(str(out), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
