"""The evaluation settings that are also options of `cus-eval`."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from cus.limits import limited
from cus.options import option, parsed

Protocols = Literal["closeup", "regular", "both"]
SMALLEST_SIZE, LARGEST_SIZE = 64, 8192


def _size(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueError(f"expected a whole number of pixels, got {text!r:.60}")
    if int(text) == 0:  # in a config file 0 is the default
        raise ValueError(f"expected {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got 0; leave it out for the model's")
    return int(text)


@dataclass
class EvalChoices:
    """What to evaluate; these override a config file and key=value.

    Attributes:
        protocol: closeup: crops x4 and x5 and photographs taken closer; regular: whole photographs; both: with column
            groups by protocol
        scenes: names of the scenes to evaluate (default: all)
        model: mini, a folder written by save_pretrained, or a Hub id
        metrics: psnr psnr_cc ssim gmsd haarpsi st_lpips lpips lpips_vgg dino niqe metaiqa (default: all that are
            available)
        size: longest side of references, frames and truth, in pixels; 0 takes the split file's, else the model's
        poses: given: those of the data set; estimated: the references' by the estimator, aligned, and the target's by
            features in their scene; the tables show the errors
        seed: seed of every random draw, including the bootstrap
        device: auto, cpu, cuda, cuda:1, ...
    """

    protocol: Annotated[str, option("closeup|regular|both")] = limited("closeup", choices=get_args(Protocols))
    scenes: Annotated[list[str] | None, option("NAME [NAME ...]")] = None
    model: Annotated[str, option("MODEL")] = "mini"
    metrics: Annotated[list[str] | None, option("NAME [NAME ...]")] = None
    size: Annotated[int, parsed("PIXELS", _size), option()] = 0
    poses: Annotated[str, option("given|estimated")] = limited("given", choices=("given", "estimated"))
    seed: Annotated[int, option("N")] = 0
    device: Annotated[str, option("DEVICE")] = "auto"
