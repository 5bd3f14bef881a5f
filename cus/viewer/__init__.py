"""Looking at a Gaussian scene: camera paths, recordings and their measures, and a server for the browser."""

from cus.viewer.paths import PathRequest, build_path, view_depth
from cus.viewer.recording import Recording, record
from cus.viewer.scene import ViewScene, load_scene
from cus.viewer.steadiness import FrameMeasures, Steadiness

__all__ = [
    "FrameMeasures",
    "PathRequest",
    "Recording",
    "Steadiness",
    "ViewScene",
    "build_path",
    "load_scene",
    "record",
    "view_depth",
]
