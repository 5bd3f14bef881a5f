"""Close-ups of the example scene from photographs of twice the size, beside a plain crop and the truth.

    python examples/gallery.py FOLDER sheet.jpg

Renders the two photographs of `courtyard` at 2560x1440 and, halfway between their cameras, what a camera of five times
the focal length sees of several things; runs `cus-infer` with the photographs and their cameras; puts the results into
one picture, a row per thing; and prints how near to the truth each is. FOLDER keeps the pictures and the run: another
call goes on where one was stopped. About ten minutes on two cores.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `procedural` and `examples` are not installed

from cus.cameras import Cameras, save_transforms, trajectories
from examples.render import courtyard, photograph_cameras, save_photo
from procedural.tracer import render

SCALE, ZOOM, SIZE, SAMPLES, GAP = 2, 5.0, (640, 360), 3, 6
THINGS = {  # what the camera looks at: points of the scene in metres
    "vase": (0.02, -0.06, 0.84),
    "jar": (0.60, -0.17, 0.70),
    "books": (-0.45, -0.05, 0.68),
    "barrel": (-1.22, 0.35, 0.72),
}


def close_up_cameras(photographs: Cameras) -> Cameras:
    """A camera per thing, halfway between the photographs."""
    middle = trajectories.interpolate(photographs, frames=3)[1]
    points = torch.tensor(list(THINGS.values()))
    seen = points @ middle.viewmats[0, :3, :3].T + middle.viewmats[0, :3, 3]
    pixels = seen @ middle.Ks[0].T
    targets = pixels[:, :2] / pixels[:, 2:] / torch.tensor([middle.width, middle.height])
    paths = [
        trajectories.interpolate(photographs, zoom=ZOOM, target=(float(x), float(y)), frames=3)[1] for x, y in targets
    ]
    return Cameras.cat(paths).resized(*SIZE)


def rendered(folder: Path, photographs: Cameras, close_ups: Cameras) -> None:
    """Render what is missing of the photographs and the truths."""
    scene = courtyard()
    names = ["a.jpg", "b.jpg", *(f"{name}.jpg" for name in THINGS)]
    cameras = [photographs[0], photographs[1], *(close_ups[index] for index in range(len(close_ups)))]
    for name, camera in zip(names, cameras, strict=True):
        if not (folder / name).exists():
            print(f"rendering {name}")
            images, _ = render(scene, camera, SAMPLES)
            save_photo(folder / f".{name}", images[0])
            (folder / f".{name}").replace(folder / name)
    for name, views in (("photographs.json", photographs), ("close_ups.json", close_ups)):
        if not (folder / name).exists():
            files = names[:2] if len(views) == 2 else names[2:]
            save_transforms(folder / name, views, files)


def crop(picture: np.ndarray, photographs: Cameras, close_up: Cameras, thing: tuple[float, float, float]) -> np.ndarray:
    """The part of the first photograph that shows what the close-up shows, enlarged by Lanczos."""
    seen = photographs.viewmats[0, :3, :3] @ torch.tensor(thing) + photographs.viewmats[0, :3, 3]
    x, y, depth = (photographs.Ks[0] @ seen).tolist()
    width, height = photographs.width / ZOOM, photographs.height / ZOOM
    left, top = x / depth - width / 2, y / depth - height / 2
    matrix = np.array([[width / SIZE[0], 0, left], [0, height / SIZE[1], top]], np.float32)
    return cv2.warpAffine(picture, matrix, SIZE, flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP)


def sharpness(picture: np.ndarray, truth: np.ndarray) -> float:
    """Mean square gradient of a picture over that of the truth."""
    energies = []
    for gray in (cv2.cvtColor(each, cv2.COLOR_BGR2GRAY).astype(np.float64) for each in (picture, truth)):
        energies.append(np.square(np.diff(gray, axis=0)).mean() + np.square(np.diff(gray, axis=1)).mean())
    return energies[0] / energies[1]


def captions() -> np.ndarray:
    """A line of text above the three columns."""
    line = np.full((28, 3 * SIZE[0] + 2 * GAP, 3), 255, np.uint8)
    for column, text in enumerate(("photograph, enlarged", "generated close-up", "what a camera sees")):
        place = (column * (SIZE[0] + GAP) + 4, 20)
        cv2.putText(line, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
    return line


def main() -> None:
    """Render, run, compose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs, truths and the run; made where it is not there")
    parser.add_argument("sheet", type=Path, help="the picture, .jpg or .png")
    arguments = parser.parse_args()
    folder, sheet = arguments.folder, arguments.sheet
    if sheet.exists():
        parser.error(f"{sheet} exists; name a new file")
    folder.mkdir(parents=True, exist_ok=True)
    photographs = photograph_cameras()
    photographs = photographs.resized(SCALE * photographs.width, SCALE * photographs.height)
    close_ups = close_up_cameras(photographs)
    rendered(folder, photographs, close_ups)
    run = folder / "run"
    command = [sys.executable, "-m", "cus.cli.infer", "--views", str(folder / "a.jpg"), str(folder / "b.jpg")]
    command += ["--cameras", str(folder / "photographs.json"), "--trajectory", str(folder / "close_ups.json")]
    command += ["--out", str(run), "--no-splat", "--size", str(SIZE[0]), *(["--resume"] if run.exists() else [])]
    subprocess.run(command, check=True)
    photograph = cv2.imread(str(folder / "a.jpg"))
    frames = sorted((run / "frames").glob("*.png"))
    lines = [captions()]
    for index, (name, thing) in enumerate(THINGS.items()):
        cells = [crop(photograph, photographs, close_ups[index], thing)]
        cells += [cv2.resize(cv2.imread(str(path)), SIZE) for path in (frames[index], folder / f"{name}.jpg")]
        print(
            f"{name}: {cv2.PSNR(cells[1], cells[2]):.2f} dB, gradient energy {sharpness(cells[1], cells[2]):.2f} of it"
        )
        gap = np.full((SIZE[1], GAP, 3), 255, np.uint8)
        line = np.concatenate([part for cell in cells for part in (cell, gap)][:-1], axis=1)
        lines += [line, np.full((GAP, line.shape[1], 3), 255, np.uint8)]
    quality = [cv2.IMWRITE_JPEG_QUALITY, 88] if sheet.suffix == ".jpg" else []
    cv2.imwrite(str(sheet), np.concatenate(lines[:-1]), quality)


if __name__ == "__main__":
    main()
