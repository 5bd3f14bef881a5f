"""DINO similarity: the similarity of two pictures according to a self-supervised vision transformer."""

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.errors import InputError
from cus.evaluation.metrics.inputs import checked

if TYPE_CHECKING:
    from transformers import Dinov2Model

DINO = "facebook/dinov2-base"
_SHORT_SIDE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as in DINOv2's training


class DinoSimilarity:
    """Cosine similarity of the class tokens of DINOv2, in [-1, 1]; 1 for equal pictures.

    Pictures are resized to 224 pixels on their shorter side, and to whole patches on the longer, where the model
    interpolates its position embedding: nothing is cropped. A class token describes a whole picture, so there is no
        mask.

    Args:
        model: DINOv2 in evaluation mode, with its weights (`load`).
    """

    name = "dino"
    label = "DINO"
    unit = ""
    higher_is_better = True
    takes_mask = False

    def __init__(self, model: "Dinov2Model") -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, source: str | os.PathLike[str] = DINO, device: torch.device | str = "cpu") -> "DinoSimilarity":
        """Load the metric's weights from a folder or the Hub's local cache; nothing is downloaded.

        Args:
            source: Folder written by `save_pretrained`, or the Hub id of a DINOv2 model in the cache.
            device: Device of the model.

        Raises:
            InputError: the source is not a complete DINOv2 model.
        """
        from safetensors import SafetensorError
        from transformers import Dinov2Config, Dinov2Model  # imported here because it takes seconds

        remedy = f"download one once (hf download {DINO}) or name a folder with one"
        try:
            settings = Dinov2Config.get_config_dict(source, local_files_only=True)[0]
            if settings.get("model_type") != "dinov2":
                raise InputError(
                    f"{source} holds a model of type {settings.get('model_type')!r}, not 'dinov2': {remedy}"
                )
            loaded: Any = Dinov2Model.from_pretrained(source, local_files_only=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"DINO needs {source}, but no folder or local cache holds it complete and readable: {remedy}"
            ) from error
        model, found = loaded
        if found["missing_keys"] or found["mismatched_keys"]:
            raise InputError(f"{source} lacks weights of DINOv2 or has them in other shapes: {remedy}")
        return cls(model.to(device))

    @torch.inference_mode()
    def __call__(self, image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
        """Cosine similarity of the pictures' class tokens; raises ValueError for a mask."""
        if mask is not None:
            raise ValueError("DINO similarity is of whole pictures and takes no mask")
        image, target, _ = checked(image, target, None)
        tokens = self.model(pixel_values=self._prepared(torch.stack([image, target]))).last_hidden_state[:, 0]
        similarity = float(F.cosine_similarity(tokens[0].double(), tokens[1].double(), dim=0))
        return max(-1.0, min(1.0, similarity))

    def _prepared(self, pictures: Tensor) -> Tensor:
        """Resize and normalise [2, 3, H, W] in [0, 1], on the model's device."""
        patch: Any = self.model.config.patch_size
        scale = _SHORT_SIDE / min(pictures.shape[-2:])
        size = [max(round(side * scale / patch), 1) * patch for side in pictures.shape[-2:]]
        pictures = pictures.to(self.model.device, torch.float32)
        pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (pictures.new_tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        return (pictures - mean) / std
