"""What the U-Net attends to: text tokens, then tokens of the reference image."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class PromptEmbeddings(ModelMixin, ConfigMixin):
    """The two prompts of the model as ready-made text tokens, so that inference needs no text tower.

    The full-size model's are those of "Rotating view of a scene" and "" through its text tower.

    Args:
        tokens: number of text tokens.
        dim: their width.
    """

    @register_to_config
    def __init__(self, tokens: int = 77, dim: int = 1024) -> None:
        super().__init__()
        self.positive = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.negative = nn.Parameter(torch.zeros(1, tokens, dim))

    def forward(self, drop: Tensor) -> Tensor:
        """Text tokens [B, tokens, dim]: the negative prompt's where `drop` [B] is set."""
        return torch.where(drop.to(self.positive.device)[:, None, None], self.negative, self.positive)


class ContextEncoder(nn.Module):
    """Builds contexts from reference images.

    Args:
        prompt: text tokens.
        image_encoder: image tower, images [B, 3, H, W] in [0, 1] -> tokens.
        image_projector: tokens -> context tokens.
    """

    def __init__(self, prompt: PromptEmbeddings, image_encoder: nn.Module, image_projector: nn.Module) -> None:
        super().__init__()
        self.prompt, self.image_encoder, self.image_projector = prompt, image_encoder, image_projector

    def forward(self, references: Tensor, drop_text: Tensor, drop_image: Tensor) -> Tensor:
        """Context [B, L, C] for reference images [B, 3, H, W] in [0, 1].

        `drop_text` [B] replaces the prompt by the negative one, `drop_image` [B] the image by mid grey: the image of an
        all-zero tensor in [-1, 1], sent through tower and projector like any other.
        """
        dropped = drop_image.to(references.device)[:, None, None, None]
        images = torch.where(dropped, torch.full_like(references, 0.5), references)
        tokens = self.image_projector(self.image_encoder(images))
        return torch.cat([self.prompt(drop_text), tokens], dim=1)
