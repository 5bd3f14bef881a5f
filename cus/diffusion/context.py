"""The context tokens of the U-Net: text tokens, then tokens of the reference image."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class PromptEmbeddings(ModelMixin, ConfigMixin):
    """The model's two prompts as precomputed text tokens, so that inference needs no text tower.

    Those of the full-size model are "Rotating view of a scene" and "", encoded by its text tower.

    Args:
        tokens: number of text tokens.
        dim: width of the tokens.
    """

    @register_to_config
    def __init__(self, tokens: int = 77, dim: int = 1024) -> None:
        super().__init__()
        self.positive = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.negative = nn.Parameter(torch.zeros(1, tokens, dim))

    def forward(self, drop: Tensor) -> Tensor:
        """Text tokens [B, tokens, dim]; those of the negative prompt where `drop` [B] is set."""
        return torch.where(drop.to(self.positive.device)[:, None, None], self.negative, self.positive)


class ContextEncoder(nn.Module):
    """Builds contexts from reference images.

    Args:
        prompt: text tokens.
        image_encoder: image tower that maps images [B, 3, H, W] in [0, 1] to tokens.
        image_projector: maps these tokens to context tokens.
    """

    def __init__(self, prompt: PromptEmbeddings, image_encoder: nn.Module, image_projector: nn.Module) -> None:
        super().__init__()
        self.prompt, self.image_encoder, self.image_projector = prompt, image_encoder, image_projector

    def forward(self, references: Tensor, drop_text: Tensor, drop_image: Tensor) -> Tensor:
        """Context [B, L, C] for reference images [B, 3, H, W] in [0, 1].

        `drop_text` [B] replaces the prompt by the negative one, `drop_image` [B] the image by mid grey, i.e. an
        all-zero tensor in [-1, 1], which passes through tower and projector like any other.
        """
        dropped = drop_image.to(references.device)[:, None, None, None]
        images = torch.where(dropped, torch.full_like(references, 0.5), references)
        tokens = self.image_projector(self.image_encoder(images))
        return torch.cat([self.prompt(drop_text), tokens], dim=1)
