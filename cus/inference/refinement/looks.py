"""Compares a refined scene with the original, from near and far: pictures, measures and a verdict."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.inference.outputs import to_bytes
from cus.inference.photo_fit import scored
from cus.inference.verdict import ORDER, Finding, Grade
from cus.refinement.pseudo_labels import PseudoLabels
from cus.splats import Gaussians, render
from cus.viewer.recording import shots
from cus.viewer.scene import ViewScene
from cus.viewer.steadiness import FrameMeasures, Steadiness, compare, uncovered_share

# Number and seed of new virtual views at which a scene is compared with the warped photographs.
PROBES, PROBE_SEED = 8, 20_011
# Limits of grades: at least the first is good, at least the second fair.
KEPT = 0.5, 0.2
# Of the share of needles before, and as it is: as much is good; no more than before, or as much as the last, is fair.
FEWER_NEEDLES, FEW_NEEDLES, SOME_NEEDLES = 0.2, 1e-3, 5e-3
# Share of a view of the walk that no Gaussian covers: at most the first is good, at most the second fair.
UNCOVERED = 0.02, 0.1
# Photographs may be matched worse than before by this many dB; an overfitted scene that still matches them is fair.
LOST, MATCHED = 0.1, 30.0
OTHER_WALK = "choose a --target that nothing stands in front of, or a smaller --factor; more photographs help, too"
MORE_PHOTOGRAPHS = "take more photographs of this part of the scene, nearer to each other, or check their cameras"


@dataclass(frozen=True)
class Look:
    """A scene seen from near and far.

    Attributes:
        pictures: [T, H, W, 3] uint8 along the path.
        steadiness: steadiness along the path: holes, popping, needles.
        close_ups: PSNR in dB of new virtual close-ups against the warped photographs, over kept pixels.
        kept: fraction of their pixels that are kept.
        far: mean PSNR in dB at photographs; at held-out ones, if there are any.
    """

    pictures: np.ndarray
    steadiness: Steadiness
    close_ups: float
    kept: float
    far: float

    def to_json(self) -> dict[str, Any]:
        """The measures without pictures."""
        return {
            "close_ups_psnr": round(self.close_ups, 3),
            "kept": round(self.kept, 4),
            "far_psnr": round(self.far, 3),
            **{name: round(value, 6) for name, value in self.steadiness.summary().items()},
        }


@dataclass(frozen=True)
class Viewpoints:
    """Viewpoints for comparing scenes.

    Attributes:
        walk: T cameras towards the target.
        probes: pseudo-labels of new virtual views, made with the original scene.
        photographs: V cameras of photographs.
        images: [V, 3, H, W] the photographs.
        valid: [V, H, W] bool, their valid pixels.
    """

    walk: Cameras
    probes: list[tuple[Cameras, Tensor, Tensor]]
    photographs: Cameras
    images: Tensor
    valid: Tensor


def probes_of(labels: PseudoLabels, gaussians: Gaussians) -> list[tuple[Cameras, Tensor, Tensor]]:
    """Virtual close-ups not used in the fit: camera, picture [3, H, W] and kept pixels [H, W] bool of each."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    counts, found = labels.counts.clone(), []
    tensors = gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh
    for _ in range(PROBES):
        seen = labels.draw(tensors, generator)
        if seen is not None:
            found.append((seen.camera, seen.target, seen.weights > 0))
    labels.counts = counts
    return found


def look(gaussians: Gaussians, views: Viewpoints, antialiased: bool) -> Look:
    """Render a scene at the viewpoints and measure it."""
    scene = ViewScene("", gaussians)
    seen = list(shots(scene, views.walk))
    measures = []
    for index, (shot, needles) in enumerate(seen):
        changes = (None, None, None) if index + 1 == len(seen) else compare(shot, seen[index + 1][0])
        measures.append(FrameMeasures(uncovered_share(shot.alphas), needles, *changes))
    errors, weights = 0.0, 0.0
    for camera, picture, kept in views.probes:
        shown = render(gaussians, camera, antialiased=antialiased)[0]
        errors += float((shown - picture).square().mean(dim=0)[kept].sum())
        weights += float(kept.sum())
    close_ups = -10 * float(np.log10(max(errors / max(weights, 1.0), 1e-12)))
    pixels = sum(kept.numel() for _, _, kept in views.probes)
    pictures = render(gaussians, views.photographs, antialiased=antialiased)
    scores = [scored("", *each).psnr for each in zip(pictures, views.images, views.valid, strict=True)]
    return Look(
        to_bytes(torch.stack([shot.picture for shot, _ in seen])),
        Steadiness(tuple(measures)),
        close_ups,
        weights / max(pixels, 1),
        float(np.mean(scores)),
    )


@dataclass(frozen=True)
class RefinementVerdict:
    """Expected quality of a refined scene.

    Attributes:
        findings: findings on support by the photographs, close-ups, far views, needles and the walk's coverage.
    """

    findings: tuple[Finding, ...]

    @property
    def grade(self) -> Grade:
        """The worst grade of the findings."""
        return ORDER[max(ORDER.index(finding.grade) for finding in self.findings)]

    @property
    def trusted(self) -> bool:
        """Whether the photographs show anything of close-ups at all."""
        return self.findings[0].grade != "poor"

    @property
    def headline(self) -> str:
        """One sentence without a full stop."""
        if not self.trusted:
            return "the photographs agree on hardly anything in close-ups, so the refined scene is not to be trusted"
        weak = [finding.name for finding in self.findings if finding.grade == self.grade]
        if self.grade == "good":
            return "close-ups of the scene agree with the photographs"
        return f"the refined scene is {self.grade}: {' and '.join(weak)}"

    @property
    def advice(self) -> list[str]:
        """Advice from the findings, without repetition."""
        return list(dict.fromkeys(finding.advice for finding in self.findings if finding.advice))

    def to_json(self) -> dict[str, Any]:
        """Values for `refine.json` and `--json`."""
        head = {"grade": self.grade, "trusted": self.trusted, "headline": self.headline}
        return head | {"findings": [asdict(finding) for finding in self.findings]}


def judge_refinement(before: Look, after: Look, held_out: bool) -> RefinementVerdict:
    """Compare two looks from the same viewpoints; `held_out`: whether the far views are held-out photographs."""
    kept: Grade = "good" if after.kept >= KEPT[0] else "fair" if after.kept >= KEPT[1] else "poor"
    told = f"the photographs agree on {100 * after.kept:.0f} % of new virtual close-ups"
    findings = [Finding("support", kept, told, "" if kept == "good" else MORE_PHOTOGRAPHS)]
    nearer: Grade = "good" if after.close_ups >= before.close_ups else "poor"
    told = f"they are matched at {after.close_ups:.1f} dB, before at {before.close_ups:.1f} dB"
    findings.append(Finding("close-ups", nearer, told, "" if nearer == "good" else "keep the scene as it was"))
    lost = before.far - after.far
    far: Grade = "good" if lost <= LOST else "fair" if after.far >= MATCHED or lost <= 1 else "poor"
    name = "views held out" if held_out else "far views"
    which = "photographs held out" if held_out else "photographs that it is fitted to"
    told = f"{which} are matched at {after.far:.1f} dB, before at {before.far:.1f} dB"
    advice = "" if far == "good" else "more --iterations bring views from afar back"
    findings.append(Finding(name, far, told, advice))
    was, now = (each.steadiness.summary()["needles_worst"] for each in (before, after))
    needles: Grade = "poor"
    if now <= max(FEWER_NEEDLES * was, FEW_NEEDLES):
        needles = "good"
    elif now <= max(was, SOME_NEEDLES):
        needles = "fair"
    told = f"at most {100 * now:.2f} % of the Gaussians in a view of the walk are needles, before {100 * was:.2f} %"
    findings.append(Finding("needles", needles, told, "" if needles == "good" else "more --iterations take them away"))
    uncovered = after.steadiness.summary()["uncovered_worst"]
    covered: Grade = "good" if uncovered <= UNCOVERED[0] else "fair" if uncovered <= UNCOVERED[1] else "poor"
    told = f"at most {100 * uncovered:.0f} % of a view of the walk show nothing"
    findings.append(Finding("coverage", covered, told, "" if covered == "good" else OTHER_WALK))
    return RefinementVerdict(tuple(findings))
