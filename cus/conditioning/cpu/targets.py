"""Algorithm 1 on the CPU, one thread per target.

Only what the current step needs of a reference is kept, so the memory does not grow with the number of references: the
suppression of background goes from the farthest to the nearest, which is then in place to be painted first.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning
from cus.conditioning.cpu.canvas import Canvas, cells_of, enlarge, keep_nearer, put, surface_means
from cus.conditioning.cpu.occlusion import Samples, dilate
from cus.conditioning.cpu.warp import Points, coarsen, project, projected_distances, splat
from cus.conditioning.options import WarpOptions
from cus.conditioning.references import Reference, Spacing, focal, ranks_of_spacing
from cus.conditioning.warp import pixel_map
from cus.conditioning.warp_target import warp_target
from cus.kernels.threads import in_pieces


def warp_targets_cpu(
    references: Sequence[Reference],
    targets: Cameras,
    orders: Sequence[Sequence[int]],
    options: WarpOptions,
    conditioning: Conditioning,
    on_target: Callable[[int], None],
) -> None:
    """Warp references into T targets and write them to a blank conditioning [T, ...].

    Args:
        references: V views, float32 on the CPU.
        targets: T cameras.
        orders: for each target the order of all references, the highest priority first.
        options: resolutions, suppression, merging.
        conditioning: the conditioning to fill, all holes.
        on_target: called in the caller's thread with the number of targets done.
    """
    views = [_View(reference) for reference in references]
    shape = (targets.height, targets.width)
    spare = [_Scratch(len(views[0].reliable), shape) for _ in range(min(torch.get_num_threads(), len(targets)))]
    arrays = (conditioning.images.numpy(), conditioning.masks.numpy(), conditioning.depths.numpy())

    def work(first: int, last: int) -> None:
        scratch = spare.pop()
        for index in range(first, last):
            canvas = Canvas(*(array[index] for array in arrays))
            ops = _KernelOps(targets[index], scratch)
            warp_target(ops, canvas, [views[view] for view in orders[index]], options)
        spare.append(scratch)

    # As many targets at a time as there are threads, so that progress is reported from the caller's thread.
    for first in range(0, len(targets), len(spare)):
        many = min(len(spare), len(targets) - first)
        in_pieces(lambda a, b, first=first: work(first + a, first + b), many)
        for done in range(first, first + many):
            on_target(done + 1)


class _View:
    """A reference as arrays."""

    def __init__(self, reference: Reference) -> None:
        self.camera = reference.camera
        self.colors = _array(reference.colors)
        self.depths = _array(reference.depths)
        self.reliable, self.unreliable = _array(reference.reliable), _array(reference.unreliable)
        self.samples = Samples(_array(reference.hides), _array(reference.spacing), self.depths.ravel())


class _Scratch:
    """Buffers of one thread, for references of N pixels and targets of shape (height, width)."""

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        self.count, self.shape = count, shape
        self.points = Points(*(np.empty(count, dtype=kind) for kind in (np.float32, np.float32, np.float32, np.int32)))
        self.keys = np.empty(shape, dtype=np.int64)
        self.limits = np.empty(shape, dtype=np.float32)
        self.no_limits = np.full(shape, np.inf, dtype=np.float32)
        self.distances = np.empty(count, dtype=np.float32)

    @cached_property
    def means(self) -> np.ndarray:
        """[H * W, 3] colours to average into."""
        return np.empty((self.shape[0] * self.shape[1], 3), dtype=np.float32)

    @cached_property
    def other(self) -> Canvas:
        """A second canvas, all holes."""
        picture = np.zeros((3, *self.shape), dtype=np.float32)
        return Canvas(picture, np.zeros(self.shape, dtype=np.bool_), np.zeros(self.shape, dtype=np.float32))


class _KernelOps:
    """The steps of Algorithm 1 for one target on one thread; caches the points of one view at a time."""

    def __init__(self, camera: Cameras, scratch: _Scratch) -> None:
        self.camera, self.scratch = camera, scratch
        self.projected: _View | None = None  # the view whose points are in the scratch buffers
        self.splatted: np.ndarray | None = None  # those of its points that are in its z-buffer

    def blank(self) -> Canvas:
        return self.scratch.other  # `nearer` has left it blank

    def limits(self, views: Sequence[_View], tolerance: float) -> np.ndarray:
        limits = self.scratch.limits
        limits[:] = np.inf
        for view in reversed(views):
            magnification = np.float32(focal(self.camera) / focal(view.camera))
            dilate(self._z_buffer(view, view.reliable), self.scratch.points, view.samples, magnification, limits)
        limits += np.float32(tolerance)
        return limits

    def spacing(self, view: _View) -> Spacing:
        self._project(view)
        columns, buffer = view.depths.shape[1], self.scratch.distances
        distances = buffer[: projected_distances(self.scratch.points, view.reliable, columns, buffer)]
        if not len(distances):
            return Spacing(1.0, 1.0)
        places = [rank - 1 for rank in ranks_of_spacing(len(distances))]
        return Spacing(*np.partition(distances, places)[places].tolist())

    def paint(
        self,
        canvas: Canvas,
        view: _View,
        chosen: np.ndarray,
        scales: Sequence[int],
        average: bool,
        limits: np.ndarray | None,
    ) -> None:
        points, keys = self.scratch.points, self._z_buffer(view, chosen)
        limits = self.scratch.no_limits if limits is None else limits
        levels = {1: keys}
        for scale in scales:
            if scale > 1:
                base = max(known for known in levels if scale % known == 0)
                levels[scale] = coarsen(levels[base], scale // base)
                enlarge(canvas, cells_of(levels[scale], points, view.colors), scale, limits)
            elif average:
                surface_means(keys, points, chosen, view.colors, self.scratch.means)
                put(canvas, keys, points, self.scratch.means, False, limits)
            else:
                put(canvas, keys, points, view.colors, True, limits)
            if canvas.complete:
                break

    def nearer(self, first: Canvas, second: Canvas) -> Canvas:
        keep_nearer(first, second)
        return first

    def _z_buffer(self, view: _View, chosen: np.ndarray) -> np.ndarray:
        """[H, W] keys of a view's chosen points; afterwards the scratch buffers hold that view's points."""
        self._project(view)
        if self.splatted is not chosen:
            splat(self.scratch.points, chosen, self.scratch.keys.ravel())
            self.splatted = chosen
        return self.scratch.keys

    def _project(self, view: _View) -> None:
        if self.projected is not view:
            M, v = (np.array(values, dtype=np.float32) for values in pixel_map(view.camera, self.camera))
            project(view.depths, M, v, self.camera.width, self.camera.height, self.scratch.points)
            self.projected = view


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
