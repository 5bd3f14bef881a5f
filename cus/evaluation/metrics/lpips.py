"""LPIPS (Zhang et al. 2018) through torchmetrics: the only file that imports it, and only when it is used."""

import pickle
import urllib.parse
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor

from cus.errors import InputError
from cus.evaluation.metrics.inputs import checked, masked_mean

_BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
_SMALLEST = 64  # below, the deepest feature maps are empty or a single pixel


class Lpips:
    """Distance of deep features, weighted by people's judgements; 0 for equal pictures, lower is better.

    The backbone's ImageNet weights must lie where torchvision keeps them; nothing is downloaded here. With a mask, the
    map of distances at the pictures' own size (features enlarged bilinearly) is averaged over the mask, and
    beyond it the target stands in for the image.

    Args:
        backbone: "alex", the authors' choice for evaluation; "vgg", which many papers report; or "squeeze".
        device: where the network runs.

    Raises:
        InputError: torchmetrics or the backbone's weights are missing.
    """

    unit = ""
    higher_is_better = False
    takes_mask = True

    def __init__(
        self, backbone: Literal["alex", "vgg", "squeeze"] = "alex", device: torch.device | str = "cpu"
    ) -> None:
        self.name = "lpips" if backbone == "alex" else f"lpips_{backbone}"
        self.label = f"LPIPS ({backbone})"
        self.device = torch.device(device)
        self.network = _load(backbone).to(self.device)

    @torch.inference_mode()
    def __call__(self, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
        """See `Metric`; pictures of at least 64x64."""
        image, target, mask = checked(image, target, mask, smallest=_SMALLEST)
        pair = [picture.to(self.device, torch.float32)[None] for picture in (image, target)]
        self.network.spatial = mask is not None
        return masked_mean(self.network(*pair, normalize=True)[0, 0].double().cpu(), mask)


def _load(backbone: Literal["alex", "vgg", "squeeze"]) -> Any:
    """The network of torchmetrics with its trained weights."""
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
