"""Records and pictures made up for tests: scores whose means are known, one failure, an empty region."""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cus.evaluation.records import Record
from cus.evaluation.tables import MetricColumn

PSNR = MetricColumn("psnr", "PSNR", "dB", True)
SSIM = MetricColumn("ssim", "SSIM", "", True)
LPIPS = MetricColumn("lpips", "LPIPS", "", False)
METRICS = [PSNR, SSIM, LPIPS]


@dataclass(frozen=True)
class Made:
    """How large a made-up evaluation is."""

    scenes: tuple[str, ...] = ("court_yard", "attic")
    cases: int = 6
    rows: int = 4
    size: tuple[int, int] = (96, 64)
    pictures: bool = True

    @property
    def row_names(self) -> list[str]:
        return [f"row{i}" for i in range(self.rows)]


def group_of(case: int) -> dict[str, str]:
    return {
        "protocol": ("closeup", "regular")[case % 2],
        "level": ("easy", "hard")[case // 2 % 2],
        "zoom": ("4", "5")[case % 3 % 2],
    }


def truth_picture(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """[H, W, 3] uint8: soft hills of colour with a fine grid on top."""
    width, height = size
    coarse = generator.uniform(0, 255, (5, 7, 3)).astype(np.float32)
    picture = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    v, u = np.mgrid[:height, :width]
    picture += 25 * (np.sin(u * 0.9) * np.sin(v * 0.7))[..., None]
    return picture.clip(0, 255).astype(np.uint8)


def row_picture(truth: np.ndarray, row: int, generator: np.random.Generator) -> np.ndarray:
    """The truth, blurred and noisier the lower the row's number."""
    blurred = cv2.GaussianBlur(truth, (0, 0), 0.6 + 2.0 / (row + 1)).astype(np.float32)
    noisy = blurred + generator.normal(0, 8 / (row + 1), truth.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1])


def made_records(folder: Path, made: Made = Made()) -> list[Record]:  # noqa: B008
    """Scores rise with the row's number; row 1 fails at the first case, the second has no co-visible part."""
    generator = np.random.default_rng(3)
    records = []
    for scene in made.scenes:
        for case in range(made.cases):
            base = generator.uniform(15, 25)
            truth = truth_picture(made.size, generator)
            place = f"pictures/{scene}/case {case}"
            if made.pictures:
                save(folder / place / "target.png", truth)
            for row, name in enumerate(made.row_names):
                label = f"Row {row} & {'σ_best' if row == 2 else 'co.'}"
                head = (scene, f"case {case}", name, label, group_of(case))
                if (scene, case, row) == (made.scenes[0], 0, 1):
                    reason = "the fit diverged: <b>NaN</b> & 100 % of it"
                    records.append(Record(*head, {}, None, 0.5, reason))
                    continue
                psnr = base + row + generator.normal(0, 0.2)
                frame = {"psnr": psnr, "ssim": psnr / 40, "lpips": 1 - psnr / 40}
                covisible = dict.fromkeys(frame, math.nan) if case == 1 else {k: v * 1.05 for k, v in frame.items()}
                path = f"{place}/{name}.png"
                if made.pictures:
                    save(folder / path, row_picture(truth, row, generator))
                picture = path if made.pictures else None
                records.append(Record(*head, {"frame": frame, "covisible": covisible}, picture, 1.5 + row))
    return records
