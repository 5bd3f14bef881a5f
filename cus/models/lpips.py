"""LPIPS (Zhang et al. 2018) through torchmetrics: the only file that imports it, and only on use."""

import pickle
import urllib.parse
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision

from cus.errors import InputError

_BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def load_lpips(backbone: Literal["alex", "vgg", "squeeze"]) -> Any:
    """The network of torchmetrics with its trained weights, frozen; gradients flow to the pictures.

    `network(images, targets, normalize=True)` gives distances [N, 1, 1, 1] between pictures [N, 3, H, W] in [0, 1], or
    distance maps [N, 1, H, W] with `network.spatial = True`.

    Raises:
        InputError: torchmetrics or the backbone's ImageNet weights are missing; nothing is downloaded here.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise InputError("LPIPS needs torchmetrics, which is not installed: pip install torchmetrics") from error
    model = _BACKBONES[backbone]
    weights: Any = torchvision.models.get_model_weights(model)
    url = weights.DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlparse(url).path).name
    if not file.is_file():
        raise InputError(f"LPIPS needs {model}'s ImageNet weights at {file}, which is not there: download {url} to it")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pretrained.*")
            return LearnedPerceptualImagePatchSimilarity(net_type=backbone).net.eval()
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{file} cannot be read as {model}'s weights: delete it and download {url} again") from error
