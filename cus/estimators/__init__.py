"""From photographs to cameras, depth and confidence."""

from cus.estimators.choice import ESTIMATORS, estimate_scene
from cus.scene import SceneEstimate

__all__ = ["ESTIMATORS", "SceneEstimate", "estimate_scene"]
