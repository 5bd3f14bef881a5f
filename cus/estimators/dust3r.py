"""DUSt3R (Wang et al. 2024): point maps of pairs of views by a network, aligned by an optimisation.

Assumptions on the code, https://github.com/naver/dust3r, all of it used only in this file:

- `dust3r.model.AsymmetricCroCo3DStereo.from_pretrained(folder, strict=True)` reads `config.json` and
  `model.safetensors`, like huggingface_hub's mixin for torch modules.
- A view is a dict of `img` [1, 3, h, w] in [-1, 1], `true_shape` int32 [[h, w]], `idx` and `instance`; h and w are
  multiples of 16, the longer side is 512, pixels are square. Views may differ in size.
- `dust3r.image_pairs.make_pairs(views, scene_graph="complete", prefilter=None, symmetrize=True)`, then
  `dust3r.inference.inference(pairs, model, device, batch_size=1, verbose=False)`, then
  `dust3r.cloud_opt.global_aligner(output, device=device, mode=mode)` with a `GlobalAlignerMode`: `PairViewer` for two
  views; `PointCloudOptimizer` for more, which is run by
  `compute_global_alignment(init="mst", niter=300, schedule="linear", lr=0.01)`.
- The aligner gives `get_im_poses()` [S, 4, 4] camera-to-world with OpenCV axes, `get_focals()` [S] or [S, 1],
  `get_principal_points()` [S, 2] and `get_depthmaps()` [h, w] each, in one world and unit of its own, and `im_conf`
  [h, w] each, >= 1. The first pixel is at (0, 0) there and at (0.5, 0.5) here.
- `PairViewer` puts both cameras in the same place if it finds no pose between them.

Its masks (confidence above 3) are not used: reliability is determined in the same way for all estimators.
"""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.estimator import Network
from cus.estimators.framing import FramedViews, FrameRule
from cus.estimators.predictions import Prediction


@dataclass(frozen=True)
class AlignmentSettings:
    """Settings of the optimisation for more than two views.

    Attributes:
        iterations: number of steps.
        learning_rate: initial learning rate.
        schedule: schedule of the learning rate, "linear" or "cosine".
        seed: seed of the random start.
    """

    iterations: int = 300
    learning_rate: float = 0.01
    schedule: str = "linear"
    seed: int = 0


class DUSt3R(Network):
    """DUSt3R, for two or more views.

    Args:
        alignment: settings of the optimisation for more than two views.
    """

    name = "dust3r"
    title = "DUSt3R"
    repositories = ("naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt",)
    licence = "CC BY-NC-SA 4.0: not for commercial use"
    package = "dust3r"
    install = (
        "git clone --recursive https://github.com/naver/dust3r && pip install roma einops trimesh, with the clone's "
        "folder on PYTHONPATH (it is no installable package)"
    )
    rule = FrameRule(longest_side=512, patch=16, step=2, fill=None, one_size=False)

    def __init__(self, alignment: AlignmentSettings = AlignmentSettings()) -> None:
        self.alignment = alignment

    def import_package(self) -> object:
        """Import the network's class."""
        return _network_class()

    def check(self, path: Path, weights: str) -> None:
        """Refuse a file without `config.json` next to it.

        For example the `.pth` files of the project's own server: pickles with arguments that loading would evaluate.
        """
        if path.name not in self.files:
            raise InputError(
                f"{path} is no checkpoint of DUSt3R that can be read safely; give a Hub id such as "
                f"{self.repositories[0]}, or a folder with its model.safetensors and config.json"
            )
        if not (path.parent / "config.json").is_file():
            raise InputError(f"{path.parent} lacks config.json; get the checkpoint {weights} again")

    def read(self, path: Path) -> Any:
        """Read `config.json` and the weights next to it."""
        return _network_class().from_pretrained(str(path.parent), strict=True)

    def run(self, model: Any, framed: FramedViews, given: Cameras | None) -> dict[str, Any]:
        """Point maps of all ordered pairs of views, for the aligner."""
        views = [
            {
                "img": picture[None] * 2 - 1,
                "true_shape": np.array([picture.shape[-2:]], dtype=np.int32),
                "idx": index,
                "instance": str(index),
            }
            for index, picture in enumerate(framed.pictures)
        ]
        make_pairs, inference = _function("image_pairs", "make_pairs"), _function("inference", "inference")
        pairs = make_pairs(views, scene_graph="complete", prefilter=None, symmetrize=True)
        # Progress is reported through the caller's callback.
        with redirect_stdout(io.StringIO()):
            return inference(pairs, model, framed.pictures[0].device, batch_size=1, verbose=False)

    def prediction(self, output: dict[str, Any], framed: FramedViews, given: Cameras | None) -> Prediction:
        """Align the point maps of all pairs in one world."""
        return align_pairs(output, len(framed.pictures), framed.pictures[0].device, self.alignment)


def align_pairs(output: dict[str, Any], views: int, device: torch.device, settings: AlignmentSettings) -> Prediction:
    """Align the point maps of all pairs in one world.

    Raises:
        InputError: no pose was found between two views.
    """
    global_aligner, modes = _function("cloud_opt", "global_aligner"), _function("cloud_opt", "GlobalAlignerMode")
    seeded = [device] if device.type == "cuda" else []
    with redirect_stdout(io.StringIO()), torch.random.fork_rng(seeded), torch.enable_grad():
        torch.manual_seed(settings.seed)
        if views == 2:
            aligner = global_aligner(output, device=device, mode=modes.PairViewer)
        else:
            aligner = global_aligner(output, device=device, mode=modes.PointCloudOptimizer)
            aligner.compute_global_alignment(
                init="mst", niter=settings.iterations, schedule=settings.schedule, lr=settings.learning_rate
            )
    c2w = aligner.get_im_poses().detach().float()
    if views == 2 and torch.equal(c2w[0], c2w[1]):
        raise InputError(
            "DUSt3R finds no pose between the two photographs; use photographs that overlap more, or the estimator "
            "'stereo'"
        )
    focals = aligner.get_focals().detach().float().reshape(views)
    centers = aligner.get_principal_points().detach().float() + 0.5
    Ks = torch.eye(3).to(focals).repeat(views, 1, 1)
    Ks[:, 0, 0] = Ks[:, 1, 1] = focals
    Ks[:, :2, 2] = centers.to(focals)
    depths, confidences = (
        [value.detach().float() for value in values] for values in (aligner.get_depthmaps(), aligner.im_conf)
    )
    return Prediction("DUSt3R", torch.linalg.inv(c2w), Ks, depths, confidences)


def _network_class() -> Any:
    from dust3r.model import AsymmetricCroCo3DStereo  # pyright: ignore[reportMissingImports]

    return AsymmetricCroCo3DStereo


def _function(module: str, name: str) -> Any:
    return getattr(import_module(f"dust3r.{module}"), name)
