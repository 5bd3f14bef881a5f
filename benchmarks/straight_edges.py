"""What straightening does to the depth of `mono` on photographs.

    python benchmarks/straight_edges.py photos/berlin photos/lund_door photos/sceaux_castle

For the middle photograph of every posed scene, the network's own guess and the corrected one
(`cus/estimators/straightening.py`): how much its long straight edges bend at the end of an orbit of 6 degrees (root
mean square deviation from a line, in pixels of a picture with a longest side of 512), how many degrees they lean there
against the depth of stereo (mean, longer edges count more), and AbsRel and the fraction within 1.25 against that depth,
after median scaling. Stereo has the known cameras of this and the three nearest photographs.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.datasets.scenes import open_scene
from cus.estimators import estimate_scene
from cus.estimators.framing import content_box, frame_views
from cus.estimators.mono import OWN, Mono
from cus.estimators.straightening import straight_segments
from cus.inference.target_path import ALONE_ORBIT
from cus.training.single_view import depth_scores

SIDE = 512
VIEWS = 4


def photograph(scene: Path) -> tuple[Tensor, Tensor, float]:
    """The middle photograph [3, H, W] of a scene, its stereo depth [H, W] (0: not reliable), and its focal length."""
    posed = open_scene(scene)
    centers = torch.linalg.inv(posed.viewmats.double())[:, :3, 3]
    order = (centers - centers[len(posed) // 2]).norm(dim=1).argsort().tolist()[:VIEWS]
    batch, cameras = posed.select(order).read(SIDE, SIDE)
    found = estimate_scene(batch.images, cameras, "stereo", valid=batch.valid)
    x0, y0, x1, y1 = content_box(batch.valid[0], 0)
    depth = found.depths[0] * found.reliable[0]
    return batch.images[0, :, y0:y1, x0:x1], depth[y0:y1, x0:x1], float(cameras.Ks[0, 0, 0])


def shifts(depth: Tensor, focal: float) -> np.ndarray:
    """[H, W] pixels by which points move at the end of the orbit around the middle of depth [H, W]; 0 without depth."""
    height, width = depth.shape
    middle = depth[2 * height // 5 : 3 * height // 5, 2 * width // 5 : 3 * width // 5]
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-9), 0.0).double().numpy()
    return focal * math.sin(math.radians(ALONE_ORBIT)) * float(middle[middle > 0].median()) * inverse


def along(edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places 0 .. 1 on an edge [2, 2], a pixel apart, and their points [N, 2] in array coordinates (row, column)."""
    start, end = edge
    t = np.linspace(0, 1, int(np.linalg.norm(end - start)))
    return t, (start + np.outer(t, end - start) - 0.5)[:, ::-1]


def bend(shift: np.ndarray, edges: np.ndarray) -> float:
    """Pixels by which edges [N, 2, 2] deviate from lines once they are shifted."""
    squares = []
    for t, points in map(along, edges):
        values = map_coordinates(shift, points.T, order=1, mode="nearest")
        squares.append((values - np.polyval(np.polyfit(t, values, 1), t)) ** 2)
    return math.sqrt(np.concatenate(squares).mean()) if squares else 0.0


def lean(shift: np.ndarray, true: np.ndarray, edges: np.ndarray) -> float:
    """Degrees between shifted edges and truly shifted ones, over those whose true shift is known for three quarters."""
    turns, lengths = [], []
    for edge in edges:
        t, points = along(edge)
        rows, columns = np.rint(points).astype(int).T
        rows, columns = rows.clip(0, len(true) - 1), columns.clip(0, true.shape[1] - 1)
        known = true[rows, columns] > 0
        if known.mean() < 0.75:
            continue
        ways = [edge[1] - edge[0] + [np.polyfit(t[known], s[rows, columns][known], 1)[0], 0] for s in (shift, true)]
        ours, truly = (math.degrees(math.atan2(y, x)) for x, y in ways)
        turn = abs(ours - truly)
        turns.append(min(turn, 360 - turn))
        lengths.append(len(t))
    return float(np.average(turns, weights=lengths)) if turns else math.nan


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+", help="posed scenes")
    given = parser.parse_args(arguments)
    mono = Mono()
    network = mono.load(mono.fetch(OWN))
    columns = ("scene", "depth", "AbsRel", "within 1.25", "bend (pixels)", "lean (degrees)")
    print(f"| {' | '.join(columns)} |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for scene in given.scenes:
        picture, truth, focal = photograph(scene)
        framed = frame_views(picture[None], None, mono.rule)
        edges = straight_segments(picture)
        with torch.no_grad():
            depths = {"guess": mono.guess(network, framed)[0], "straightened": mono.run(network, framed, None)[0]}
        for name, depth in depths.items():
            inverse = 1 / framed.inside([depth])[0]
            large = F.interpolate(inverse[None, None], truth.shape, mode="bilinear", align_corners=False)[0, 0]
            scores = depth_scores(1 / large, truth)
            row = f"| {scene.name} | {name} | {scores.abs_rel:.3f} | {scores.delta:.3f} |"
            shift = shifts(1 / large, focal)
            print(f"{row} {bend(shift, edges):.2f} | {lean(shift, shifts(truth, focal), edges):.1f} |", flush=True)


if __name__ == "__main__":
    main()
