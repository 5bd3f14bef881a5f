"""The network: that of VGGT's stand-in behind MapAnything's interface."""

from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from vggt.models.vggt import VGGT

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class MapAnything(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = VGGT(embed_dim=5)

    @classmethod
    def from_pretrained(cls, folder: str) -> Self:
        made = cls()
        made.network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return made

    def infer(
        self,
        views: list[dict[str, Any]],
        memory_efficient_inference: bool,
        use_amp: bool,
        amp_dtype: str,
        apply_mask: bool,
        mask_edges: bool,
    ) -> list[dict[str, Tensor]]:
        assert not torch.is_grad_enabled() and not self.training and amp_dtype in ("bf16", "fp16")
        assert not memory_efficient_inference and apply_mask and not mask_edges
        assert use_amp == views[0]["img"].is_cuda
        known = self.network.aggregator
        if len(views) > known.memory:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        found = []
        for index, view in enumerate(views):
            assert view["data_norm_type"] == ["dinov2"] and view["img"].shape[0] == 1
            assert ("camera_poses" in view) == ("intrinsics" in view)
            picture = (view["img"][0] * STD[:, None, None] + MEAN[:, None, None]).clamp(0, 1)
            # Rounding keeps white padding white.
            picture = torch.where(picture > 1 - 1e-5, 1.0, picture)
            viewmat, fov_w, fov_h, depth, confidence = self.network._view(index, picture)
            height, width = depth.shape
            K = torch.eye(3)
            K[0, 0], K[1, 1] = width / 2 / torch.tan(fov_w / 2), height / 2 / torch.tan(fov_h / 2)
            # Its first pixel is at (0, 0).
            K[0, 2], K[1, 2] = width / 2 - 0.5, height / 2 - 0.5
            pose = torch.linalg.inv(viewmat)
            pose[:3, 3] *= known.unit
            found.append(
                {
                    "camera_poses": pose[None],
                    "intrinsics": K[None],
                    "depth_z": (depth * known.unit)[None, ..., None],
                    "conf": confidence[None],
                }
            )
        return found
