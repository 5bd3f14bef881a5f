"""The report of a run: one self-contained HTML page that needs no network; with its pictures and colour maps."""

import base64
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from cus.report.video import write_video
from cus.report.viewer import ViewerData, viewer_context

JPEG_QUALITY = 90
LARGEST_PREVIEW = 720
# Larger than other pictures, because readers look at the opening pictures closely.
OPENING_QUALITY, LARGEST_OPENING = 96, 2048


@dataclass(frozen=True)
class Pane:
    """One of the page's opening pictures.

    Attributes:
        title: title in a few words.
        told: an additional sentence, without a full stop.
        picture: [H, W, 3] uint8.
    """

    title: str
    told: str
    picture: np.ndarray


@dataclass(frozen=True)
class ReportData:
    """The contents of a report; parts that are None are reported as missing.

    Attributes:
        title: heading of the page.
        settings: name -> value as used.
        notes: messages for the reader, e.g. that a focal length was guessed.
        opening: pictures of the same part of the scene: the plain crop of a photograph, and the close-up.
        pairs: additional pairs of pictures of the same part, shown side by side.
        verdict: expected quality: grade, trusted, forced, headline, advice and findings, each with name, grade, told
            and advice; grades are good, fair and poor.
        missing: stages that the run has not finished.
        running: whether these were still to come when the page was written.
        inputs: (name, [H, W, 3] uint8) for each photograph.
        depths: [V, H, W] z-depths of the inputs, 0 = none.
        confidences: [V, H, W] confidences in [0, 1].
        sequences: label -> [T, H, W, 3] uint8, shown in sync: conditioning, frames, renders.
        coverage: [T] fraction of each conditioning image that the warp covers.
        timings: stage -> seconds.
        seconds: total seconds, including the time between stages.
        reused: stages reused from an earlier run.
        peak_memory_bytes: peak memory of the process in bytes.
        versions: package -> version.
        files: files of the run, relative to the report.
        fps: frames per second of the players.
        viewer: Gaussian scene for the interactive viewer.
    """

    title: str
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    opening: list[Pane] = field(default_factory=list)
    pairs: list[tuple[Pane, Pane]] = field(default_factory=list)
    verdict: dict[str, Any] | None = None
    missing: list[str] = field(default_factory=list)
    running: bool = False
    inputs: list[tuple[str, np.ndarray]] = field(default_factory=list)
    depths: np.ndarray | None = None
    confidences: np.ndarray | None = None
    sequences: dict[str, np.ndarray] = field(default_factory=dict)
    coverage: np.ndarray | None = None
    timings: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reused: list[str] = field(default_factory=list)
    peak_memory_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    fps: int = 8
    viewer: ViewerData | None = None


def jpeg_uri(picture: np.ndarray, largest: int = LARGEST_PREVIEW, quality: int = JPEG_QUALITY) -> str:
    """[H, W, 3] uint8 RGB as a data URI, shrunk to at most `largest` pixels a side."""
    scale = min(1.0, largest / max(picture.shape[:2]))
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    ok, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags)
    assert ok, "JPEG encoding of a uint8 picture cannot fail"
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def video_uri(frames: np.ndarray, fps: int) -> str:
    """[T, H, W, 3] uint8 as an mp4 data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, frames, fps)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _inputs(data: ReportData, limits: tuple[float, float]) -> list[dict[str, Any]]:
    """One row per photograph, with a common colour scale of depths."""
    rows = []
    for index, (name, picture) in enumerate(data.inputs):
        row: dict[str, Any] = {"name": name, "photo": jpeg_uri(picture)}
        if data.depths is not None and data.confidences is not None:
            depth = data.depths[index]
            row["depth"] = jpeg_uri(colorize_depth(depth, limits))
            row["known"] = f"{100 * float((depth > 0).mean()):.1f}"
            row["confidence"] = jpeg_uri(colorize_confidence(data.confidences[index]))
            row["mean_confidence"] = f"{float(data.confidences[index].mean()):.2f}"
        rows.append(row)
    return rows


def _pane(pane: Pane) -> dict[str, Any]:
    height, width = pane.picture.shape[:2]
    uri = jpeg_uri(pane.picture, LARGEST_OPENING, OPENING_QUALITY)
    return {"title": pane.title, "told": pane.told, "uri": uri, "width": width, "height": height}


def _timings(data: ReportData) -> list[dict[str, Any]]:
    longest = max(data.timings.values(), default=0.0) or 1.0
    return [
        {"stage": stage, "seconds": f"{seconds:.1f}", "share": 100 * seconds / longest, "reused": stage in data.reused}
        for stage, seconds in data.timings.items()
    ]


def _legend(colorize: Any, values: np.ndarray) -> str:
    """A CSS gradient of a colour map over `values`, left to right."""
    colors = colorize(values[None])[0]
    return "linear-gradient(to right, " + ", ".join(f"rgb({r},{g},{b})" for r, g, b in colors) + ")"


def write_report_html(path: Path | str, data: ReportData) -> None:
    """Write the page.

    Raises:
        ValueError: sequences of different lengths.
    """
    lengths = {len(frames) for frames in data.sequences.values()}
    if len(lengths) > 1:
        raise ValueError(f"sequences must have the same number of frames, got {sorted(lengths)}")
    loader = jinja2.PackageLoader("cus.report", ".")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=loader)
    template = environment.get_template("report.html")
    near, far = limits = (1.0, 2.0) if data.depths is None else depth_range(data.depths)
    inverse = np.linspace(1 / near, 1 / far, 12)
    page = template.render(
        title=data.title,
        viewer=data.viewer and viewer_context(data.viewer) | {"poster": jpeg_uri(data.viewer.poster)},
        opening=[_pane(pane) for pane in data.opening],
        pairs=[[_pane(pane) for pane in pair] for pair in data.pairs],
        verdict=data.verdict,
        notes=data.notes,
        missing=data.missing,
        running=data.running,
        inputs=_inputs(data, limits),
        near=f"{near:.3g}",
        far=f"{far:.3g}",
        frames={label: [jpeg_uri(frame) for frame in frames] for label, frames in data.sequences.items()},
        videos={label: video_uri(frames, data.fps) for label, frames in data.sequences.items()},
        length=next(iter(lengths), 0),
        coverage=None if data.coverage is None else [f"{100 * float(c):.1f}" for c in data.coverage],
        fps=data.fps,
        timings=_timings(data),
        total=f"{data.seconds or sum(data.timings.values()):.1f}",
        memory=f"{data.peak_memory_bytes / 2**30:.2f}",
        settings=data.settings,
        versions=data.versions,
        files=data.files,
        depth_legend=_legend(lambda v: colorize_depth(1 / v, limits), inverse),
        confidence_legend=_legend(colorize_confidence, np.linspace(0, 1, 12)),
    )
    Path(path).write_text(page)


def depth_range(depth: np.ndarray) -> tuple[float, float]:
    """The 2nd and 98th percentile of the known depths, always distinct; (1, 2) if none is known."""
    known = depth[depth > 0]
    if known.size == 0:
        return 1.0, 2.0
    low, high = np.percentile(known, [2, 98])
    return float(low), float(max(high, low * 1.001))


def _mapped(values: np.ndarray, colormap: int) -> np.ndarray:
    """Apply a colour map: [H, W] in [0, 1] -> [H, W, 3] uint8 RGB."""
    levels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, colormap), cv2.COLOR_BGR2RGB)


def colorize_depth(depth: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Depth [H, W] -> [H, W, 3] uint8: turbo in inverse depth, near red, far blue; black where there is none.

    Args:
        depth: z-depth in scene units, 0 = none.
        limits: (near, far) in scene units; by default `depth_range`.
    """
    near, far = limits or depth_range(depth)
    known = depth > 0
    inverse = 1 / np.where(known, depth, far)
    colors = _mapped((inverse - 1 / far) / max(1 / near - 1 / far, 1e-12), cv2.COLORMAP_TURBO)
    colors[~known] = 0
    return colors


def colorize_confidence(confidence: np.ndarray) -> np.ndarray:
    """Confidence [H, W] in [0, 1] -> [H, W, 3] uint8: viridis, yellow is high."""
    return _mapped(confidence, cv2.COLORMAP_VIRIDIS)
