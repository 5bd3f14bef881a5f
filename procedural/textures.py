"""Textures drawn in milliseconds, for training clips in volume.

Most are "dead leaves": overlapping shapes of all sizes, with the edges and the spectrum of photographs (Lee,
Mumford and Huang, 2001); training on them transfers to photographs (Achddou et al., 2021). Rules, bricks and lettering
add the straight and repeated structure that dead leaves lack.
"""

import cv2
import numpy as np

SIZE = 1024
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))


def random_texture(rng: np.random.Generator) -> np.ndarray:
    """A bitmap [SIZE, SIZE, 3] float32 in [0, 1]."""
    kinds = (_leaves, _leaves, _leaves, _bricks, _rules, lettering, _plain)
    draw = kinds[int(rng.integers(len(kinds)))]
    image = draw(rng)
    grain = fractal_noise(rng, float(rng.uniform(0.6, 1.6)))
    shade = fractal_noise(rng, float(rng.uniform(1.5, 2.5)))
    image = image * (1 + float(rng.uniform(0.02, 0.22)) * grain[..., None])
    image = image * (1 + float(rng.uniform(0.0, 0.25)) * shade[..., None])
    return np.clip(image, 0, 1).astype(np.float32)


def fractal_noise(rng: np.random.Generator, exponent: float, size: int = SIZE) -> np.ndarray:
    """Tileable noise [size, size] of variance 1 whose amplitude falls as 1 / frequency^exponent."""
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]).astype(np.float32)
    frequencies[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) / frequencies**exponent
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return (noise / noise.std()).astype(np.float32)


def random_color(rng: np.random.Generator, near: np.ndarray | None = None, spread: float = 0.15) -> np.ndarray:
    """A random RGB colour [3]: a muted one, or one near `near`."""
    # As in photographs, neighbouring colours differ mainly in lightness and much less in hue.
    tint = rng.normal(0, 1, 3)
    tint -= tint.mean()
    if near is not None:
        color = near + rng.normal(0, spread) + tint * spread * 0.35
    else:
        color = rng.beta(1.8, 1.6) + tint * rng.gamma(1.2, 0.05)
    return np.clip(color, 0.02, 0.98).astype(np.float32)


def _leaves(rng: np.random.Generator) -> np.ndarray:
    """Discs, ellipses and polygons with radii distributed as r^-3, later ones over earlier ones."""
    base = random_color(rng)
    image = np.full((SIZE, SIZE, 3), base, np.float32)
    spread, smallest = float(rng.uniform(0.05, 0.3)), float(rng.uniform(2, 8))
    kind = rng.integers(3)
    count = int(rng.integers(600, 3500))
    uniform = rng.random(count)
    largest = 160.0
    radii = 1 / np.sqrt(uniform / smallest**2 + (1 - uniform) / largest**2)
    radii = np.concatenate([np.sort(radii)[::-1][: count // 3], rng.permutation(radii)])
    for radius in radii:
        center = rng.integers(0, SIZE, 2)
        color = tuple(map(float, random_color(rng, base if rng.random() < 0.8 else None, spread)))
        if kind == 0:
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
            corners = center + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
            cv2.fillPoly(image, [corners.astype(np.int32)], color, cv2.LINE_AA)
        else:
            axes = (int(radius) + 1, int(radius * (1 if kind == 1 else rng.uniform(0.15, 0.9))) + 1)
            cv2.ellipse(image, center.tolist(), axes, float(rng.uniform(0, 360)), 0, 360, color, -1, cv2.LINE_AA)
    return image


def _bricks(rng: np.random.Generator) -> np.ndarray:
    brick, joint = random_color(rng), random_color(rng)
    height = int(rng.choice([16, 32, 64, 128]))
    width = int(height * rng.uniform(1, 4))
    gap = max(1, int(height * rng.uniform(0.03, 0.15)))
    image = np.full((SIZE, SIZE, 3), joint, np.float32)
    for row, top in enumerate(range(0, SIZE, height)):
        for left in range(-(row % 2) * width // 2, SIZE, width):
            color = tuple(map(float, random_color(rng, brick, 0.06)))
            cv2.rectangle(image, (left, top), (left + width - gap, top + height - gap), color, -1)
    return image


def _rules(rng: np.random.Generator) -> np.ndarray:
    """Stripes or checks, some warped like wood or cloth."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    warp = fractal_noise(rng, 2.2) * float(rng.choice([0, 4, 20]))
    angle, period = float(rng.uniform(0, np.pi)), float(np.exp(rng.uniform(np.log(8), np.log(120))))
    along = (x * np.cos(angle) + y * np.sin(angle) + warp) / period
    sharpness = 4.0 if rng.random() < 0.6 else 0.5
    wave = np.clip(sharpness * np.sin(2 * np.pi * along) + 0.5, 0, 1)
    if rng.random() < 0.4:
        across = (y * np.cos(angle) - x * np.sin(angle) + warp) / period
        wave = np.abs(wave - np.clip(4 * np.sin(2 * np.pi * across) + 0.5, 0, 1))
    first = random_color(rng)
    second = random_color(rng, first, 0.3)
    return first + wave[..., None].astype(np.float32) * (second - first)


def lettering(rng: np.random.Generator) -> np.ndarray:
    """Lines of print in several sizes [SIZE, SIZE, 3] in [0, 1]."""
    paper, ink = random_color(rng), random_color(rng)
    image = np.full((SIZE, SIZE, 3), paper * 255, np.uint8)
    y = 0
    while y < SIZE:
        scale = float(np.exp(rng.uniform(np.log(0.5), np.log(5))))
        y += int(28 * scale) + 6
        line = "".join(rng.choice(_LETTERS, 60))
        thickness = max(1, int(scale * rng.uniform(1, 3)))
        color = tuple(map(float, 255 * (ink if rng.random() < 0.7 else random_color(rng))))
        if rng.random() < 0.25:
            band = tuple(map(float, 255 * random_color(rng)))
            cv2.rectangle(image, (0, y - int(28 * scale)), (SIZE, y + 6), band, -1)
        font = int(rng.choice(_FONTS))
        cv2.putText(image, line, (int(rng.integers(-80, 20)), y), font, scale, color, thickness, cv2.LINE_AA)
    return image.astype(np.float32) / 255


def _plain(rng: np.random.Generator) -> np.ndarray:
    """Plaster, stone, rust: two colours mixed by noise."""
    first = random_color(rng)
    second = random_color(rng, first, 0.25)
    mix = fractal_noise(rng, float(rng.uniform(0.8, 2.0)))
    mix = 1 / (1 + np.exp(-mix * float(rng.uniform(1, 6))))
    return first + mix[..., None] * (second - first)
