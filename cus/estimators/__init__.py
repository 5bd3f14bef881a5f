"""Estimators of cameras, depth and confidence from photographs."""

from cus.estimators.choice import ESTIMATORS, estimate_scene
from cus.scene import SceneEstimate

__all__ = ["ESTIMATORS", "SceneEstimate", "estimate_scene"]
