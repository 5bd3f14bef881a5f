"""Structure images from real coarse frames (Section III-D): pass 1 of a trained model, fused as inference fuses it.

Imitations of such images, made of true geometry, taught models what they never meet: with them the second pass lost.
"""

import json

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.closeup import CloseUp, close_up, generate, given, render_cloud
from cus.conditioning import render_points
from cus.datasets.clips import Clip
from cus.datasets.other_warps import References, shown_by
from cus.datasets.structures import RECORD
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.loading import find_model, load_model
from cus.digests import tensors_digest
from cus.errors import InputError
from cus.files import read_json
from cus.inference.settings import torch_device, torch_dtype
from cus.output_folder import OutputFolder


class CoarsePass:
    """What a model's second pass would be shown: of a path of cameras, or of a clip as it is stored.

    Args:
        model: "mini", a folder, or a Hub id.
        frames: length of the path that pass 1 makes, the clip's own frames included; of stored clips their own length.
        device: a torch device, or "auto".

    Raises:
        InputError: there is no such model.
    """

    def __init__(self, model: str, frames: int = 1, device: str = "auto") -> None:
        self.device = torch_device(device)
        self.pipeline = load_model(find_model(model), self.device, dtype=torch_dtype("auto", self.device))
        self.model, self.frames = model, frames

    def record(self, folder: OutputFolder) -> None:
        """Note in a folder whose structure images it holds: those of two models must not be mixed.

        Raises:
            InputError: it holds those of other weights.
        """
        digest = weights_digest(self.pipeline)
        if folder.is_ours(RECORD) and read_json(folder.path / RECORD).get("weights") != digest:
            raise InputError(
                f"the structure images in {folder.path} were made with other weights than {self.model} has now: give "
                "another out= for the new ones"
            )
        if not folder.is_ours(RECORD):
            folder.write(RECORD, lambda part: part.write_text(json.dumps({"weights": digest})))

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

    @torch.no_grad()
    def of_clip(self, clip: Clip, conditioning: str, seed: int, latents: Tensor | None = None) -> Tensor:
        """Structure images [T, 3, H, W] of a stored clip.

        Args:
            clip: of whole frames, with its geometry.
            conditioning: which of its warps the model is shown, "" is its own.
            seed: of all noise.
            latents: [T, C, h, w], what pass 1 has generated for it with this seed (`cache_generated`); None: now.

        Raises:
            InputError: the clip has no such warp or no geometry, or nothing of pass 1 agrees.
        """
        shown = shown_by(clip, conditioning)
        if latents is None:
            frames = generate(self.pipeline, clip.references, shown, seed=seed)
        else:
            frames = self.pipeline.decode_latents(latents, shown, generator=torch.Generator().manual_seed(seed))
        assert clip.geometry is not None
        scene = clip.geometry.estimate(clip.references).to(self.device)
        return render_cloud(CloseUp(scene, clip.geometry.path, shown, frames)).images.cpu()


def weights_digest(pipeline: CloseUpShotPipeline) -> str:
    """SHA-256 of the weights of a pipeline's networks."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    weights = {f"{name}.{key}": value.cpu() for name, part in parts.items() for key, value in part.state_dict().items()}
    return tensors_digest(weights)
