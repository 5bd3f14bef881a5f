"""The denoising network: a 3D U-Net with the architecture of ViewCrafter and DynamiCrafter, in any size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.outputs import BaseOutput
from torch import Tensor, nn
from torch.nn import functional as F

from cus.models.attention import (
    Context,
    ContextAttention,
    SpaceTransformer,
    TimeTransformer,
    TransformerShape,
    split_context,
    zero_module,
)
from cus.models.blocks import Downsample, ResBlock, Upsample
from cus.models.norm import GroupNorm


@dataclass
class UNetOutput(BaseOutput):
    """Result of `UNet.forward`: `sample` [B, out_channels, T, h, w]."""

    sample: Tensor


def _call(module: Callable[..., Tensor], *args: Any) -> Tensor:
    return module(*args)


class Stage(nn.Module):
    """A residual block and, if the level has attention, a transformer over space and one over time."""

    def __init__(self, block: ResBlock, space: SpaceTransformer | None, time: TimeTransformer | None) -> None:
        super().__init__()
        self.block = block
        self.space = space
        self.time = time

    def forward(
        self,
        maps: Sequence[Tensor],
        embedding: Tensor,
        context: Context,
        run: Callable[..., Tensor] = _call,
    ) -> Tensor:
        """Maps [B*T, C_i, h, w], joined along C, and embedding [B, E] -> maps [B*T, C', h, w].

        `run` calls each part with its inputs. Maps are joined inside the first part: if `run` stores its inputs for the
        backward pass, it stores the separate maps, which exist anyway.
        """
        x = run(self._start, embedding, *maps)
        if self.space is not None and self.time is not None:
            x = run(self.space, x, context)
            x = run(self.time, x, x.shape[0] // embedding.shape[0])
        return x

    def _start(self, embedding: Tensor, *maps: Tensor) -> Tensor:
        return self.block(maps[0] if len(maps) == 1 else torch.cat(maps, dim=1), embedding)


class Level(nn.Module):
    """The stages of one resolution, and the resampling to the next one, if any."""

    def __init__(self, stages: Sequence[Stage], resample: Downsample | Upsample | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample


class UNet(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Denoiser of video latents: 3D U-Net with a transformer over space and one over time after each residual block.

    Conditioned on warped latents, a text and image context, the frame rate and, optionally, a global structure latent
    (Section III-D).

    Defaults are the full size (1438.9 M parameters), whose weights `cus.lvdm.unet_from_lvdm` converts.

    Args:
        in_channels: number of channels of the noisy latent and the condition latent together.
        out_channels: number of channels of a latent.
        model_channels: width of the first level; the time embedding is four times as wide.
        channel_mult: width of each level as a multiple of `model_channels`; all levels but the last halve height and
            width.
        num_res_blocks: number of residual blocks per level on the way down; one more on the way up.
        attention_downsamples: downsampling factors (1, 2, 4, ...) of the levels with transformers; the middle always
            has them.
        head_channels: width of an attention head.
        transformer_depth: number of blocks per transformer.
        context_dim: width of the context tokens.
        init_attention_heads: number of heads of an extra transformer over time after the first convolution; 0: none.
        text_tokens: number of leading context tokens that are text.
        frame_tokens: number of image tokens per frame, if each frame has its own (see `split_context`).
        norm_groups: number of groups in every group norm; must divide every width.
        dropout: dropout probability in residual blocks and feed-forward layers during training.
        default_fps: frame rate if `forward` gets none.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Stage", "TimeTransformer"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        model_channels: int = 320,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_downsamples: Sequence[int] = (1, 2, 4),
        head_channels: int = 64,
        transformer_depth: int = 1,
        context_dim: int = 1024,
        init_attention_heads: int = 8,
        text_tokens: int = 77,
        frame_tokens: int = 16,
        norm_groups: int = 32,
        dropout: float = 0.1,
        default_fps: int = 10,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        shape = TransformerShape(head_channels, transformer_depth, norm_groups, dropout)
        embedding_dim = 4 * model_channels
        widths = [model_channels * factor for factor in channel_mult]
        if any(width % head_channels for width in widths):
            raise ValueError(f"widths {widths} are not all multiples of head_channels={head_channels}")
        last = len(widths) - 1

        def stage(width_in: int, width: int, attends: bool) -> Stage:
            block = ResBlock(width_in, width, embedding_dim, norm_groups, dropout)
            if not attends:
                return Stage(block, None, None)
            time = TimeTransformer(width, width // head_channels, shape)
            return Stage(block, SpaceTransformer(width, context_dim, shape), time)

        self.time_embedding = TimestepEmbedding(model_channels, embedding_dim)
        self.fps_embedding = TimestepEmbedding(model_channels, embedding_dim)
        zero_module(self.fps_embedding.linear_2)
        self.conv_in = nn.Conv2d(in_channels, model_channels, 3, padding=1)
        self.init_attention = (
            TimeTransformer(model_channels, init_attention_heads, shape) if init_attention_heads else None
        )

        self.down = nn.ModuleList()
        width, skips = model_channels, [model_channels]
        for i, level_width in enumerate(widths):
            stages = []
            for _ in range(num_res_blocks):
                stages.append(stage(width, level_width, 2**i in attention_downsamples))
                width = level_width
                skips.append(width)
            self.down.append(Level(stages, Downsample(width) if i < last else None))
            if i < last:
                skips.append(width)

        self.middle = stage(width, width, True)
        self.middle_block = ResBlock(width, width, embedding_dim, norm_groups, dropout)

        self.up = nn.ModuleList()
        for i, level_width in reversed(list(enumerate(widths))):
            stages = []
            for _ in range(num_res_blocks + 1):
                stages.append(stage(width + skips.pop(), level_width, 2**i in attention_downsamples))
                width = level_width
            self.up.append(Level(stages, Upsample(width) if i > 0 else None))

        self.norm_out = GroupNorm(norm_groups, width, eps=1e-5)
        self.conv_out = zero_module(nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        context: Tensor | Context,
        fps: Tensor | None = None,
        structure: Tensor | None = None,
    ) -> UNetOutput:
        """Predict the denoising target of a batch of clips.

        Args:
            sample: [B, in_channels, T, h, w]: noisy latent, then condition latent; h and w are multiples of
                `size_multiple`.
            timesteps: [B] diffusion steps.
            context: [B, L, context_dim]: `text_tokens` text tokens, then image tokens (see `split_context`); or a
                result of `prepare_context`, for many calls with one context.
            fps: [B] frames per second; None: `default_fps`.
            structure: [B, in_channels - out_channels, T, h, w], the global condition latent z_g of Eq. 7.

        Raises:
            ValueError: inconsistent shapes.
        """
        self._check(sample, timesteps, context, fps, structure)
        batch, _, frames, height, width = sample.shape
        split = context if isinstance(context, Context) else self._split(context, frames)
        embedding = self._embedding(timesteps, fps)

        x = self.first_features(sample, structure)
        if self.init_attention is not None:
            x = self._run(self.init_attention, x, frames)
        skips = [x]
        for level in self.down:
            assert isinstance(level, Level)
            for stage in level.stages:
                x = stage([x], embedding, split, self._run)
                skips.append(x)
            if level.resample is not None:
                x = self._run(level.resample, x)
                skips.append(x)
        x = self.middle([x], embedding, split, self._run)
        x = self._run(self.middle_block, x, embedding)
        for level in self.up:
            assert isinstance(level, Level)
            for stage in level.stages:
                x = stage([x, skips.pop()], embedding, split, self._run)
            if level.resample is not None:
                x = self._run(level.resample, x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return UNetOutput(sample=x.reshape(batch, frames, -1, height, width).transpose(1, 2).contiguous())

    @apply_forward_hook
    def prepare_context(self, context: Tensor, frames: int, trained_frames: int | None = None) -> Context:
        """Split a context and precompute every layer's keys and values, for several calls of `forward`.

        Args:
            context: [B, L, context_dim] as for `forward`.
            frames: number of frames T in those calls.
            trained_frames: clip length of the training, which decides whether frames have their own image tokens;
                a shorter clip then reads those of the first frames. None: `frames` decides, as in `forward`.
        """
        split = self._split(context, trained_frames or frames)
        if split.frames is not None and frames < split.frames:
            split = Context(split.text, split.image[:, :frames])
        attentions = (module for module in self.modules() if isinstance(module, ContextAttention))
        return Context(split.text, split.image, {attention: attention.project(split) for attention in attentions})

    def first_features(self, sample: Tensor, structure: Tensor | None = None) -> Tensor:
        """The first module F of Eq. 7 and the fusion after it: maps [B*T, model_channels, h, w], channels-last.

        F is the first convolution. With `structure` it is applied to (noisy, z_c) and (noisy, z_g), and the larger
        value is taken. The transformer over time that follows (`init_attention`) reads the fused features.
        """
        features = self.conv_in(self._maps(sample))
        if structure is None:
            return features
        noisy = sample[:, : self.config["out_channels"]]
        return torch.maximum(features, self.conv_in(self._maps(torch.cat([noisy, structure.to(noisy)], dim=1))))

    @property
    def size_multiple(self) -> int:
        """Height and width of a latent must be multiples of this."""
        return 2 ** (len(self.config["channel_mult"]) - 1)

    def _split(self, context: Tensor, frames: int) -> Context:
        tokens = self.config["text_tokens"], self.config["frame_tokens"]
        return split_context(context.to(self.conv_in.weight.dtype), frames, *tokens)

    def _maps(self, clip: Tensor) -> Tensor:
        """[B, C, T, h, w] -> channels-last [B*T, C, h, w] in the weights' dtype."""
        lines = clip.to(self.conv_in.weight.dtype).permute(0, 2, 3, 4, 1).contiguous()
        return lines.flatten(0, 1).permute(0, 3, 1, 2)

    def _embedding(self, timesteps: Tensor, fps: Tensor | None) -> Tensor:
        """Sum of the embeddings of diffusion step and frame rate, [B, 4 * model_channels]."""
        if fps is None:
            fps = torch.full_like(timesteps, self.config["default_fps"])
        embedding = torch.zeros((), device=timesteps.device)
        for values, embed in ((timesteps, self.time_embedding), (fps, self.fps_embedding)):
            waves = get_timestep_embedding(
                values, self.config["model_channels"], flip_sin_to_cos=True, downscale_freq_shift=0
            )
            embedding = embedding + embed(waves.to(self.conv_in.weight.dtype))
        return embedding

    def _run(self, module: Callable[..., Tensor], *args: Tensor | Context | int) -> Tensor:
        """Call a module or a part of it, with gradient checkpointing if enabled."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(module, *args)  # pyright: ignore[reportOptionalCall]
        return module(*args)

    def _check(
        self, sample: Tensor, timesteps: Tensor, context: Tensor | Context, fps: Tensor | None, structure: Tensor | None
    ) -> None:
        channels, multiple = self.config["in_channels"], self.size_multiple
        if sample.ndim != 5 or sample.shape[1] != channels:
            raise ValueError(f"sample is {tuple(sample.shape)}; expected [B, {channels}, T, h, w]")
        batch, _, frames, height, width = sample.shape
        if height % multiple or width % multiple:
            raise ValueError(f"sample is {height}x{width}; height and width must be multiples of {multiple}")
        context_dim = self.config["context_dim"]
        if isinstance(context, Context):
            if context.frames not in (None, frames) or len(context.text) != batch:
                made_for = f"{len(context.text)} clips of {context.frames or 'any number of'} frames"
                raise ValueError(f"the context was prepared for {made_for}, sample has {batch} of {frames}")
        elif context.ndim != 3 or context.shape[0] != batch or context.shape[2] != context_dim:
            raise ValueError(f"context is {tuple(context.shape)}; expected [{batch}, L, {context_dim}]")
        for name, values in (("timesteps", timesteps), ("fps", fps)):
            if values is not None and values.shape != (batch,):
                raise ValueError(f"{name} is {tuple(values.shape)}; expected [{batch}]")
        expected = (batch, channels - self.config["out_channels"], frames, height, width)
        if structure is not None and structure.shape != expected:
            raise ValueError(f"structure is {tuple(structure.shape)}; expected {expected}")
