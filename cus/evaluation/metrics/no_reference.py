"""No-reference metrics through pyiqa: the only file that imports it, and only on use."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cus.errors import InputError
from cus.evaluation.metrics.inputs import PictureTooSmall, checked_image


@dataclass(frozen=True)
class _Known:
    """A metric of pyiqa's: its label and direction, the file of its weights, and its minimum picture size."""

    label: str
    higher_is_better: bool
    weights: str
    smallest: tuple[int, int]


KNOWN = {
    "metaiqa": _Known("MetaIQA", True, "Metaiqa_livec.pth", (1, 1)),
}


class NoReference:
    """MetaIQA (in [0, 1], higher is better) of a single picture, by pyiqa.

    It judges how natural a picture looks, not whether it matches the scene, and applies to whole pictures: no mask.
    pyiqa's licence is non-commercial. Its weights must be in its cache; nothing is downloaded here.

    Args:
        name: "metaiqa" (pyiqa 0.1.16 or newer).
        device: device of the network.

    Raises:
        InputError: pyiqa, the metric or its weights are missing.
    """

    unit = ""
    takes_mask = False

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.known = KNOWN[name]
        self.name, self.label, self.higher_is_better = name, self.known.label, self.known.higher_is_better
        self.metric = _create(name, self.known, torch.device(device))

    @torch.inference_mode()
    def __call__(self, image: Tensor, target: Tensor | None = None, mask: Tensor | None = None) -> float:
        """Score of the image; the target is ignored."""
        if mask is not None:
            raise ValueError(f"{self.label} is of whole pictures and takes no mask")
        image = checked_image(image)
        sides, smallest = sorted(image.shape[1:]), self.known.smallest
        if sides[0] < smallest[0] or sides[1] < smallest[1]:
            raise PictureTooSmall(f"{self.label} needs {smallest[0]}x{smallest[1]} pixels, got {sides[0]}x{sides[1]}")
        try:
            score = float(self.metric(image.float()[None]))
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f"{self.label} is not defined for a picture without texture, such as this one")
        return score


def _create(name: str, known: _Known, device: torch.device) -> Any:
    """The metric as pyiqa builds it."""
    if importlib.util.find_spec("pyiqa") is None:
        raise InputError(f"{known.label} needs pyiqa, which is not installed: pip install 'pyiqa>=0.1.16'")
    fetch = f"fetch it once: python -c \"import pyiqa; pyiqa.create_metric('{name}')\""
    file = Path(torch.hub.get_dir()) / "pyiqa" / known.weights
    if not file.is_file():
        raise InputError(f"{known.label} needs {file}, which is not there; {fetch}")
    try:
        import pyiqa  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError(f"pyiqa is installed but cannot be imported ({error}): pip install --upgrade pyiqa") from error
    if name not in pyiqa.list_models():
        raise InputError(f"{known.label} is not among this pyiqa's metrics: pip install 'pyiqa>=0.1.16'")
    return pyiqa.create_metric(name, device=device)
