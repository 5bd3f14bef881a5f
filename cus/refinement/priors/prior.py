"""The interface of priors: diffusion models that judge enlarged photographs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from cus.conditioning import Conditioning
from cus.diffusion.lora import adapt_all
from cus.diffusion.schedule import NoiseSchedule
from cus.refinement.distillation import Score

# Side of the windows that the critic learns from, in latent pixels.
WINDOW = 48


@dataclass(frozen=True)
class CriticOptions:
    """The critic of VSD: the prior with a LoRA of all its layers.

    Attributes:
        rank: rank of the LoRA.
        rate: learning rate of Adam.
        seed: seed of the windows that it learns from.
    """

    rank: int = 8
    rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Shown:
    """What a prior is shown of one view.

    Attributes:
        photograph: [3, h, w] in [0, 1], the photograph.
        conditioning: one frame of the enlarged size: the photographs' fused warp into this view, with layers.
        reference: [1, 3, h, w] in [0, 1], the image context.
    """

    photograph: Tensor
    conditioning: Conditioning
    reference: Tensor


class PriorView(Score, Protocol):
    """A prior for one view: its score, and its latents."""

    def encode(self, image: Tensor) -> Tensor:
        """Latents of an enlarged picture [3, H, W] in [0, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The picture [3, H, W] in [0, 1] of latents."""
        ...


class Prior(ABC):
    """A diffusion model and, for VSD, its critic.

    Attributes:
        schedule: its noise levels.
        factor: the only factor by which it enlarges; None: any.
        has_spread: whether it has a distribution; False for a regression, which has a single estimate.
    """

    schedule: NoiseSchedule
    factor: int | None = None
    has_spread: bool = True

    def __init__(self, unet: Any, critic: CriticOptions) -> None:
        self.unet, self.options = unet.requires_grad_(False), critic
        self.draws = torch.Generator().manual_seed(critic.seed)
        self.optimizer: torch.optim.Optimizer | None = None
        # Rises whenever the critic learns, so that its estimates need not be made twice.
        self.version = 0

    @classmethod
    @abstractmethod
    def open(
        cls, source: str, device: torch.device, dtype: torch.dtype, critic: CriticOptions, lora: str | None = None
    ) -> Self:
        """Load the weights. Raises InputError if they are missing or of another model."""

    @abstractmethod
    def views(self, shown: Sequence[Shown]) -> list[PriorView]:
        """The prior for each view."""

    def as_critic(self, on: bool) -> None:
        """Turn the critic's LoRA on or off; it is added, without effect, when first turned on."""
        if on and self.optimizer is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.options.seed)
                added = adapt_all(self.unet, self.options.rank)
            self.optimizer = torch.optim.Adam(added, lr=self.options.rate)
        if self.optimizer is not None:
            (self.unet.enable_adapters if on else self.unet.disable_adapters)()

    def step(self, loss: Tensor) -> None:
        """One step of the critic along the gradient of a loss."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.version += 1

    def window(self, height: int, width: int, multiple: int = 1) -> tuple[slice, slice]:
        """A random window of a grid of latents, with sides of at most `WINDOW`, at multiples of a number."""
        slices = []
        for side in (height, width):
            size = min(side, -(-WINDOW // multiple) * multiple)
            starts = (side - size) // multiple + 1
            start = int(torch.randint(starts, (1,), generator=self.draws)) * multiple
            slices.append(slice(start, start + size))
        return slices[0], slices[1]
