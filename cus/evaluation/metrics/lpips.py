"""LPIPS, and ST-LPIPS, which is robust to shifts of a pixel: learned perceptual distances as metrics."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.evaluation.metrics.inputs import checked, masked_mean
from cus.models.perceptual import SMALLEST, Backbone, PerceptualDistance, load_lpips

_SMALLEST = 64  # in smaller pictures the deepest feature maps are empty or a single pixel


class Lpips:
    """Distance of deep features, weighted by human judgements; 0 for equal pictures, lower is better.

    The backbone's ImageNet weights must be in torchvision's cache; nothing is downloaded here. With a mask, the map of
    distances at the pictures' size (features enlarged bilinearly) is averaged over the mask, and outside it the target
    replaces the image.

    Args:
        backbone: "alex", the authors' choice for evaluation; "vgg", reported in many papers; or "squeeze".
        device: device of the network.

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
        self.network = load_lpips(backbone).to(self.device)

    @torch.inference_mode()
    def __call__(self, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
        """LPIPS distance; pictures must be at least 64x64."""
        image, target, mask = checked(image, target, mask, smallest=_SMALLEST)
        pair = [picture.to(self.device, torch.float32)[None] for picture in (image, target)]
        self.network.spatial = mask is not None
        return masked_mean(self.network(*pair, normalize=True)[0, 0].double().cpu(), mask)


class ShiftTolerantLpips:
    """Distance of deep features that tolerates small shifts; 0 for equal pictures, lower is better.

    With a mask, the distance maps are enlarged bilinearly to the pictures' size and averaged over the mask; outside it
    the target replaces the image.

    Args:
        backbone: "alex", as in the tables, or "vgg".
        device: device of the network.

    Raises:
        InputError: the package with the weights is not installed.
    """

    name = "st_lpips"
    label = "ST-LPIPS"
    unit = ""
    higher_is_better = False
    takes_mask = True

    def __init__(self, backbone: Backbone = "alex", device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = PerceptualDistance.load(backbone).to(self.device)

    @torch.inference_mode()
    def __call__(self, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
        """ST-LPIPS distance; pictures must be at least 64x64."""
        image, target, mask = checked(image, target, mask, smallest=SMALLEST)
        pair = [picture.to(self.device, torch.float32)[None] for picture in (image, target)]
        maps = self.network.maps(*pair)
        if mask is None:
            return float(sum(found.double().mean() for found in maps))
        size = image.shape[-2:]
        large = [F.interpolate(found, size, mode="bilinear", align_corners=False) for found in maps]
        return masked_mean(torch.stack(large).sum(dim=0)[0, 0].double().cpu(), mask)
