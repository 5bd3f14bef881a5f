"""DUSt3R (Wang et al. 2024): point maps of pairs of views by a network, laid over each other by an optimisation.

What is assumed of the code, https://github.com/naver/dust3r, all of it used in this file alone:

- `dust3r.model.AsymmetricCroCo3DStereo.from_pretrained(folder, strict=True)` reads `config.json` and
  `model.safetensors`, as huggingface_hub's mixin for torch modules does.
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
- `PairViewer` puts both cameras in one place where it finds no pose between them.

Its masks (confidence above 3) are not used: what is reliable is decided for all estimators alike.
"""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators.framing import FramedViews, FrameRule, frame_views
from cus.estimators.packages import package_trouble
from cus.estimators.predictions import Prediction, explained_memory, scene_from
from cus.hub.weights import fetch_weights, find_weights
from cus.scene import SceneEstimate, check_arguments

REPOSITORY = "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"
LICENCE = "CC BY-NC-SA 4.0: not for commercial use"
INSTALL = (
    "git clone --recursive https://github.com/naver/dust3r && pip install roma einops trimesh, with the clone's folder "
    "on PYTHONPATH (it is no installable package)"
)
FILES = ("model.safetensors",)
RULE = FrameRule(longest_side=512, patch=16, step=2, fill=None, one_size=False)
STEPS = 4


@dataclass(frozen=True)
class AlignmentSettings:
    """How the optimisation over more than two views runs.

    Attributes:
        iterations: its steps.
        learning_rate: at its start.
        schedule: of the learning rate, "linear" or "cosine".
        seed: of its random start.
    """

    iterations: int = 300
    learning_rate: float = 0.01
    schedule: str = "linear"
    seed: int = 0


def missing_package() -> str:
    """Why the code cannot be used; nothing where it can."""
    return package_trouble("dust3r", "DUSt3R", _network_class)


def require_package() -> None:
    """Raises InputError, with how to install it and its licence, where the code cannot be used."""
    trouble = missing_package()
    if trouble:
        raise InputError(f"{trouble}; get it with: {INSTALL}. Licence: {LICENCE}. Or use the estimator 'stereo'")


def find_checkpoint(weights: str) -> Path | None:
    """The checkpoint on this machine, or None; see `find_weights`."""
    return find_weights(weights, FILES)


def fetch_checkpoint(weights: str) -> Path:
    """The checkpoint, downloaded if need be; see `fetch_weights`.

    Raises:
        InputError: as there, and a file without `config.json` beside it, such as the `.pth` files of the project's own
            server: those are pickles of arguments that loading would evaluate.
    """
    path = fetch_weights(weights, FILES, LICENCE)
    if path.name not in FILES:
        raise InputError(
            f"{path} is no checkpoint of DUSt3R that can be read safely; give a Hub id such as {REPOSITORY}, or a "
            "folder with its model.safetensors and config.json"
        )
    if not (path.parent / "config.json").is_file():
        raise InputError(f"{path.parent} lacks config.json; get the checkpoint {weights} again")
    return path


def estimate_dust3r(
    images: Tensor,
    cameras: Cameras | None = None,
    *,
    valid: Tensor | None = None,
    focals: Tensor | None = None,
    weights: str = REPOSITORY,
    settings: AlignmentSettings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SceneEstimate:
    """`estimate_scene` by DUSt3R on the device of the images; arguments, result and errors as there.

    Args:
        images: [V, 3, H, W].
        cameras: known cameras, or None.
        valid: [V, H, W] bool, or None.
        focals: [V] in pixels, NaN where unknown, or None.
        weights: a Hub id or a folder of a checkpoint.
        settings: of the optimisation over more than two views.
        on_progress: called with (steps done, steps in all).
    """
    check_arguments(images, cameras, valid, focals)
    report = on_progress or (lambda done, total: None)
    require_package()
    framed = frame_views(images, valid, RULE)
    with explained_memory("DUSt3R", len(images)):
        model = load_network(fetch_checkpoint(weights)).to(images.device)
        report(1, STEPS)
        output = run_network(model, framed, images.device)
        del model
        report(2, STEPS)
        prediction = align_pairs(output, len(images), images.device, settings or AlignmentSettings())
    report(3, STEPS)
    given = None if cameras is None else cameras.to(images.device)
    valid = None if valid is None else valid.to(images.device)
    scene = scene_from(prediction, framed, images, valid, given, focals)
    report(4, STEPS)
    return scene


def load_network(path: Path) -> Any:
    """The network with a checkpoint's weights, in evaluation mode on the CPU.

    Raises:
        InputError: a damaged file, or weights that are not those of its configuration.
    """
    try:
        model = _network_class().from_pretrained(str(path.parent), strict=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path.parent} cannot be loaded as DUSt3R ({reason}); get the checkpoint again") from error
    return model.eval().requires_grad_(False)


def run_network(model: Any, framed: FramedViews, device: torch.device) -> dict[str, Any]:
    """Point maps of all ordered pairs of views, as the aligner takes them."""
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
    # Progress is reported by the caller's means.
    with torch.no_grad(), redirect_stdout(io.StringIO()):
        return inference(pairs, model, device, batch_size=1, verbose=False)


def align_pairs(output: dict[str, Any], views: int, device: torch.device, settings: AlignmentSettings) -> Prediction:
    """One world from the point maps of all pairs.

    Raises:
        InputError: two views between which no pose was found.
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
