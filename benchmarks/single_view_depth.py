"""Depth of single pictures against exact depth, on sets of posed views not used in any training.

    python data/make_views.py out=runs/views_held_out sets=60 first_seed=900000 depths=true
    python benchmarks/single_view_depth.py runs/views_held_out constant ramp mono
    python benchmarks/single_view_depth.py runs/views_held_out da3 depth-anything-2 mono:runs/mono/export

Estimators see the first view of every set, with its focal length. Depths are scaled by the medians (AbsRel, RMSE in
scene units, fraction within a factor of 1.25), and averaged over the sets. "constant" is one plane that faces the
camera; "ramp" is the plane of inverse depth, the same in all pictures, that decreases from bottom to top and best fits
the exact depths of all sets: the information in the position alone.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cus.datasets.clips import clip_paths
from cus.datasets.posed_views import CONTENT, PosedViews, load_views
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.training.single_view import DepthScores, depth_scores

Depth = Callable[[PosedViews], Tensor]


def constant(views: PosedViews) -> Tensor:
    """One plane that faces the camera, [H, W]."""
    return torch.ones(views.images.shape[-2:])


def ramp(sets: Sequence[PosedViews]) -> Depth:
    """The plane of inverse depth over the row that best fits all sets, each in units of its median."""
    rows, inverse = [], []
    for views in sets:
        depth = exact(views)
        known = depth > 0
        height = len(depth)
        row = ((torch.arange(height) + 0.5) / height)[:, None].expand_as(depth)
        rows.append(row[known])
        inverse.append(depth[known].median() / depth[known])
    x, y = torch.cat(rows), torch.cat(inverse)
    slope = ((x - x.mean()) * (y - y.mean())).mean() / (x - x.mean()).square().mean()

    def depth_of(views: PosedViews) -> Tensor:
        height, width = views.images.shape[-2:]
        row = (torch.arange(height) + 0.5) / height
        return (1 / (y.mean() + slope * (row - x.mean())).clamp(min=0.05))[:, None].expand(height, width)

    return depth_of


def estimated(estimator: str) -> Depth:
    """An estimator's depth of the first view."""

    def depth_of(views: PosedViews) -> Tensor:
        return estimate_scene(views.images[:1], estimator=estimator, focals=views.cameras.Ks[:1, 0, 0]).depths[0]

    return depth_of


def exact(views: PosedViews) -> Tensor:
    """Exact depths [H, W] of the first view."""
    if views.depths is None:
        raise InputError("a set has no exact depths; build the sets with depths=true")
    return views.depths[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("views", type=Path, help="folder of sets with exact depths")
    parser.add_argument("depths", nargs="+", help="constant, ramp, or estimators")
    given = parser.parse_args(arguments)
    sets = [load_views(path) for path in clip_paths(given.views, CONTENT)]
    print("| depth | AbsRel | RMSE | within 1.25 |\n| --- | --- | --- | --- |")
    for name in given.depths:
        depth = {"constant": constant, "ramp": ramp(sets)}.get(name) or estimated(name)
        mean = DepthScores.mean(depth_scores(depth(views), exact(views)) for views in sets)
        print(f"| {name} | {mean.abs_rel:.3f} | {mean.rmse:.2f} | {mean.delta:.3f} |", flush=True)


if __name__ == "__main__":
    main()
