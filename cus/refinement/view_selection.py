"""Which views to take: the selection of Close-up-GS (Eq. 5 and its supplement), from pixels visible in two views."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cus.cameras import Cameras

# A pixel is visible in another view if its depth there agrees this well with the surface that the view sees.
SAME_SURFACE = 0.05
# Pixels near the middle of a frontier view matter more: a Gaussian of this share of its height.
CENTRE = 0.35
# Swaps that the local search tries (the paper's number).
SWAPS = 1000


def visible_share(depths: Tensor, cameras: Cameras, other_depths: Tensor, others: Cameras, centred: bool) -> Tensor:
    """Share of each view's pixels that each other view sees, too.

    Args:
        depths: z-depths of A views [A, h, w], 0 = none.
        cameras: A cameras of h x w pixels.
        other_depths: z-depths of B views [B, h', w'], 0 = none.
        others: B cameras of h' x w' pixels.
        centred: whether pixels near the middle of the A views count more.

    Returns:
        [A, B] in [0, 1].
    """
    found = depths.new_zeros(len(cameras), len(others))
    weights = _centre_weights(cameras) if centred else depths.new_ones(depths.shape[1:])
    size = depths.new_tensor([others.width, others.height])
    for index in range(len(cameras)):
        points = cameras[index].backproject(depths[index : index + 1]).reshape(-1, 3)
        pixels, seen = others.project(points)
        inside = (seen > 0) & ((pixels >= 0) & (pixels < size)).all(dim=-1) & (depths[index].flatten() > 0)
        columns, rows = torch.where(inside[..., None], pixels, torch.zeros_like(pixels)).long().unbind(-1)
        surface = other_depths.flatten(1).gather(1, rows * others.width + columns)
        visible = inside & ((seen - surface).abs() <= SAME_SURFACE * surface)
        found[index] = (visible * weights.flatten()).sum(dim=1) / weights.sum()
    return found


def similarity(depths: Tensor, cameras: Cameras) -> Tensor:
    """The paper's e_ij [N, N]: the mean share of pixels that two views see in common; 0 on the diagonal."""
    shares = visible_share(depths, cameras, depths, cameras, centred=False)
    return ((shares + shares.T) / 2).fill_diagonal_(0)


def select_views(weights: Tensor, similarities: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Indices of `count` views, sorted, that cover much and repeat little: the paper's Algorithm 1 for Eq. 5.

    The views of the largest weights are the start; random swaps that increase s^T w - s^T E s are kept. E is divided by
    count - 1, so that it stands for the mean similarity to the other chosen views: as a sum it would outweigh
    w, and views that see nothing of the target would win.

    Args:
        weights: coverage w of N views [N].
        similarities: E [N, N], symmetric, 0 on the diagonal.
        count: number of views k; all of them if there are fewer.
        generator: generator of the swaps, on the CPU.
    """
    total = len(weights)
    if count >= total:
        return list(range(total))
    w, e = weights.double().cpu(), similarities.double().cpu() / max(count - 1, 1)
    order = w.argsort(descending=True, stable=True).tolist()
    chosen, rest = order[:count], order[count:]
    linked = e[chosen].sum(dim=0)  # similarity of every view to the chosen ones
    draws = torch.rand(SWAPS, 2, generator=generator)
    for a, b in (draws * torch.tensor([count, total - count])).long().tolist():
        old, new = chosen[a], rest[b]
        gain = float(w[new] - w[old]) - 2 * float(linked[new] - e[old, new] - linked[old])
        if gain > 1e-12:
            chosen[a], rest[b] = new, old
            linked = linked - e[old] + e[new]
    return sorted(chosen)


def distance_discount(centers: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """The supplement's beta (Eq. 13) of views at `centers` [M, 3] between two positions [3].

    A view's overlap with both, added up, is least in the middle; the factor (1 - d^2)^2 / (2 (1 + d^2)), with d the
    distance from the middle in half distances between the two, removes this effect.
    """
    axis = far - near
    along = ((centers - near) @ axis) / axis.square().sum().clamp(min=1e-12)
    d = (2 * along - 1).clamp(-1, 1)
    return (1 - d.square()).square() / (2 * (1 + d.square()))


def coverage(shares: Sequence[Tensor], discount: Tensor | None = None) -> Tensor:
    """Coverage w [N] of views: the mean over all shares [A, N], each row a view to cover, times a discount [N]."""
    mean = torch.stack([share.mean(dim=0) for share in shares]).mean(dim=0)
    return mean if discount is None else mean * discount


def _centre_weights(cameras: Cameras) -> Tensor:
    offset = cameras.pixel_centers() - cameras.Ks.new_tensor([cameras.width, cameras.height]) / 2
    return torch.exp(-offset.square().sum(dim=-1) / (2 * (CENTRE * cameras.height) ** 2))
