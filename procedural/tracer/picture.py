"""Printed matter: posters, covers and labels with lettering, drawn once to a bitmap and sampled from mip levels."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from procedural.tracer.materials import Appearance, Texels
from procedural.tracer.noise import fbm

_SYLLABLES = (
    "ka mo ri ta len sol ver na du fi gor hal in jo ko lum mer nor os pra qui ran sta tor ul vin wes xa yel zon".split()
)
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


@dataclass(frozen=True)
class Picture:
    """A print of size `width` x `height` around (0, 0) of the surface, repeated beyond, on slightly worn paper.

    Attributes:
        width: Width along u in scene units.
        height: Height along v in scene units.
        bitmap: [3, h, w] linear colours, row 0 at the top (largest v).
        gloss: Strength of the highlight, 0 to 1.
        seed: Seed of the wear.
    """

    width: float
    height: float
    bitmap: Tensor
    gloss: float = 0.15
    seed: int = 0
    _levels: tuple[Tensor, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        levels = [self.bitmap]
        while min(levels[-1].shape[1:]) >= 8:
            levels.append(torch.nn.functional.avg_pool2d(levels[-1][None], 2)[0])
        object.__setattr__(self, "_levels", tuple(levels))

    def appearance(self, texels: Texels) -> Appearance:
        """The print and its wear, from the mip level of the footprint."""
        u, v, footprint = texels
        x, y = u / self.width + 0.5, 0.5 - v / self.height
        texel = self.width / self.bitmap.shape[2]
        level = (footprint / texel).log2().clamp(0, len(self._levels) - 1).round().to(torch.int64)
        albedo = torch.empty(3, len(u), dtype=u.dtype, device=u.device)
        for index in torch.unique(level).tolist():
            rows = (level == index).nonzero()[:, 0]
            albedo[:, rows] = _sample(self._levels[index].to(u.device), x[rows], y[rows])
        wear = fbm(u, v, 4.0, footprint, octaves=9, gain=0.62, seed=self.seed)
        grain = fbm(u, v, 300.0, footprint, octaves=5, gain=0.8, seed=self.seed + 1)
        albedo = albedo * (1 + 0.16 * wear.value) * (1 + 0.15 * grain.value)
        gloss = torch.full_like(u, self.gloss)
        return Appearance(albedo.clamp_(0.005, 0.95), 0.004 * wear.du, 0.004 * wear.dv, gloss)


def _sample(bitmap: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear look-up in [3, h, w] at positions in [0, 1] (periodic): [3, N]."""
    height, width = bitmap.shape[1:]
    a, b = x * width - 0.5, y * height - 0.5
    a0, b0 = a.floor(), b.floor()
    fa, fb = a - a0, b - b0
    left, top = a0.to(torch.int64) % width, b0.to(torch.int64) % height
    right, bottom = (left + 1) % width, (top + 1) % height
    flat = bitmap.reshape(3, -1)
    upper = torch.lerp(flat[:, top * width + left], flat[:, top * width + right], fa)
    lower = torch.lerp(flat[:, bottom * width + left], flat[:, bottom * width + right], fa)
    return torch.lerp(upper, lower, fb)


def draw_print(
    rng: np.random.Generator, width: float, height: float, pixels: int = 512, style: str = "poster"
) -> Picture:
    """A random poster, cover or label of the given size in scene units; the longer side has `pixels` pixels.

    Args:
        rng: Generator of all draws.
        width: Width along u in scene units.
        height: Height along v in scene units.
        pixels: Number of pixels on the longer side.
        style: "poster" (picture with title), "text" (a printed page) or "label" (bands and a word).
    """
    scale = pixels / max(width, height)
    w, h = max(16, round(width * scale)), max(16, round(height * scale))
    painters = {"poster": _paint_poster, "text": _paint_page, "label": _paint_label}
    if style not in painters:
        raise ValueError(f"style {style!r}: expected one of {sorted(painters)}")
    canvas = painters[style](rng, w, h)
    linear = np.clip(canvas.astype(np.float32) / 255, 0, 1) ** 2.2 * 0.85 + 0.01
    return Picture(width, height, torch.from_numpy(linear).permute(2, 0, 1).contiguous(), seed=int(rng.integers(1000)))


def _ink(rng: np.random.Generator, low: int = 10, high: int = 245) -> tuple[int, int, int]:
    hue, saturation, value = rng.uniform(0, 180), rng.uniform(60, 230), rng.uniform(low, high)
    pixel = cv2.cvtColor(np.uint8([[[hue, saturation, value]]]), cv2.COLOR_HSV2RGB)[0, 0]  # pyright: ignore
    return int(pixel[0]), int(pixel[1]), int(pixel[2])


def _word(rng: np.random.Generator, syllables: int) -> str:
    word = "".join(rng.choice(_SYLLABLES) for _ in range(syllables))
    return word.upper() if rng.random() < 0.5 else word.capitalize()


def _letter(canvas: np.ndarray, rng: np.random.Generator, text: str, box: tuple[int, int, int, int], ink) -> None:
    """Draw `text` as large as fits into box (x, y, width, height)."""
    font = int(rng.choice(_FONTS))
    x, y, width, height = box
    (w, h), base = cv2.getTextSize(text, font, 1.0, 2)
    scale = min(width / w, height / (h + base))
    if scale * h < 4:
        return
    thickness = max(1, round(scale * rng.uniform(1.2, 3.0)))
    cv2.putText(canvas, text, (x, y + round(scale * h)), font, scale, ink, thickness, cv2.LINE_AA)


def _paint_picture(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    """A landscape of layered ridges under a graded sky, or overlapping discs and bars."""
    top, bottom = np.array(_ink(rng, 120), np.float32), np.array(_ink(rng, 150), np.float32)
    ramp = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    canvas = np.ascontiguousarray(np.broadcast_to(top + (bottom - top) * ramp, (h, w, 3))).astype(np.uint8)
    if rng.random() < 0.6:
        centre = (int(rng.uniform(0.2, 0.8) * w), int(rng.uniform(0.15, 0.4) * h))
        cv2.circle(canvas, centre, int(rng.uniform(0.06, 0.14) * w) + 1, _ink(rng, 200), -1, cv2.LINE_AA)
        for layer in range(int(rng.integers(3, 6))):
            x = np.arange(w)
            ridge = sum(
                rng.uniform(0.2, 1) / k * np.sin(x / w * 6.28 * k * rng.uniform(0.6, 1.4) + rng.uniform(0, 6.28))
                for k in (1, 2, 3, 5, 9, 17, 31)
            )
            y = h * (0.40 + 0.13 * layer) + np.asarray(ridge) * h * 0.05
            points = np.concatenate([np.stack([x, y], 1), [[w, h], [0, h]]]).astype(np.int32)
            cv2.fillPoly(canvas, [points], _ink(rng, 30, 190 - 25 * layer), cv2.LINE_AA)
    else:
        for _ in range(int(rng.integers(8, 22))):
            x, y = int(rng.uniform(0, w)), int(rng.uniform(0, h))
            size = int(rng.uniform(0.03, 0.2) * min(w, h)) + 1
            if rng.random() < 0.5:
                cv2.circle(
                    canvas, (x, y), size, _ink(rng), -1 if rng.random() < 0.7 else max(1, size // 5), cv2.LINE_AA
                )
            else:
                corner = (x + int(rng.uniform(0.5, 3) * size), y + int(rng.uniform(0.2, 2) * size))
                cv2.rectangle(canvas, (x, y), corner, _ink(rng), -1, cv2.LINE_AA)
    return canvas


def _paint_poster(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    paper = tuple(int(c) for c in rng.integers(195, 250, 3))
    canvas = np.full((h, w, 3), paper, np.uint8)
    margin = max(2, int(0.05 * min(w, h)))
    title_height = int(rng.uniform(0.12, 0.22) * h)
    picture = _paint_picture(rng, w - 2 * margin, max(8, h - title_height - 3 * margin))
    canvas[margin : margin + picture.shape[0], margin : w - margin] = picture
    below = 2 * margin + picture.shape[0]
    ink = _ink(rng, 10, 120)
    _letter(
        canvas, rng, _word(rng, int(rng.integers(2, 4))), (margin, below, w - 2 * margin, int(0.6 * title_height)), ink
    )
    small = " ".join(_word(rng, 2) for _ in range(4))
    _letter(
        canvas, rng, small, (margin, below + int(0.68 * title_height), w - 2 * margin, int(0.25 * title_height)), ink
    )
    return canvas


def _paint_page(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    paper = tuple(int(c) for c in rng.integers(205, 248, 3))
    canvas = np.full((h, w, 3), paper, np.uint8)
    margin = max(2, int(0.07 * w))
    ink = _ink(rng, 5, 70)
    _letter(canvas, rng, _word(rng, 3), (margin, margin, w - 2 * margin, int(0.14 * h)), _ink(rng, 20, 160))
    y, line = margin + int(0.18 * h), max(9, int(0.035 * h))
    while y + line < h - margin:
        words = " ".join(_word(rng, int(rng.integers(1, 4))).lower() for _ in range(int(rng.integers(4, 8))))
        _letter(canvas, rng, words, (margin, y, int((w - 2 * margin) * rng.uniform(0.8, 1)), line), ink)
        y += int(1.5 * line)
    return canvas


def _paint_label(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    canvas = np.full((h, w, 3), _ink(rng, 60, 230), np.uint8)
    for _ in range(int(rng.integers(2, 5))):
        y, band = int(rng.uniform(0, h)), max(2, int(rng.uniform(0.02, 0.12) * h))
        cv2.rectangle(canvas, (0, y), (w, y + band), _ink(rng), -1)
    y, band = int(rng.uniform(0.2, 0.45) * h), int(rng.uniform(0.25, 0.4) * h)
    cv2.rectangle(canvas, (0, y), (w, y + band), tuple(int(c) for c in rng.integers(200, 250, 3)), -1)
    repeats = max(1, round(w / (2.5 * h)))
    for k in range(repeats):
        box = (int((k + 0.08) * w / repeats), y + band // 8, int(0.84 * w / repeats), int(0.75 * band))
        _letter(canvas, rng, _word(rng, int(rng.integers(2, 4))), box, _ink(rng, 10, 110))
    return canvas
