"""CloseUpShotPipeline: conditioning images in, frames out."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from cus.diffusion.calls import (
    ChunkEnd,
    Progress,
    Request,
    as_clip,
    autocast,
    check_pictures,
    chunks_of,
    pad_to,
    padded_layers,
)
from cus.diffusion.colors import keep_colors, keep_resolved
from cus.diffusion.context import ContextEncoder, PromptEmbeddings
from cus.diffusion.latents import FirstStage, decode, encode
from cus.diffusion.layers import LayeredConditioning, Layers, check_channels, encode_layers, split_conditioning
from cus.diffusion.lora import find_lora, load_lora
from cus.diffusion.objective import LatentTarget
from cus.diffusion.parts import check_finite, check_parts, forget_origins
from cus.diffusion.sampler import Denoiser, Sampler, ddim, guided, guided_at_once, keep_first_frame
from cus.diffusion.sampling import PLANS, MemoryPlan, Sampling
from cus.diffusion.schedule import NoiseSchedule
from cus.diffusion.uploads import prepare
from cus.hub.errors import HubAccess
from cus.hub.fetch import OnFetched
from cus.hub.publish import Push, check_account, parse_target, upload
from cus.hub.stored import StoredModel, explained, open_model
from cus.kernels.threads import yield_cores
from cus.models.attention import SpaceTransformer, TimeTransformer
from cus.models.blocks import ResBlock
from cus.models.clip import ImageEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet


class CloseUpShotPipeline(DiffusionPipeline):
    """Point-conditioned video diffusion (Section III-A), optionally with structure guidance (Section III-D).

    Args:
        unet: denoising network, a `cus.models.UNet`.
        vae: first stage, a `cus.models.Autoencoder` or `cus.models.UnshuffleAutoencoder`.
        image_encoder: CLIP image tower.
        image_projector: maps image tokens to context tokens, a `cus.models.ImageProjector`.
        prompt: prompts as text tokens.
        scheduler: noise schedule.
        sampling: fields of `Sampling`.

    Attributes:
        plan: how memory is traded for speed; set by `use`.
        sampler: goes from noise to latents; `ddim` by default.
    """

    model_cpu_offload_seq = "image_encoder->image_projector->unet->vae"

    def __init__(
        self,
        unet: UNet,
        vae: FirstStage,
        image_encoder: ImageEncoder,
        image_projector: ImageProjector,
        prompt: PromptEmbeddings,
        scheduler: NoiseSchedule,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        known = {field.name for field in fields(Sampling)}
        if unknown := set(sampling or {}) - known:
            raise ValueError(f"unknown sampling settings {sorted(unknown)}; known: {sorted(known)}")
        self.sampling = Sampling(**(sampling or {}))
        check_channels(unet, vae, self.sampling.layers)
        self.register_modules(
            unet=unet,
            vae=vae,
            image_encoder=image_encoder,
            image_projector=image_projector,
            prompt=prompt,
            scheduler=scheduler,
        )
        self.register_to_config(sampling=asdict(self.sampling))
        self.plan = PLANS["middle"]
        self.sampler: Sampler = ddim

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | StoredModel,
        *,
        revision: str | None = None,
        variant: str | None = None,
        on_fetched: OnFetched | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load "mini" (ships with the package), a folder written by `save_pretrained`, or a Hub id; safetensors only.

        Args:
            pretrained_model_name_or_path: a name, a folder, "org/name", "org/name@revision", or a result of
                `cus.hub.stored.open_model`.
            revision: branch, tag or commit of a Hub model; None: the main branch.
            variant: such as "fp16", for `diffusion_pytorch_model.fp16.safetensors`; None: the standard weights.
            on_fetched: called with (bytes fetched, total bytes) while a Hub model is fetched; None shows progress bars.
            **kwargs: the other fields of `cus.hub.errors.HubAccess`, and options of diffusers' own method.

        Raises:
            InputError: there is no such model, it is of another kind, damaged or incomplete, or the Hub denies it.
        """
        if kwargs.get("custom_pipeline") or kwargs.get("trust_remote_code"):
            raise ValueError("this pipeline loads no code of others: leave out custom_pipeline and trust_remote_code")
        if not kwargs.pop("use_safetensors", True):
            raise ValueError("this pipeline loads safetensors only: leave out use_safetensors")
        asked = {field.name: kwargs.pop(field.name) for field in fields(HubAccess) if field.name in kwargs}
        model = pretrained_model_name_or_path
        if not isinstance(model, StoredModel):
            model = open_model(model, cls.__name__, HubAccess(revision=revision, **asked))
        folder = model.complete(variant, on_fetched)
        check_parts(model, folder, variant)
        with explained(model.source):
            pipeline = super().from_pretrained(str(folder), use_safetensors=True, variant=variant, **kwargs)
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                check_finite(folder / name, part.state_dict())
        pipeline.register_to_config(_name_or_path=model.name)
        return pipeline

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write a folder that `from_pretrained` reads: safetensors and JSON, without local paths."""
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save_pretrained writes a folder only; call push_to_hub, which checks what it uploads")
        super().save_pretrained(save_directory, safe_serialization=True, **kwargs)
        forget_origins(Path(save_directory))

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload CloseUpShotPipeline",
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        variant: str | None = None,
        revision: str | None = None,
        card: str | None = None,
    ) -> str:
        """Upload safetensors, JSON and a model card to the Hub as one commit; `cus-push` does it for a folder.

        Args:
            repo_id: "org/name"; created if it does not exist.
            commit_message: first line of the commit.
            private: whether to hide it from others; None leaves it as it is, public if new.
            token: access token; None takes that of the current login.
            create_pr: propose the change instead of making it.
            variant: suffix of the weights' file names, such as "fp16".
            revision: branch, created if it does not exist; None: the main branch.
            card: text of README.md; None writes one from the model's data if the repository has none.

        Returns:
            The URL of the model, of its branch, or of the proposal.

        Raises:
            InputError: no access, weights that are not numbers, or a failed transfer.
        """
        push = Push(*parse_target(repo_id, revision), private, commit_message, token, create_pr)
        check_account(push)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant)
            return upload(prepare(Path(folder)), push, card)

    def load_lora_weights(
        self,
        path: str | Path,
        adapter_name: str = "default",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> None:
        """Add a LoRA to the U-Net: of `train/unet.py`, or of diffusers.

        Args:
            path: a file, a folder, a training run, or a Hub id: "org/name", "org/name@revision".
            adapter_name: what it is called here.
            revision: branch, tag or commit of one of the Hub; None is the main branch.
            token: access token; None takes the one logged in with.

        Raises:
            InputError: there is none, or it is of another network: names and shapes are compared layer by layer.
        """
        access = HubAccess(revision=revision, token=token)
        load_lora(self.unet, find_lora(path, access), adapter_name, self.config.get("_name_or_path") or "the pipeline")

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs from the U-Net."""
        self.unet.unload_lora()

    @property
    def size_multiple(self) -> int:
        """Frames are padded to multiples of this many pixels, then cropped."""
        return self.vae.downsample * self.unet.size_multiple

    @torch.inference_mode()
    def __call__(
        self,
        images: Tensor,
        conditioning: Tensor | LayeredConditioning,
        structure: Tensor | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_rescale: float | None = None,
        eta: float | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        output_type: Literal["pt", "latent"] = "pt",
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Generate the frames seen by target cameras.

        Args:
            images: [V, 3, H', W'] in [0, 1], reference photographs; the first gives the image context.
            conditioning: [T, 3, H, W] in [0, 1], conditioning images of the target cameras of the kind
                `self.sampling.conditioning`; any H, W, T. A checkpoint with `sampling.layers` also needs the layers:
                pass the `cus.conditioning.Conditioning` itself.
            structure: [T, 3, H, W] in [0, 1], renders of the global point cloud, for the second pass (Eq. 7).
            steps: number of denoising steps. For this and the next three, None takes the checkpoint's
                (`self.sampling`).
            guidance: classifier-free guidance scale; 1 skips the unconditional branch.
            guidance_rescale: strength of the rescaling of the guidance, 0 .. 1.
            eta: noise added per DDIM step, 0 .. 1.
            generator: source of all noise; None is a CPU generator seeded with 0.
            dtype: autocast precision; None or float32 computes in the weights' dtype.
            output_type: "latent" returns the scaled latents [T, C, h, w] of the padded frames instead; one chunk only.
            on_progress: called with (network steps and decoded frames done, total).

        Returns:
            Frames [T, 3, H, W] in [0, 1], float32, on the conditioning's device.

        Raises:
            ValueError: inconsistent shapes, or numbers out of range.
        """
        yield_cores()
        own = self.sampling
        resolved = getattr(conditioning, "resolved", None)
        conditioning, layers = split_conditioning(conditioning, own.layers, own.fill_holes)
        check_pictures(images, conditioning, structure)
        request = Request(
            steps or own.steps,
            own.guidance if guidance is None else guidance,
            own.guidance_rescale if guidance_rescale is None else guidance_rescale,
            own.eta if eta is None else eta,
            generator or torch.Generator().manual_seed(0),
        )
        chunks = chunks_of(len(conditioning), own.frames)
        if output_type == "latent" and len(chunks) > 1:
            raise ValueError(f"latents come in one chunk of at most {own.frames} frames, got {len(conditioning)}")
        device = self._execution_device
        progress = Progress(on_progress, len(chunks) * request.steps + sum(len(chunk) for chunk in chunks))
        frames: list[Tensor] = []
        end: ChunkEnd | None = None
        with autocast(device, dtype):
            first = images[:1].to(device=device, dtype=torch.float32)
            contexts = self._contexts(first, request.guidance != 1)
            for chunk in chunks:
                warped = conditioning[chunk.start : chunk.stop].to(device=device, dtype=torch.float32)
                if end is not None:
                    # The two chunks share a frame, which is already known: the later chunk continues from it.
                    warped = torch.cat([end.frame, warped[1:]])
                guide = (
                    None
                    if structure is None
                    else pad_to(structure[chunk.start : chunk.stop].to(warped), self.size_multiple)
                )
                padded = pad_to(warped, self.size_multiple)
                shown = None if layers is None else padded_layers(layers, chunk, warped, self.size_multiple)
                latents, condition = self._latents(padded, shown, guide, contexts, request, end, progress)
                if output_type == "latent":
                    break
                made = self._decoded(latents, condition, padded, progress)[..., : warped.shape[-2], : warped.shape[-1]]
                frames.append((made if end is None else made[1:]).to(conditioning.device))
                end = ChunkEnd(made[-1:], latents[-1:])
        self.maybe_free_model_hooks()
        return latents if output_type == "latent" else self._kept(torch.cat(frames), conditioning, resolved)

    @torch.inference_mode()
    def decode_latents(
        self,
        latents: Tensor,
        conditioning: Tensor | LayeredConditioning,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Decode latents that a call returned with `output_type="latent"`, e.g. with another decoder.

        Args:
            latents: [T, C, h, w] scaled latents of the padded frames.
            conditioning: the call's conditioning, [T, 3, H, W] in [0, 1].
            generator: generator in the same state as at the call; None is a CPU generator seeded with 0.
            dtype: autocast precision, as in a call.
            on_progress: called with (decoded frames, total).

        Returns:
            Frames [T, 3, H, W] in [0, 1], float32, on the conditioning's device.

        Raises:
            ValueError: inconsistent shapes.
        """
        yield_cores()
        resolved = getattr(conditioning, "resolved", None)
        conditioning, _ = split_conditioning(conditioning, self.sampling.layers, self.sampling.fill_holes)
        device = self._execution_device
        with autocast(device, dtype):
            padded = pad_to(conditioning.to(device=device, dtype=torch.float32), self.size_multiple)
            sides = tuple(side // self.vae.downsample for side in padded.shape[-2:])
            if tuple(latents.shape) != (len(padded), self.vae.latent_channels, *sides):
                expected = (len(padded), self.vae.latent_channels, *sides)
                raise ValueError(f"latents must be {expected} for this conditioning, got {tuple(latents.shape)}")
            # A call draws this first, too: the same generator gives the same condition.
            draws = generator or torch.Generator().manual_seed(0)
            condition = encode(self.vae, padded, draws, self.plan.frames_at_once)
            progress = Progress(on_progress, len(padded))
            made = self._decoded(latents.to(condition), condition, padded, progress)
        self.maybe_free_model_hooks()
        made = made[..., : conditioning.shape[-2], : conditioning.shape[-1]].to(conditioning.device)
        return self._kept(made, conditioning, resolved)

    def _kept(self, frames: Tensor, conditioning: Tensor, resolved: Tensor | None) -> Tensor:
        """Frames with the detail that their conditioning images already have, if the checkpoint asks for it."""
        if resolved is None or not self.sampling.keep_resolved:
            return frames
        return keep_resolved(frames, conditioning, resolved)

    def use(self, plan: MemoryPlan, device: torch.device | str | None = None) -> Self:
        """Set how memory is traded for speed on a device; `cus.diffusion.memory.choose_plan` finds a plan.

        Args:
            plan: memory plan for all later calls.
            device: device to compute on; None: that of the networks.
        """
        self.plan = plan
        device = torch.device(device or self._execution_device)
        if plan.offload and device.type != "cpu":
            self.enable_model_cpu_offload(device=device)
        else:
            self.remove_all_hooks()
            self.to(device)
        return self

    def compile(self, **options: Any) -> Self:
        """Compile the U-Net's blocks with `torch.compile`; the first step then takes minutes, later ones less time.

        Args:
            **options: options of `torch.compile`, for each block.
        """
        for module in self.unet.modules():
            if isinstance(module, ResBlock | SpaceTransformer | TimeTransformer):
                module.compile(**options)
        return self

    def _latents(
        self,
        padded: Tensor,
        layers: Layers | None,
        guide: Tensor | None,
        contexts: tuple[Tensor, Tensor | None],
        request: Request,
        end: "ChunkEnd | None",
        progress: Progress,
    ) -> tuple[Tensor, Tensor]:
        """Latents [T, C, h, w] of one chunk and of its condition: encode the conditions, then denoise."""
        at_once = self.plan.frames_at_once
        condition = as_clip(encode(self.vae, padded, request.generator, at_once))
        structure = None if guide is None else as_clip(encode(self.vae, guide, request.generator, at_once))
        source = request.generator
        noise = torch.randn(condition.shape, generator=source, device=source.device).to(condition)
        noise = noise * self.sampling.noise
        target = LatentTarget(self.sampling.residual_scale)
        shown, guided = condition, structure
        if layers is not None:
            frames = condition[0].transpose(0, 1)
            extra = as_clip(encode_layers(self.vae, layers, padded, frames, target, at_once))
            # The second pass keeps the layers of the first: they show the photographs.
            shown = torch.cat([condition, extra], dim=1)
            guided = None if structure is None else torch.cat([structure, extra], dim=1)
        known = None
        if end is not None:
            first = target.encode(as_clip(end.latent), condition[:, :, :1])[:, :, 0]
            known = keep_first_frame(first, noise, self.scheduler)
        diffused = self.sampler(
            self._denoiser(shown, guided, contexts, request),
            noise,
            self.scheduler,
            request.steps,
            eta=request.eta,
            step_noise=source,
            constrain=known,
            on_progress=progress.counter(),
        )
        latents = target.decode(diffused, condition)
        return latents[0].transpose(0, 1), condition[0].transpose(0, 1)

    def _denoiser(
        self, condition: Tensor, structure: Tensor | None, contexts: tuple[Tensor, Tensor | None], request: Request
    ) -> Denoiser:
        """The guided U-Net for one clip; the attention's keys and values of the contexts are computed here, once."""
        frames = condition.shape[2]

        def plain(context: Tensor) -> Denoiser:
            prepared = self.unet.prepare_context(context, frames, self.sampling.frames)
            clips = len(context)
            fps = torch.full((clips,), self.sampling.fps, device=condition.device)
            fixed = condition.expand(clips, -1, -1, -1, -1)
            guide = None if structure is None else structure.expand(clips, -1, -1, -1, -1)

            def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
                sample = torch.cat([noisy, fixed], dim=1)
                return self.unet(sample, timesteps, prepared, fps, structure=guide).sample.float()

            return predict

        cond, uncond = contexts
        if uncond is None:
            return plain(cond)
        if self.plan.guidance_at_once:
            return guided_at_once(plain(torch.cat([cond, uncond])), request.guidance, request.guidance_rescale)
        return guided(plain(cond), plain(uncond), request.guidance, request.guidance_rescale)

    def _decoded(self, latents: Tensor, condition: Tensor, padded: Tensor, progress: Progress) -> Tensor:
        """Decode latents to frames [T, 3, H, W] in [0, 1], at the padded size."""
        at_once = self.plan.frames_at_once
        made = decode(self.vae, latents, padded, at_once, on_progress=progress.counter())
        if self.sampling.residual_scale:
            # The autoencoder's loss is the same for the condition and the frames, so add the condition's.
            made = padded + made - decode(self.vae, condition, padded, at_once)
        return keep_colors(made, padded, self.sampling.color_window).clamp(0, 1)

    def _contexts(self, reference: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        """Context of the reference image [1, 3, H, W], and the unconditional one if needed."""
        encoder = ContextEncoder(self.prompt, self.image_encoder, self.image_projector)
        kept, dropped = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
        return encoder(reference, kept, kept), encoder(reference, dropped, dropped) if both else None
