"""Conditioning images from a scene estimate: kinds, occlusion suppression, multi-view fusion, point renders."""

from cus.conditioning.conditioning import Conditioning, Layers
from cus.conditioning.continuation import continued
from cus.conditioning.discs import render_discs
from cus.conditioning.fused.agreement import agree
from cus.conditioning.fused.warp import fused_warp
from cus.conditioning.fusion import FusedCloud, fuse_views
from cus.conditioning.hierarchical import hierarchical_warp
from cus.conditioning.kinds import conditioning_kind
from cus.conditioning.kinds.kind import ConditioningKind
from cus.conditioning.points import render_points
from cus.conditioning.reliability import depth_edges, divide_reliability
from cus.conditioning.scene_points import render_scene_points

__all__ = [
    "Conditioning",
    "ConditioningKind",
    "FusedCloud",
    "Layers",
    "agree",
    "conditioning_kind",
    "continued",
    "depth_edges",
    "divide_reliability",
    "fuse_views",
    "fused_warp",
    "hierarchical_warp",
    "render_discs",
    "render_points",
    "render_scene_points",
]
