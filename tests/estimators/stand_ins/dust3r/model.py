"""The network: knows its cameras from its checkpoint and answers with the true point maps of a pair."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from cus.cameras import Cameras
from tests.estimators import planes

VIEWS = 4  # that a checkpoint knows


class AsymmetricCroCo3DStereo(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.viewmats = nn.Parameter(torch.zeros(VIEWS, 4, 4))
        self.focals = nn.Parameter(torch.zeros(VIEWS))  # over the longest side
        self.unit = nn.Parameter(torch.ones(1))
        self.surest = nn.Parameter(torch.full((1,), 5.0))
        self.memory = nn.Parameter(torch.full((1,), float(VIEWS)))
        self.width = nn.Parameter(torch.zeros(width))
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @classmethod
    def from_pretrained(cls, name: str, *, strict: bool = False, **options) -> "AsymmetricCroCo3DStereo":
        config = json.loads((Path(name) / "config.json").read_text())
        model = cls(**config, **options)
        load_model(model, str(Path(name) / "model.safetensors"), strict=strict)
        return model

    def points(self, view: dict) -> tuple[Tensor, Tensor, Tensor]:
        """Points [h, w, 3] of a view in its own camera, confidences [h, w], and its world-to-camera matrix."""
        index, picture = int(view["idx"]), (view["img"][0] + 1) / 2
        if index in self.seen:
            return self.seen[index]
        height, width = picture.shape[-2:]
        assert tuple(view["true_shape"][0]) == (height, width) and max(height, width) == 512
        assert height % 16 == 0 and width % 16 == 0 and view["instance"] == str(index)
        focal = self.focals[index] * 512
        # Pixels at whole numbers about the middle (w / 2, h / 2), as that code has them.
        K = torch.tensor([[focal, 0, width / 2 + 0.5], [0, focal, height / 2 + 0.5], [0, 0, 1]])
        camera = Cameras(self.viewmats[index : index + 1], K[None], width, height)
        expected, depths = planes.render(camera)
        confidences = 1 + torch.exp(self.surest - 60 * (expected[0] - picture).abs().mean(dim=0))
        world = camera.backproject(depths)[0]
        self.seen[index] = _moved(camera.viewmats[0], world) * self.unit, confidences, camera.viewmats[0]
        return self.seen[index]

    def forward(self, view1: dict, view2: dict) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert not torch.is_grad_enabled() and not self.training
        points1, confidences1, viewmat1 = self.points(view1)
        points2, confidences2, viewmat2 = self.points(view2)
        between = viewmat1 @ torch.linalg.inv(viewmat2)
        between[:3, 3] *= self.unit
        return (
            {"pts3d": points1, "conf": confidences1},
            {"pts3d_in_other_view": _moved(between, points2), "conf": confidences2},
        )


def _moved(matrix: Tensor, points: Tensor) -> Tensor:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
