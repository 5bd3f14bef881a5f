"""Input checks, chunking and progress of pipeline calls."""

from collections.abc import Callable

from torch import Tensor


class Progress:
    """Adds up the progress of successive loops."""

    def __init__(self, report: Callable[[int, int], None] | None, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def counter(self) -> Callable[[int, int], None]:
        """Make a callback for one loop."""
        before = self.done

        def count(done: int, _: int) -> None:
            self.done = before + done
            if self.report is not None:
                self.report(self.done, self.total)

        return count


def check_pictures(images: Tensor, conditioning: Tensor, structure: Tensor | None) -> None:
    """Raise ValueError unless all are [N, 3, H, W] with matching sizes."""
    for name, value in (("images", images), ("conditioning", conditioning)):
        if value.ndim != 4 or value.shape[1] != 3 or len(value) < 1:
            raise ValueError(f"{name} must be [N, 3, H, W] with N >= 1, got {tuple(value.shape)}")
    if structure is not None and structure.shape != conditioning.shape:
        raise ValueError(f"structure must be {tuple(conditioning.shape)} as conditioning, got {tuple(structure.shape)}")


def chunks_of(length: int, longest: int) -> list[range]:
    """Ranges of at most `longest` frames, about equally long; each starts at the last frame of the previous one."""
    if length <= longest:
        return [range(length)]
    if longest < 2:
        raise ValueError("chunks that share a frame must be at least 2 frames long")
    count = -(-(length - 1) // (longest - 1))
    ends = [round(index * (length - 1) / count) for index in range(count + 1)]
    return [range(start, end + 1) for start, end in zip(ends[:-1], ends[1:], strict=True)]
