"""Dense inverse depth of one view by sweeping planes through space and comparing the other views on them.

With q ~ K_s (R K_r^-1 p + t / z), a pixel p of the reference at inverse depth rho = 1/z lands in the source at the
dehomogenised u(p) + rho * b, where u = K_s R K_r^-1 p and b = K_s t. Everything here uses inverse depth; 0 is
infinity.

A cost volume [H, W, D] has hundreds of megabytes, so the cost of a step is the number of its passes through memory: on
the CPU the volumes are read once, other devices use tensor operations.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from cus.cameras import Cameras
from cus.estimators.matching_cost import CONTRAST, UNKNOWN_COST, cost_volume
from cus.estimators.semi_global import aggregate
from cus.kernels.threads import in_pieces

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class SweepSettings:
    """Settings of the planes and of the cost aggregation.

    Attributes:
        step: distance between neighbouring planes in pixels of the source with the most motion.
        min_planes: minimum number of planes; little parallax gets a finer step.
        max_planes: maximum number of planes; much parallax gets a coarser step. At most 256.
        window: side of the matching window in pixels, odd.
        small_jump: penalty for a depth step of one pixel between neighbours, in units of the matching cost.
        large_jump: penalty for larger steps where the picture has no edge; decreases with the edge's contrast.
    """

    step: float = 1.0
    min_planes: int = 64
    max_planes: int = 192
    window: int = 5
    small_jump: float = 0.06
    large_jump: float = 1.0


@dataclass(frozen=True)
class Sweep:
    """A reference view and its sources.

    Attributes:
        gray: [H, W] grey values of the reference.
        sources: [S, H, W] grey values of the sources, with exposures matched to the reference.
        rays: [S, 3, H, W] homogeneous source pixels at infinite depth, u(p).
        shifts: [S, 3] homogeneous displacement per unit of inverse depth, b.
        valid: [H, W] bool, False on padding of the reference.
        sources_valid: [S, H, W] bool, False on padding.
    """

    gray: Tensor
    sources: Tensor
    rays: Tensor
    shifts: Tensor
    valid: Tensor
    sources_valid: Tensor

    @staticmethod
    def between(images: Tensor, cameras: Cameras, reference: int, sources: list[int], valid: Tensor) -> "Sweep":
        """The sweep of view `reference` against the views `sources`; images [V, 3, H, W], valid [V, H, W] bool."""
        gray = {view: grayscale(images[view]) for view in (reference, *sources)}
        # A window that touches an invalid pixel is meaningless.
        inside = {view: _eroded(valid[view]) for view in sources}
        # Doubles, for the differences of large numbers; on the CPU, because not every device supports them.
        viewmats, Ks = cameras.viewmats.cpu().double(), cameras.Ks.cpu().double()
        relative = viewmats[sources] @ torch.linalg.inv(viewmats[reference])
        pixels = F.pad(cameras.pixel_centers().cpu().double(), (0, 1), value=1.0)
        linear = Ks[sources] @ relative[:, :3, :3] @ torch.linalg.inv(Ks[reference])
        rays = torch.einsum("sij,hwj->sihw", linear, pixels).float().to(images.device)
        shifts = (Ks[sources] @ relative[:, :3, 3:])[..., 0].float().to(images.device)
        ours = valid[reference]
        matched = torch.stack([_match_contrast(gray[s], gray[reference], valid[s], ours) for s in sources])
        return Sweep(gray[reference], matched, rays, shifts, ours, torch.stack([inside[s] for s in sources]))

    def displacement_rate(self, inverse_depth: float) -> float:
        """Mean speed, in pixels per unit of inverse depth, of the points at `inverse_depth` in the fastest source."""
        height, width = self.gray.shape
        fastest = 0.0
        for rays, shift in zip(self.rays, self.shifts, strict=True):
            x, y, z = rays + shift[:, None, None] * inverse_depth
            x, y = x / z.clamp(min=1e-6), y / z.clamp(min=1e-6)
            seen = (z > 1e-6) & (x > 0) & (y > 0) & (x < width) & (y < height)
            # d(q_xy / q_z) / d rho, with q = u + rho b
            speed = torch.hypot(shift[0] - x * shift[2], shift[1] - y * shift[2]) / z
            if bool(seen.any()):
                fastest = max(fastest, float(speed[seen].mean()))
        return fastest


def grayscale(images: Tensor) -> Tensor:
    """Luma: [..., 3, H, W] -> [..., H, W]."""
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=-3)


def place_planes(sweep: Sweep, low: float, high: float, settings: SweepSettings) -> Tensor:
    """[D] inverse depths from `low` to `high`, evenly spaced, neighbours `settings.step` source pixels apart."""
    if not 0 <= low < high:
        raise ValueError(f"expected 0 <= low < high inverse depths, got {low} and {high}")
    rate = sweep.displacement_rate((low + high) / 2)
    count = min(max(int((high - low) * rate / settings.step) + 2, settings.min_planes), settings.max_planes)
    return torch.linspace(low, high, count, device=sweep.gray.device)


def plane_spacing(sweep: Sweep, planes: Tensor) -> float:
    """Mean distance of neighbouring planes in pixels of the source with the most motion."""
    return sweep.displacement_rate(float(planes[0] + planes[-1]) / 2) * float(planes[1] - planes[0])


def matching_costs(sweep: Sweep, planes: Tensor, window: int = 5) -> Tensor:
    """Dissimilarity in [0, 1] between the reference and its sources on every plane.

    Of several sources the better half counts: a source that does not see the point is no evidence about it.

    Args:
        sweep: reference view and its sources.
        planes: [D] inverse depths.
        window: side of the compared window in pixels.

    Returns:
        [H, W, D] float32; `UNKNOWN_COST` where no source sees the hypothesis, and where a window touches invalid
        pixels.
    """
    costs = cost_volume(sweep.gray, sweep.sources, sweep.sources_valid, sweep.rays, sweep.shifts, planes, window)
    if not bool(sweep.valid.all()):
        costs[~_eroded(sweep.valid)] = UNKNOWN_COST
    return costs


def aggregate_costs(costs: Tensor, sweep: Sweep, planes: Tensor, settings: SweepSettings) -> Tensor:
    """Semi-global aggregation of [H, W, D] costs; depth may jump where the picture has an edge."""
    edges = _edge_strength(sweep.gray)
    small = settings.small_jump * min(plane_spacing(sweep, planes), 1.0)
    large = (settings.large_jump / (1.0 + edges / (CONTRAST / 2))).clamp(min=1.5 * settings.small_jump)
    return aggregate(costs, small, large)


def _match_contrast(source: Tensor, reference: Tensor, source_valid: Tensor, reference_valid: Tensor) -> Tensor:
    """Scale `source` to the mean local contrast of `reference` (different exposures)."""

    def contrast(gray: Tensor, valid: Tensor) -> Tensor:
        across, down = (gray[:, 1:] - gray[:, :-1]).abs(), (gray[1:] - gray[:-1]).abs()
        if bool(valid.all()):
            return across.mean() + down.mean()
        means = [
            (values * inside).sum() / inside.sum().clamp(min=1)
            for values, inside in ((across, valid[:, 1:] & valid[:, :-1]), (down, valid[1:] & valid[:-1]))
        ]
        return means[0] + means[1]

    gain = contrast(reference, reference_valid) / contrast(source, source_valid).clamp(min=1e-6)
    return source * gain.clamp(0.5, 2.0)


def _eroded(valid: Tensor) -> Tensor:
    """[H, W] bool: valid pixels whose neighbours within the picture, at most two away, are all valid."""
    if bool(valid.all()):
        return valid
    return F.max_pool2d((~valid)[None].float(), 5, 1, 2)[0] == 0


def _edge_strength(gray: Tensor) -> Tensor:
    """[H, W] largest contrast with the four neighbours."""
    across = (gray[:, 1:] - gray[:, :-1]).abs()
    down = (gray[1:] - gray[:-1]).abs()
    sides = [F.pad(across, (1, 0)), F.pad(across, (0, 1)), F.pad(down, (0, 0, 1, 0)), F.pad(down, (0, 0, 0, 1))]
    return torch.stack(sides).amax(dim=0)


_HALF, _TWO, _TINY = np.float32(0.5), np.float32(2), np.float32(1e-6)


def subpixel_argmin(costs: Tensor) -> Tensor:
    """[H, W] fractional index of the minimum along the last axis of [H, W, D], by a parabola through three values."""
    if not _compiled(costs):
        return subpixel_argmin_torch(costs)
    positions = torch.empty(costs.shape[:2])
    volume, into = costs.contiguous().numpy(), positions.numpy()
    in_pieces(lambda first, last: _subpixel_argmin(volume, into, first, last), len(volume))
    return positions


def subpixel_argmin_torch(costs: Tensor) -> Tensor:
    """`subpixel_argmin` as tensor operations, on any device."""
    best = costs.argmin(dim=-1)
    middle = best.clamp(1, costs.shape[-1] - 2)
    left, centre, right = (costs.gather(-1, (middle + o)[..., None])[..., 0] for o in (-1, 0, 1))
    offset = (left - right) / (2 * (left - 2 * centre + right)).clamp(min=1e-6)
    return best + torch.where(best == middle, offset.clamp(-0.5, 0.5), torch.zeros_like(offset))


def rival_margin(costs: Tensor, spacing: float, near: float = 2.0) -> Tensor:
    """[H, W] cost of the best rival minus the winner's, for costs [H, W, D] on planes `spacing` pixels apart.

    Rivals are the hypotheses more than `near` pixels from the winner. 0 if there are none.
    """
    reach = max(round(near / spacing), 1)
    if not _compiled(costs):
        return rival_margin_torch(costs, reach)
    margin = torch.empty(costs.shape[:2])
    volume, into = costs.contiguous().numpy(), margin.numpy()
    in_pieces(lambda first, last: _rival_margin(volume, reach, into, first, last), len(volume))
    return margin


def rival_margin_torch(costs: Tensor, reach: int) -> Tensor:
    """`rival_margin` as tensor operations, on any device; `reach` is `near` in planes."""
    best, index = costs.min(dim=-1)
    rivals = costs.clone()
    for step in range(-reach, reach + 1):
        rivals.scatter_(-1, (index + step).clamp(0, costs.shape[-1] - 1)[..., None], torch.inf)
    margin = rivals.amin(dim=-1) - best
    return torch.where(margin.isfinite(), margin, torch.zeros_like(margin))


def in_bytes(costs: Tensor) -> Tensor:
    """Quantise costs in [0, 1] to uint8, 255 for 1."""
    if not _compiled(costs):
        return (costs * 255).round_().to(torch.uint8)
    stored = torch.empty(costs.shape, dtype=torch.uint8)
    volume, into = costs.contiguous().numpy(), stored.numpy()
    in_pieces(lambda first, last: _in_bytes(volume, into, first, last), len(volume))
    return stored


def _compiled(costs: Tensor) -> bool:
    return costs.device.type == "cpu" and costs.dtype == torch.float32


@njit(cache=True, nogil=True, error_model="numpy")
def _subpixel_argmin(costs, positions, first, last):  # pragma: no cover - compiled
    count = costs.shape[2]
    for row in range(first, last):
        for column in range(costs.shape[1]):
            line = costs[row, column]
            best = _argmin(line)
            position = np.float32(best)
            if 0 < best < count - 1:
                left, right = line[best - 1], line[best + 1]
                curvature = max(_TWO * (left - _TWO * line[best] + right), _TINY)
                position += min(max((left - right) / curvature, -_HALF), _HALF)
            positions[row, column] = position


@njit(cache=True, nogil=True)
def _rival_margin(costs, reach, margin, first, last):  # pragma: no cover - compiled
    count = costs.shape[2]
    for row in range(first, last):
        for column in range(costs.shape[1]):
            line = costs[row, column]
            best = _argmin(line)
            rival = np.float32(np.inf)
            for k in range(best - reach):
                rival = min(rival, line[k])
            for k in range(best + reach + 1, count):
                rival = min(rival, line[k])
            margin[row, column] = rival - line[best] if rival < np.inf else np.float32(0)


@njit(cache=True, nogil=True)
def _argmin(line):  # pragma: no cover - compiled
    """Index of the first of the smallest values."""
    best, lowest = 0, line[0]
    for k in range(1, len(line)):
        if line[k] < lowest:
            best, lowest = k, line[k]
    return best


@njit(cache=True, nogil=True)
def _in_bytes(costs, stored, first, last):  # pragma: no cover - compiled
    scale = np.float32(255)
    for row in range(first, last):
        line, into = costs[row].ravel(), stored[row].ravel()
        for k in range(len(line)):
            into[k] = np.uint8(np.rint(line[k] * scale))
