"""ST-LPIPS as a metric: a learned perceptual distance that is robust to shifts of a pixel."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.evaluation.metrics.inputs import checked, masked_mean
from cus.models.perceptual import SMALLEST, Backbone, PerceptualDistance


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
