"""Structure images from real coarse frames (Section III-D): pass 1 of a trained model, fused as inference fuses it.

Imitations of such images, made of true geometry, taught models what they never meet: with them the second pass lost.
"""

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.closeup import close_up, given
from cus.conditioning import render_points
from cus.datasets.other_warps import References
from cus.diffusion.loading import find_model, load_model
from cus.digests import tensors_digest
from cus.inference.settings import torch_device, torch_dtype


class CoarsePass:
    """A `procedural.photo_clips.Guide`: what a model's second pass would be shown of a path.

    Args:
        model: "mini", a folder, or a Hub id.
        frames: length of the path that pass 1 makes, the clip's own frames included.
        device: a torch device, or "auto".

    Raises:
        InputError: there is no such model.
    """

    def __init__(self, model: str, frames: int, device: str = "auto") -> None:
        self.device = torch_device(device)
        self.pipeline = load_model(find_model(model), self.device, dtype=torch_dtype("auto", self.device))
        self.frames = frames

    def digest(self) -> str:
        """SHA-256 of the model's weights: structure images of two models must not be mixed."""
        parts = {name: part for name, part in self.pipeline.components.items() if isinstance(part, torch.nn.Module)}
        weights = {
            f"{name}.{key}": value.cpu() for name, part in parts.items() for key, value in part.state_dict().items()
        }
        return tensors_digest(weights)

    @torch.no_grad()
    def __call__(self, references: References, path: Cameras, count: int) -> Tensor:
        """Structure images [count, 3, H, W] of the last `count` cameras of a path of whole pictures.

        The path is thinned to the frames wanted; its last cameras stay, since at inference a frame's own points are in
        the cloud that guides it.

        Raises:
            InputError: the path sees nothing of the scene, or nothing of pass 1 agrees.
        """
        early = len(path) - count
        others = min(max(self.frames - count, 0), early)
        chosen = torch.linspace(0, early - 1, others).round().int().tolist() if others else []
        cameras = Cameras.cat([path[i] for i in [*chosen, *range(early, len(path))]])
        made = close_up(
            references.estimate,
            cameras,
            self.pipeline,
            passes=1,
            photographs=references.photographs,
            each=given(agreement=references.agreed),
        )
        last = cameras[len(cameras) - count :].to(made.cloud.points.device)
        return render_points(made.cloud.points, made.cloud.colors, last).images
