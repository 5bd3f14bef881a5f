"""Requests to the viewer: a camera path, and a recording of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from cus.errors import InputError
from cus.options import Flag, fractions, numbers, option, parsed

if TYPE_CHECKING:
    from cus.viewer.scene import ViewScene

PathKind = Literal["walk", "zoom", "orbit", "run"]
Color = tuple[float, float, float]
DEFAULT_FRAMES = 49
MOST_FRAMES = 5000
SMALLEST_SIDE, LARGEST_SIDE = 16, 7680
LARGEST_BYTES = 4 * 2**30
NAMED_COLORS: dict[str, Color] = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


def _color(text: str) -> Color:
    if text in NAMED_COLORS:
        return NAMED_COLORS[text]
    red, green, blue = numbers(text, 3, "0.2,0.2,0.25")
    return red, green, blue


def _color_name(color: Color) -> str:
    return next((name for name, named in NAMED_COLORS.items() if named == color), ",".join(map(str, color)))


@dataclass(frozen=True)
class PathRequest:
    """A path to build.

    Attributes:
        kind: walk: from the first photograph straight towards the surface at the target; zoom: lengthen the lens;
            orbit: swing around the target and back; run: the path of the run's frames
        factor: walk: distance to the target's surface at the start divided by that at the end, at least 1; zoom:
            magnification of the last frame; orbit: of all frames; unused by run (default: 3; orbit 1)
        target: point to approach, in fractions of the first photograph's width and height; 0,0 is its top-left corner;
            unused by run (default: 0.5,0.5)
        frames: number of frames (default: 49; run: as in the run)
    """

    kind: Annotated[PathKind, option(name="path")] = "walk"
    factor: Annotated[float | None, option("FACTOR")] = None
    target: Annotated[tuple[float, float] | None, parsed("U,V", fractions), option()] = None
    frames: Annotated[int | None, option("N")] = None

    @property
    def by(self) -> float:
        """The factor, or the default of this kind of path."""
        return (1.0 if self.kind == "orbit" else 3.0) if self.factor is None else self.factor

    def check(self, scene: "ViewScene") -> None:
        """Raise InputError for a path that cannot be built in `scene`, before anything slow."""
        from cus.cameras.trajectories import check_arguments

        if self.kind not in get_args(PathKind):
            raise InputError(f"unknown path {self.kind!r}: give one of {', '.join(get_args(PathKind))}")
        if self.kind == "run" and scene.frames is None:
            raise InputError("there is no path of a run here: give the output folder, or choose walk, zoom or orbit")
        if self.kind == "walk" and self.by < 1:
            raise InputError(f"walking in needs a factor of at least 1, got {self.by:g}")
        check_arguments(self.by, self.target, DEFAULT_FRAMES if self.frames is None else self.frames)
        if self.frames is not None and self.frames > MOST_FRAMES:
            raise InputError(f"a path has at most {MOST_FRAMES} frames, got {self.frames}")


@dataclass(frozen=True)
class Recording:
    """How to record a path.

    Attributes:
        size: longest side of the video, in pixels
        fps: frames per second
        background: black, white, or R,G,B in 0 to 1: colour behind the Gaussians
        measure: report holes, popping and needles of every frame, as a table and in a JSON file next to the video
    """

    size: Annotated[int, option("PIXELS")] = 960
    fps: Annotated[int, option("N")] = 24
    background: Annotated[Color, parsed("COLOR", _color, _color_name), option()] = NAMED_COLORS["black"]
    measure: Flag = False

    def check(self, frames: int) -> None:
        """Raise InputError for an invalid recording."""
        if not SMALLEST_SIDE <= self.size <= LARGEST_SIDE:
            raise InputError(
                f"the size of a recording must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, got {self.size}"
            )
        if not 1 <= self.fps <= 240:
            raise InputError(f"the frame rate must be 1 to 240 frames per second, got {self.fps}")
        if not all(0 <= channel <= 1 for channel in self.background):
            raise InputError(f"the background must be three numbers in 0 to 1, got {self.background}")
        if frames * 3 * self.size**2 > LARGEST_BYTES:
            raise InputError(
                f"{frames} frames of {self.size} pixels do not fit into memory; record fewer or smaller frames"
            )
