"""Pictures of an evaluation side by side, for a page: one line per case, one column per row, the truth first.

It reads the output of `cus-eval`:
`python benchmarks/contact_sheet.py eval/courtyard sheet.jpg --rows hierarchical frames splat`.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

BAR = 26  # pixels for a caption


def captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """[h, w, 3] uint8 with a line of text above."""
    bar = np.full((BAR, picture.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(bar, caption, (4, BAR - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def read(path: Path) -> np.ndarray:
    """[h, w, 3] uint8 BGR."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise SystemExit(f"error: there is no picture {path}; has the evaluation that row and case?")
    return picture


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output of cus-eval")
    parser.add_argument("out", type=Path, help="a .jpg or .png")
    parser.add_argument("--rows", nargs="+", default=["hierarchical", "frames", "splat"], metavar="NAME")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="default: all")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"error: {arguments.out} exists; name a new file")
    lines = []
    for text in (arguments.folder / "records.jsonl").read_text().splitlines():
        record = json.loads(text)
        wanted = arguments.cases is None or record["case"] in arguments.cases
        if record["row"] != arguments.rows[0] or record["error"] is not None or not wanted:
            continue
        folder = arguments.folder / Path(record["picture"]).parent
        names = ["target", *arguments.rows]
        captions = [f"{record['case']}: truth", *arguments.rows]
        cells = [captioned(read(folder / f"{name}.png"), text) for name, text in zip(names, captions, strict=True)]
        lines.append(np.concatenate(cells, axis=1))
    if not lines:
        raise SystemExit(f"error: {arguments.folder} has no picture of the row {arguments.rows[0]}")
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    cv2.imwrite(str(arguments.out), np.concatenate(padded), [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    sys.exit(main())
