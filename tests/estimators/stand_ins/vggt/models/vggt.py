"""The network: knows its cameras from its checkpoint, finds the photographs in their frame, answers with the truth."""

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from cus.cameras import Cameras
from tests.estimators import planes

VIEWS = 4  # that a checkpoint knows
# A little off the first camera's world: a network predicts that camera, too.
WORLD = torch.eye(4)
WORLD[:3, :3] = torch.from_numpy(Rotation.from_euler("xyz", [0.01, -0.02, 0.015]).as_matrix()).float()
WORLD[:3, 3] = torch.tensor([0.01, 0.02, -0.03])


class Aggregator(nn.Module):
    def __init__(self, embed_dim: int):
        super().__init__()
        self.viewmats = nn.Parameter(torch.zeros(VIEWS, 4, 4))
        self.focals = nn.Parameter(torch.zeros(VIEWS, 2))  # over width and height of the photograph
        self.unit = nn.Parameter(torch.ones(1))  # of the network, over the scene's
        self.surest = nn.Parameter(torch.full((1,), 5.0))  # raw confidence of a pixel that is as expected
        self.memory = nn.Parameter(torch.full((1,), float(VIEWS)))  # views that fit into it
        self.width = nn.Parameter(torch.zeros(embed_dim))


class VGGT(nn.Module):
    def __init__(
        self,
        img_size: int = 518,
        patch_size: int = 14,
        embed_dim: int = 8,
        enable_camera: bool = True,
        enable_point: bool = True,
        enable_depth: bool = True,
        enable_track: bool = True,
    ):
        super().__init__()
        self.img_size, self.patch_size = img_size, patch_size
        self.aggregator = Aggregator(embed_dim)
        self.camera_head = nn.Linear(1, 1) if enable_camera else None
        self.point_head = nn.Linear(1, 1) if enable_point else None
        self.depth_head = nn.Linear(1, 1) if enable_depth else None
        self.track_head = nn.Linear(1, 1) if enable_track else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled() and not self.training
        batch, views, channels, height, width = images.shape
        assert (batch, channels) == (1, 3) and max(height, width) == self.img_size
        assert height % self.patch_size == 0 and width % self.patch_size == 0
        known = self.aggregator
        if views > known.memory:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        encodings, depths, confidences = [], [], []
        for view, picture in enumerate(images[0]):
            viewmat, fov_w, fov_h, depth, confidence = self._view(view, picture)
            quaternion = torch.from_numpy(Rotation.from_matrix(viewmat[:3, :3].numpy()).as_quat()).float()
            translation = viewmat[:3, 3] * known.unit
            # Of any length, as a network leaves it.
            encodings.append(torch.cat([translation, 1.7 * quaternion, torch.stack([fov_h, fov_w])]))
            depths.append(depth * known.unit)
            confidences.append(confidence)
        return {
            "pose_enc": torch.stack(encodings)[None],
            "depth": torch.stack(depths)[None, ..., None],
            "depth_conf": torch.stack(confidences)[None],
        }

    def _view(self, view: int, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        height, width = picture.shape[-2:]
        content = (picture < 1).any(dim=0)
        rows, columns = content.any(dim=1).nonzero()[:, 0], content.any(dim=0).nonzero()[:, 0]
        inner_width, inner_height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        fx, fy = self.aggregator.focals[view] * torch.stack([inner_width, inner_height])
        K = torch.tensor([[fx, 0, width / 2], [0, fy, height / 2], [0, 0, 1]])
        expected, depth = planes.render(Cameras(self.aggregator.viewmats[view : view + 1], K[None], width, height))
        # Whatever the photograph is not what that camera sees, in this place, is not believed.
        difference = (expected[0] - picture).abs().mean(dim=0)
        confidence = 1 + torch.exp(self.aggregator.surest - 60 * difference)
        first = torch.linalg.inv(self.aggregator.viewmats[0])
        fov_w, fov_h = 2 * torch.atan(width / 2 / fx), 2 * torch.atan(height / 2 / fy)
        return self.aggregator.viewmats[view] @ first @ WORLD, fov_w, fov_h, depth[0], confidence
