"""The report's interactive viewer: Gaussians and cameras packed into the page, with the scripts that show them."""

import base64
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup

NEAR_PLANE = 0.01
# Maximum size of packed Gaussians, so that browsers open the page quickly: 300,000 without view dependence.
LARGEST_DATA = 9_600_000
# 32 bytes: the centre in float32; then 16-bit fields: three quaternion components with the index of the fourth,
# three logarithms of scales, three degree-0 coefficients, opacity.
ROW = np.dtype([("position", "<f4", 3), ("fields", "<u2", 10)])
SCRIPTS = ("viewer_math.js", "viewer_sort.js", "viewer_renderer.js", "viewer_controls.js", "viewer.js")
PROGRAMS = ("splat", "screen", "lines")


@dataclass(frozen=True)
class Splats:
    """N Gaussians as plain arrays (docs/conventions.md).

    Attributes:
        means: [N, 3] centres in scene units.
        quats: [N, 4] orientations wxyz, of any length but zero.
        scales: [N, 3] standard deviations, scene units, > 0.
        opacities: [N] opacities in (0, 1).
        sh: [N, K, 3] harmonics coefficients, K in {1, 4, 9, 16}.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray

    def __len__(self) -> int:
        return len(self.means)

    def select(self, index: np.ndarray) -> "Splats":
        """The Gaussians that an index selects, in its order."""
        arrays = (self.means, self.quats, self.scales, self.opacities, self.sh)
        return Splats(*(array[index] for array in arrays))


@dataclass(frozen=True)
class Views:
    """Cameras offered in the viewer.

    Attributes:
        names: V names.
        viewmats: [V, 4, 4] world-to-camera.
        Ks: [V, 3, 3] intrinsics in pixels.
        sizes: (width, height) of each view in pixels.
    """

    names: list[str]
    viewmats: np.ndarray
    Ks: np.ndarray
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class ViewerData:
    """The contents of the viewer.

    Attributes:
        splats: Gaussian scene, at least one Gaussian.
        path: cameras of the frames, at least one; the viewer starts at the first.
        photos: cameras of the photographs.
        poster: [H, W, 3] uint8, shown without WebGL2.
        frames_per_second: speed of the path's playback.
        antialiased: whether the scene was fitted with opacities compensated for the low-pass filter.
    """

    splats: Splats
    path: Views
    photos: Views
    poster: np.ndarray
    frames_per_second: int = 8
    antialiased: bool = True


@dataclass(frozen=True)
class Packed:
    """Gaussians in the page's format.

    Attributes:
        rows: N rows of `ROW`.
        harmonics: [N, W] uint8, coefficients above degree 0 in signed bytes, padded to whole 32-bit words.
        degree: degree of the harmonics, 0 to 3.
        log_scales: (low, high), log scales represented by 0 and 65535.
        colors: (low, high), degree-0 coefficients represented by 0 and 65535.
        bands: largest coefficient of each degree 1 to 3, represented by byte 127.
    """

    rows: np.ndarray
    harmonics: np.ndarray
    degree: int
    log_scales: tuple[float, float]
    colors: tuple[float, float]
    bands: tuple[float, float, float]


def bytes_each(degree: int) -> int:
    """Size of one packed Gaussian in bytes."""
    return ROW.itemsize + 4 * (0, 3, 6, 12)[degree]


def _stepped(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Values quantised to uint16 between their extremes, and these extremes."""
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) * (65535 / max(high - low, 1e-12))).astype(np.uint16), (low, high)


def _packed_quats(quats: np.ndarray) -> np.ndarray:
    """[N, 3] uint16: all but the largest component in 15 bits each, its index in the top bits of the first two."""
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(quats).argmax(axis=1)
    picked = np.take_along_axis(quats, largest[:, None], axis=1)
    quats = quats * np.where(picked < 0, -1, 1)
    others = quats[np.arange(4) != largest[:, None]].reshape(-1, 3)
    fields = np.rint(np.clip(others * np.sqrt(0.5) + 0.5, 0, 1) * 32767).astype(np.uint16)
    fields[:, 0] |= ((largest & 1) << 15).astype(np.uint16)
    fields[:, 1] |= ((largest >> 1) << 15).astype(np.uint16)
    return fields


def pack(splats: Splats) -> Packed:
    """Quantise Gaussians (`Packed`, `ROW`). Raises ValueError if there are none."""
    if len(splats) == 0:
        raise ValueError("there is no Gaussian to pack")
    rows = np.zeros(len(splats), ROW)
    rows["position"] = splats.means
    log_steps, log_scales = _stepped(np.log(splats.scales.astype(np.float64)))
    color_steps, colors = _stepped(splats.sh[:, 0].astype(np.float64))
    opacity_steps = np.rint(splats.opacities.astype(np.float64)[:, None] * 65535).astype(np.uint16)
    quats = _packed_quats(splats.quats.astype(np.float64))
    rows["fields"] = np.concatenate([quats, log_steps, color_steps, opacity_steps], axis=1)

    degree = round(splats.sh.shape[1] ** 0.5) - 1
    stored = np.zeros((len(splats), bytes_each(degree) - ROW.itemsize), np.int8)
    bands = [0.0, 0.0, 0.0]
    for band in range(1, degree + 1):
        first, last = band * band, (band + 1) ** 2
        values = splats.sh[:, first:last].reshape(len(splats), -1)
        bands[band - 1] = float(np.abs(values).max())
        steps = np.rint(values * (127 / max(bands[band - 1], 1e-12)))
        stored[:, 3 * (first - 1) : 3 * (last - 1)] = steps
    return Packed(rows, stored.view(np.uint8), degree, log_scales, colors, (bands[0], bands[1], bands[2]))


def contributions(splats: Splats, views: Views) -> np.ndarray:
    """[N] largest area of a picture that each Gaussian covers: opacity times the area of its two largest axes, in
    pixels^2 of a picture 1000 pixels wide; 0 if no view has its centre in or near the picture.
    """
    axes = np.sort(splats.scales, axis=1)
    areas = splats.opacities * axes[:, 1] * axes[:, 2]
    most = np.zeros(len(splats))
    for viewmat, K, (width, height) in zip(views.viewmats, views.Ks, views.sizes, strict=True):
        seen = splats.means @ viewmat[:3, :3].T + viewmat[:3, 3]
        depths = np.maximum(seen[:, 2], NEAR_PLANE)
        x, y = (seen[:, i] / depths * K[i, i] + K[i, 2] for i in (0, 1))
        beside = 0.15 * max(width, height)
        inside = (x > -beside) & (x < width + beside) & (y > -beside) & (y < height + beside)
        shown = inside & (seen[:, 2] >= NEAR_PLANE)
        most = np.maximum(most, np.where(shown, areas * (1000 / width * K[0, 0] / depths) ** 2, 0))
    return most


def thinned(splats: Splats, views: list[Views], largest_data: int) -> Splats:
    """The Gaussians that contribute most to any of the views, as many as fit into `largest_data` bytes, in order."""
    limit = largest_data // bytes_each(round(splats.sh.shape[1] ** 0.5) - 1)
    if len(splats) <= limit:
        return splats
    worth = np.max([contributions(splats, some) for some in views], axis=0)
    return splats.select(np.sort(np.argsort(-worth, kind="stable")[:limit]))


def _view_entries(views: Views) -> list[dict[str, Any]]:
    """Views for the scripts: rotation row by row, camera centre, intrinsics."""
    entries = []
    for name, viewmat, K, size in zip(views.names, views.viewmats, views.Ks, views.sizes, strict=True):
        rotation, translation = viewmat[:3, :3].astype(np.float64), viewmat[:3, 3].astype(np.float64)
        entries.append(
            {
                "name": name,
                "rotation": rotation.flatten().tolist(),
                "position": (-rotation.T @ translation).tolist(),
                "focal": [float(K[0, 0]), float(K[1, 1])],
                "center": [float(K[0, 2]), float(K[1, 2])],
                "size": list(size),
            }
        )
    return entries


def _text(name: str) -> str:
    return (files("cus.report") / name).read_text()


def _base64(array: np.ndarray) -> Markup:
    return Markup(base64.b64encode(array.tobytes()).decode())


def viewer_context(data: ViewerData) -> dict[str, Any]:
    """Template variables of `viewer.html` and `viewer.css`."""
    kept = thinned(data.splats, [data.path, data.photos], LARGEST_DATA)
    packed = pack(kept)
    scene = {
        "count": len(kept),
        "degree": packed.degree,
        "log_scales": packed.log_scales,
        "colors": packed.colors,
        "bands": packed.bands,
        "near": NEAR_PLANE,
        "antialiased": data.antialiased,
        "fps": data.frames_per_second,
        "path": _view_entries(data.path),
        "photos": _view_entries(data.photos),
        "shaders": {
            f"{name}.{kind}": _text(f"viewer_{name}.{kind}.glsl") for name in PROGRAMS for kind in ("vert", "frag")
        },
    }
    return {
        "count": f"{len(kept):,}",
        "total": f"{len(data.splats):,}",
        "size": data.path.sizes[0],
        "last": len(data.path.names) - 1,
        "photos": data.photos.names,
        "scene": script_json(scene),
        "rows": _base64(packed.rows),
        "harmonics": _base64(packed.harmonics),
        "script": Markup("\n".join(_text(name) for name in SCRIPTS)),
    }


def script_json(value: Any) -> Markup:
    """JSON that is safe in a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
