"""From photographs to cameras, depth and confidence."""

from cus.estimators.scene import ESTIMATORS, SceneEstimate, estimate_scene

__all__ = ["ESTIMATORS", "SceneEstimate", "estimate_scene"]
