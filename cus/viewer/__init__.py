"""Viewing a Gaussian scene: camera paths, recordings and their measures, and a server for the browser."""

from typing import TYPE_CHECKING

from cus.lazy import lazy_names

if TYPE_CHECKING:
    from cus.viewer.paths import build_path, view_depth
    from cus.viewer.recording import record
    from cus.viewer.requests import PathRequest, Recording
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
# The command parses its options before the rasterizer is imported.
_HOMES = {
    "FrameMeasures": "cus.viewer.steadiness",
    "PathRequest": "cus.viewer.requests",
    "Recording": "cus.viewer.requests",
    "Steadiness": "cus.viewer.steadiness",
    "ViewScene": "cus.viewer.scene",
    "build_path": "cus.viewer.paths",
    "load_scene": "cus.viewer.scene",
    "record": "cus.viewer.recording",
    "view_depth": "cus.viewer.paths",
}
__getattr__ = lazy_names(__name__, _HOMES)
