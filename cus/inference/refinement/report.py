"""Pictures, video and report of a refinement: the scene before and after."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cus.cameras import Cameras
from cus.inference.folder import RunFolder
from cus.inference.outputs import save_png, to_bytes, view_names, viewer_cameras
from cus.inference.refinement.looks import Look, RefinementVerdict
from cus.inference.refinement.settings import RefineSettings
from cus.inference.refinement.subject import Subject
from cus.report.html import Pane, ReportData, write_report_html
from cus.report.video import write_video
from cus.report.viewer import Splats, ViewerData, Views
from cus.splats import Gaussians

# Number of frames of the path towards the target, and frames per second of the video.
WALK_FRAMES, WALK_FPS = 25, 8
# Factors of the pictures, in addition to the path's last factor.
SHOWN_FACTORS = (1.0, 3.0, 9.0, 27.0)
STAGES = {"check": "Scene and photographs", "depth": "Depth", "before": "Before", "fit": "Refinement"}
STAGES |= {"after": "After", "report": "Report"}


@dataclass(frozen=True)
class Shown:
    """Contents of the report.

    Attributes:
        settings: settings of the refinement.
        gaussians: the refined scene.
        walk: cameras of the path towards the target.
        images: [V, 3, H, W], the supervising photographs.
        before: renders and measures before the refinement.
        after: renders and measures after it.
        verdict: quality and trustworthiness of the result.
    """

    settings: RefineSettings
    gaussians: Gaussians
    walk: Cameras
    images: Tensor
    before: Look
    after: Look
    verdict: RefinementVerdict


def shown_frames(factor: float) -> list[tuple[float, int]]:
    """Factors of the pictures and their frames on the path, which moves closer by equal factors."""
    shown = [f for f in SHOWN_FACTORS if f < 0.99 * factor] + [factor]
    return [(f, round(math.log(f) / math.log(factor) * (WALK_FRAMES - 1))) for f in shown]


def write_pictures(folder: RunFolder, settings: RefineSettings, before: Look, after: Look) -> None:
    """Write `close_ups/`, before and after at every factor, and the path as a video."""
    folder.clear("close_ups")
    for factor, frame in shown_frames(settings.times):
        for name, seen in (("before", before), ("after", after)):
            save_png(folder, f"close_ups/x{factor:g}_{name}.png", seen.pictures[frame])
    folder.write("walk.mp4", lambda part: write_video(part, after.pictures, WALK_FPS))


def write_refinement_report(folder: RunFolder, subject: Subject, shown: Shown, summary: dict[str, Any]) -> None:
    """Write `report.html`; `summary` is the content of `refine.json`."""
    pairs = []
    for factor, frame in reversed(shown_frames(shown.settings.times)):
        place = "from where the first photograph was taken"
        if factor > 1:
            place = f"{factor:g} times nearer than the first photograph"
        before = Pane(f"Before, x{factor:g}", place, shown.before.pictures[frame])
        pairs.append((before, Pane(f"After, x{factor:g}", place, shown.after.pictures[frame])))
    # The page's viewer knows no levels of detail.
    gaussians = shown.gaussians.baked()
    arrays = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    walk, posed = shown.walk, subject.posed.select(subject.training)
    names, frames = view_names(posed.paths), [f"frame {index}" for index in range(len(walk))]
    viewer = ViewerData(
        splats=Splats(*(array.cpu().numpy() for array in arrays)),
        path=viewer_cameras(walk, frames, [(walk.width, walk.height)] * len(walk)),
        photos=Views(names, posed.viewmats.numpy(), posed.Ks.numpy(), list(posed.sizes)),
        poster=shown.after.pictures[-1],
        frames_per_second=WALK_FPS,
        antialiased=subject.stored.antialiased,
    )
    data = ReportData(
        title=f"CloseUpShot: {subject.splat.parent.name}/{subject.splat.name}, refined",
        settings=summary["settings"],
        notes=summary["notes"],
        opening=list(pairs[0]),
        pairs=pairs[1:],
        verdict=shown.verdict.to_json() | {"advice": shown.verdict.advice, "forced": False},
        inputs=list(zip(names, to_bytes(shown.images), strict=True)),
        sequences={"Before": shown.before.pictures, "After": shown.after.pictures},
        timings={STAGES[name]: value for name, value in summary["seconds"].items()},
        peak_memory_bytes=summary["peak_memory_bytes"],
        versions=summary["versions"],
        files=[*folder.files(), "report.html", "refine.json"],
        fps=WALK_FPS,
        viewer=viewer,
    )
    folder.write("report.html", lambda part: write_report_html(part, data))
