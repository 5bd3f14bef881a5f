"""Shift-tolerant perceptual distance: ST-LPIPS (Ghildyal and Liu, ECCV 2022), as a differentiable network; and LPIPS.

The trained weights, including the backbone, are in the wheel `stlpips-pytorch` (BSD-2), so nothing is downloaded. Its
own modules are not imported: they need packages that the distance does not.
"""

import importlib.util
import pickle
import urllib.parse
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from cus.errors import InputError

Backbone = Literal["alex", "vgg"]
PACKAGE = "stlpips_pytorch"
SMALLEST = 64  # minimum side in pixels; in smaller pictures the deepest maps are a few cells of mostly padding
_WEIGHTS = "weights/vST0.0/{}_shift_tolerant.pth"

# Layers in the order of the checkpoint, whose names number them; each row ends in a feature map that is compared.
# "c64k11p2": convolution to 64 channels, kernel 11, padding 2; "m3": maximum over 3x3; "b": blur and halve; "r": ReLU.
_LAYERS: dict[Backbone, tuple[str, ...]] = {
    "alex": ("c64k11p2 b r", "m3 b c192k5p2 r", "m3 b c384k3p1 r", "c256k3p1 r", "c256k3p1 r"),
    "vgg": (
        "c64k3p1 r c64k3p1 r",
        "m2 b c128k3p1 r c128k3p1 r",
        "m2 b c256k3p1 r c256k3p1 r c256k3p1 r",
        "m2 b c512k3p1 r c512k3p1 r c512k3p1 r",
        "m2 b c512k3p1 r c512k3p1 r c512k3p1 r",
    ),
}
_BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


class BlurPool(nn.Module):
    """Halves maps [N, C, h, w] after a binomial blur, with a mirrored border of two cells."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", (row[:, None] * row).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, h // 2 + 1, w // 2 + 1]."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class PerceptualDistance(nn.Module):
    """ST-LPIPS between pictures: weighted squared differences of normalised features, at five depths.

    Frozen and in evaluation mode; gradients flow to the pictures.

    Args:
        backbone: "alex", which best matches people's judgements of quality; or "vgg", the usual training loss.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone = "alex") -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.slices = nn.ModuleList()
        self.weights = nn.ParameterList()
        channels, index = 3, 0
        for row in _LAYERS[backbone]:
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for word in row.split():
                if word[0] == "c":
                    width, kernel, padding = (int(part) for part in word[1:].replace("p", "k").split("k"))
                    layers[str(index)] = nn.Conv2d(channels, width, kernel, padding=padding)
                    channels = width
                else:
                    pool = nn.MaxPool2d(int(word[1:]), stride=1) if word[0] == "m" else nn.ReLU()
                    layers[str(index)] = BlurPool(channels) if word == "b" else pool
                index += 1
            self.slices.append(nn.Sequential(layers))
            self.weights.append(nn.Parameter(torch.zeros(1, channels, 1, 1)))
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, backbone: Backbone = "alex") -> "PerceptualDistance":
        """The distance with its trained weights, from the installed package `stlpips-pytorch`.

        Raises:
            InputError: the package is missing or its file is damaged.
        """
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise InputError(
                "ST-LPIPS needs the weights in the package stlpips-pytorch: pip install --no-deps stlpips-pytorch"
            )
        path = Path(next(iter(found.submodule_search_locations))) / _WEIGHTS.format(backbone)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            distance = cls(backbone)
            distance.load_state_dict({_own_name(name): value for name, value in state.items()})
        except (OSError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
            raise InputError(
                f"{path} cannot be read as ST-LPIPS's weights: "
                "pip install --no-deps --force-reinstall stlpips-pytorch==0.0.2"
            ) from error
        return distance

    def features(self, images: Tensor) -> list[Tensor]:
        """Normalised feature maps of pictures [N, 3, H, W] in [0, 1], finest first: [N, C_i, h_i, w_i]."""
        x = (2 * images - 1 - self.shift) / self.scale
        found = []
        for part in self.slices:
            x = part(x)
            found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found

    def maps(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        """Distance maps [N, 1, h_i, w_i], one per depth; their means add up to the distance.

        Raises:
            ValueError: shapes differ or are not [N, 3, H, W] of at least 64x64.
        """
        if (
            images.shape != targets.shape
            or images.ndim != 4
            or images.shape[1] != 3
            or min(images.shape[2:]) < SMALLEST
        ):
            raise ValueError(
                f"images are {tuple(images.shape)} and targets {tuple(targets.shape)}; expected the same "
                f"[N, 3, H, W], at least {SMALLEST} pixels a side"
            )
        pairs = zip(self.features(images), self.features(targets), self.weights, strict=True)
        return [((a - b).square() * weight).sum(dim=1, keepdim=True) for a, b, weight in pairs]

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances [N] of pictures [N, 3, H, W] in [0, 1]; 0 for equal ones, about 0.7 for unrelated ones."""
        return torch.stack([found.mean(dim=(1, 2, 3)) for found in self.maps(images, targets)]).sum(dim=0)


def _own_name(name: str) -> str:
    """Map the checkpoint's name of a tensor to ours."""
    if name.startswith("scaling_layer."):
        return name.removeprefix("scaling_layer.")
    if name.startswith("lin"):
        return f"weights.{name[3]}"
    slice_name, layer = name.removeprefix("net.slice").split(".", 1)
    return f"slices.{int(slice_name) - 1}.{layer}"


def load_lpips(backbone: Literal["alex", "vgg", "squeeze"]) -> Any:
    """LPIPS (Zhang et al. 2018): torchmetrics' network with its weights, frozen; gradients flow to the pictures.

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
