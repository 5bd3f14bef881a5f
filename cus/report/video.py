"""Videos that all browsers can play: H.264, 4:2:0, even sizes, index first."""

import errno
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from cus.errors import InputError


def write_video(path: Path | str, frames: np.ndarray, fps: int, crf: int = 16) -> None:
    """Write an mp4.

    Args:
        path: file to write, ending in .mp4.
        frames: [T, H, W, 3] uint8 RGB; odd sizes are padded by repeating the last row or column.
        fps: frames per second.
        crf: quality, 0 (lossless) to 51.

    Raises:
        InputError: the installed PyAV has no H.264 encoder, or cannot encode these frames.
        OSError: the file cannot be written.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"expected frames [T, H, W, 3] uint8 with T >= 1, got {frames.shape} {frames.dtype}")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    try:
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            # Otherwise libx264's macroblock tree encodes the same frames differently each time.
            options = {"crf": str(crf), "x264-params": "cpu-independent=1"}
            stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    except FFmpegError as error:
        if error.errno is not None and error.errno in errno.errorcode:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise InputError(f"the video {path} could not be written: {error}") from error


def read_video(path: Path | str) -> np.ndarray:
    """All frames [T, H, W, 3] uint8 of a video. Raises InputError if it cannot be decoded."""
    try:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (FFmpegError, ValueError, IndexError) as error:
        raise InputError(f"{path} is not a video that can be decoded: {error}") from error
