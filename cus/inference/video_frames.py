"""Chooses sharp frames of a video, spread over its duration."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError

from cus.cameras.pictures import SMALLEST_SIDE, sharpness
from cus.errors import InputError
from cus.inference.overlap import overlapping

# The reader to use by a file's first bytes: ffmpeg's own guess would follow playlists to other files.
_FORMATS = ((b"\x1a\x45\xdf\xa3", "matroska"), (b"RIFF", "avi"), (b"GIF8", "gif"), (b"FLV", "flv"), (b"\0\0\1", "mpeg"))
# In a long slot, the middle seconds are examined, and at most this many of their frames.
_WINDOW = 3.0
_LOOKED_AT = 12
# Maximum number of frames decoded for one slot, from the preceding key frame; without times, for the whole video.
_MOST_DECODED = 1500
# Pixels of anamorphic videos are up to twice as wide as high.
_WIDEST_PIXEL = 4.0
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        seconds: time at which it is shown.
        pixels: [H, W, 3] uint8 RGB, upright, square pixels.
    """

    seconds: float
    pixels: np.ndarray

    def grey(self) -> np.ndarray:
        """The frame in grey, [H, W] uint8."""
        return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)

    def png(self) -> bytes:
        """The frame as a PNG file."""
        done, encoded = cv2.imencode(".png", cv2.cvtColor(self.pixels, cv2.COLOR_RGB2BGR))
        assert done, "PNG encoding of a uint8 picture cannot fail"
        return encoded.tobytes()


def choose_frames(path: Path, start: bytes, count: int, whole: bool = False) -> tuple[list[Frame], list[str]]:
    """The sharpest frame of each of `count` equal parts of a video's duration, and notes.

    If neighbours would overlap too little, the parts divide a shorter stretch around the middle (`overlapping`).

    Args:
        path: video file.
        start: first bytes of the file.
        count: number of frames; a video with fewer frames gives all of them.
        whole: divide the whole duration even then.

    Raises:
        InputError: the file cannot be decoded, has no video, or its frames are smaller than 32 pixels.
    """
    reader = next((name for magic, name in _FORMATS if start.startswith(magic)), "mp4")
    try:
        with path.open("rb") as file, av.open(file, format=reader) as container:
            if not container.streams.video:
                found = "sound alone" if container.streams.audio else "nothing that can be decoded"
                raise InputError(f"{path} holds {found}; give a whole video with pictures")
            chooser = _Chooser(path, container)
            if whole:
                return chooser.choose(count, 0.0, 1.0), chooser.notes
            frames, part = overlapping(lambda low, high: chooser.choose(count, low, high), Frame.grey)
            return frames, [*chooser.notes, *chooser.part_note(part)]
    except (FFmpegError, ValueError, IndexError, MemoryError, OverflowError, ArithmeticError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} is not a video that can be decoded ({reason}); export it again as MP4") from error


class _Chooser:
    def __init__(self, path: Path, container: Any) -> None:
        self.path = path
        self.container = container
        self.stream = container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.notes: list[str] = []
        self.begin, self.end = self._extent()

    def choose(self, count: int, low: float, high: float) -> list[Frame]:
        """The sharpest frames between two fractions of the whole duration."""
        begin, end = (self.begin + (self.end - self.begin) * share for share in (low, high))
        edges = [begin + (end - begin) * i / count for i in range(count + 1)]
        chosen: dict[float, Frame] = {}
        for early, late in pairwise(edges):
            middle, half = (early + late) / 2, min(late - early, _WINDOW) / 2
            best = self._best(middle - half, middle + half)
            if best is not None:
                chosen.setdefault(best.seconds, best)
        return [chosen[time] for time in sorted(chosen)]

    def part_note(self, part: float) -> list[str]:
        """A note if only a part around the middle is used."""
        if part == 1:
            return []
        middle, half = (self.begin + self.end) / 2, part * (self.end - self.begin) / 2
        return [
            f"{self.path.name}: only {middle - half:.1f} to {middle + half:.1f} s of {self.end - self.begin:.1f} are "
            "used: frames farther apart share too little; a slower video or more --max-views covers more"
        ]

    def _extent(self) -> tuple[float, float]:
        """First and last second; if the video does not state them, found by decoding frames."""
        stream, container = self.stream, self.container
        begin = float((stream.start_time or 0) * stream.time_base)
        if stream.duration:
            return begin, begin + float(stream.duration * stream.time_base)
        if container.duration:
            return begin, begin + container.duration / av.time_base
        times = []
        for frame in container.decode(stream):
            times.append(frame.time or 0.0)
            if len(times) == _MOST_DECODED:
                self.notes.append(f"{self.path.name}: only its first {_MOST_DECODED} frames are looked at")
                break
        if not times:
            raise InputError(f"{self.path} has no frames; export it again as MP4")
        return min(times), max(times) + 1e-3

    def _best(self, early: float, late: float) -> Frame | None:
        """The sharpest of the frames shown in [early, late); if there are none, the one shown at that time."""
        step = (late - early) / _LOOKED_AT
        best, highest, next_look, shown = None, -1.0, early, None
        for frame in self._frames_from(early):
            if frame.time is None:
                continue
            if frame.time >= late:
                shown = shown or frame
                break
            if frame.time < early:
                shown = frame
            elif frame.time >= next_look:
                next_look = frame.time + step
                score = sharpness(frame.to_ndarray(format="gray"))
                if score > highest:
                    best, highest = frame, score
        found = best or shown
        return None if found is None else Frame(found.time, self._pixels(found))

    def _frames_from(self, time: float) -> Iterator[Any]:
        self.container.seek(max(0, int(time / self.stream.time_base)), stream=self.stream, backward=True)
        for number, frame in enumerate(self.container.decode(self.stream)):
            if number == _MOST_DECODED:
                return
            yield frame

    def _pixels(self, frame: Any) -> np.ndarray:
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
        ratio = float(self.stream.sample_aspect_ratio or 1)
        if abs(ratio - 1) > 1e-3 and not 1 / _WIDEST_PIXEL <= ratio <= _WIDEST_PIXEL:
            self._note(f"its pixels cannot be of the shape that it says ({ratio:g} to 1) and are taken as square")
        elif abs(ratio - 1) > 1e-3:
            turned = round(frame.rotation / 90) % 2 == 1
            height, width = pixels.shape[:2]
            size = (width, round(height * ratio)) if turned else (round(width * ratio), height)
            pixels = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
            self._note("its pixels are not square: frames are widened to their true shape")
        if frame.color_trc in _HDR:
            self._note(f"it is an HDR video ({_HDR[frame.color_trc]}), taken as it is: its colours are pale")
        if min(pixels.shape[:2]) < SMALLEST_SIDE:
            raise InputError(f"{self.path} has frames of {frame.width}x{frame.height}; 32 pixels are the least")
        return np.ascontiguousarray(pixels)

    def _note(self, sentence: str) -> None:
        note = f"{self.path.name}: {sentence}"
        if note not in self.notes:
            self.notes.append(note)
