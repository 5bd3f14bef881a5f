"""Converts a whole checkpoint to a folder for `CloseUpShotPipeline.from_pretrained`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor, nn
from torch.func import functional_call

from cus.diffusion.context import PromptEmbeddings
from cus.diffusion.pipeline import CloseUpShotPipeline, Sampling
from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError
from cus.lvdm.assembling import Part, empty_image_projector, empty_unet, empty_vae, part_of, refuse
from cus.lvdm.config import LVDMConfig, image_encoder_sizes, schedule_differences, text_encoder_sizes
from cus.lvdm.names import EMA_PREFIX, IMAGE_ENCODER_PREFIX, SCHEDULE_BUFFERS, UNET_PREFIX, VIEWCRAFTER_UNET, leftover
from cus.lvdm.weight_files import check_finite, check_space, load_lvdm_checkpoint, stored_bytes, write_network
from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder, TextEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet
from cus.output_folder import check_replaceable, new_folder

# Kind of the folder, as in its list of files.
MODEL = "a converted model"
PROMPT, NEGATIVE_PROMPT = "Rotating view of a scene", ""
TITLES = {
    UNet: "U-Net",
    Autoencoder: "Autoencoder",
    ImageEncoder: "Image tower",
    ImageProjector: "Image projector",
    TextEncoder: "Text tower",
    PromptEmbeddings: "Prompts",
}
# Called with the stage, bytes done and total bytes.
OnStage = Callable[[str, int, int], None]
# Parts of names that all occur in a kind of file -> its description.
FAMILIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lora_down",), "a LoRA, which changes a model and is none"),
    (("lora_A",), "a LoRA, which changes a model and is none"),
    (("lora.down",), "a LoRA, which changes a model and is none"),
    (("control_model.",), "a ControlNet for Stable Diffusion"),
    (("aggregator.", "camera_head."), "VGGT, which estimates depth and cameras"),
    (("aggregator.", "depth_head."), "VGGT, which estimates depth and cameras"),
    (("backbone.pretrained.", "cam_dec."), "Depth Anything 3, which estimates depth and cameras"),
    (("enc_blocks.", "dec_blocks."), "DUSt3R or MASt3R, which estimate depth and cameras"),
    (("down.0.stages.0.",), "a U-Net of a folder that was converted already"),
    (("down_blocks.0.", "mid_block."), "a network of a diffusers folder (unet, vae), not a whole checkpoint"),
    (("encoder.down_blocks.",), "a network of a diffusers folder (unet, vae), not a whole checkpoint"),
    (("double_blocks.",), "a diffusion transformer"),
    (("transformer_blocks.0.", "patch_embed"), "a diffusion transformer"),
    (("vision_model.", "text_model."), "a CLIP model of transformers"),
    ((UNET_PREFIX, ".time_stack."), "Stable Video Diffusion"),
    ((UNET_PREFIX, ".time_mixer."), "Stable Video Diffusion"),
)


@dataclass(frozen=True)
class ConversionOptions:
    """Options of the conversion of a checkpoint to a folder.

    Attributes:
        dtype: type of the stored weights; None keeps the checkpoint's.
        shard_bytes: maximum size of a file of weights, if no tensor is larger.
        frames: clip length of the model's training. No config states it: those of the public 25-frame model say 16.
        overwrite: whether to replace an earlier converted model; no other folder is replaced.
    """

    dtype: torch.dtype | None = torch.float16
    shard_bytes: int = 2_000_000_000
    frames: int = 25
    overwrite: bool = False


@dataclass(frozen=True)
class Converted:
    """Summary of a conversion.

    Attributes:
        path: path of the folder.
        parameters: number of parameters of all networks.
        size: size of the weights in bytes.
        notes: messages for the user, one line each.
    """

    path: Path
    parameters: int
    size: int
    notes: list[str]


@dataclass(frozen=True)
class Assembled:
    """The networks of a checkpoint, sharing its tensors, and the facts it was checked against."""

    unet: UNet
    vae: Autoencoder
    image_encoder: ImageEncoder
    image_projector: ImageProjector
    text_encoder: TextEncoder
    schedule: NoiseSchedule
    notes: list[str]


def convert_checkpoint(
    source: str | Path,
    folder: str | Path,
    config: LVDMConfig | None = None,
    options: ConversionOptions | None = None,
    on_stage: OnStage | None = None,
) -> Converted:
    """Convert a checkpoint of ViewCrafter or DynamiCrafter to a model folder.

    Names, shapes and noise schedule are all checked before anything is written, and values while they are written.
    Tensors are mapped from the file and written one at a time.

    Args:
        source: `.ckpt` or `.safetensors` file with the whole model: U-Net, autoencoder, projector and both CLIP towers.
        folder: folder to write; it appears when it is complete.
        config: sizes of the model; None: ViewCrafter's.
        options: types and sizes of the files.
        on_stage: callback for progress.

    Raises:
        InputError: the file cannot be read, is another model, or has values that are not finite; the target exists, or
            is not writable. The partial folder is removed.
    """
    source, folder = Path(source), Path(folder)
    config, options, report = config or LVDMConfig(), options or ConversionOptions(), on_stage or silent
    check_replaceable(folder, MODEL, overwrite=options.overwrite, inputs=[source])
    model = assembled(load_lvdm_checkpoint(source), config)
    stored: dict[str, nn.Module] = {
        "unet": model.unet,
        "vae": model.vae,
        "image_encoder": model.image_encoder,
        "image_projector": model.image_projector,
    }
    size = sum(stored_bytes(network.state_dict().values(), options.dtype) for network in stored.values())
    check_space(folder, size)
    stored["prompt"] = prompt_embeddings(model.text_encoder, report)
    pipeline = CloseUpShotPipeline(
        **stored,  # pyright: ignore[reportArgumentType]
        scheduler=model.schedule,
        sampling=_sampling(config, options),
    )
    with new_folder(folder, MODEL, overwrite=options.overwrite, inputs=[source]) as temporary:
        for name, network in stored.items():
            _write_component(temporary / name, network, options, report)
        model.schedule.save_config(temporary / "scheduler")
        pipeline.save_config(temporary)
    parameters = sum(p.numel() for network in stored.values() for p in network.parameters())
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    return Converted(folder, parameters, size, model.notes)


def assembled(tensors: Mapping[str, Tensor], config: LVDMConfig) -> Assembled:
    """Assemble every network of a checkpoint, sharing its tensors, after checking each name and shape.

    Args:
        tensors: tensors from `load_lvdm_checkpoint`; on the meta device, names and shapes are checked equally.
        config: sizes of the model.

    Raises:
        InputError: the checkpoint does not match; the message has the first differences and the apparent kind of file.
    """
    unet, vae = empty_unet(config.unet), empty_vae(config.vae, scaling_factor=config.scaling_factor)
    projector = empty_image_projector(config.projector)
    with torch.device("meta"):
        image_encoder = ImageEncoder(**(image_encoder_sizes(tensors) if config.any_towers else {}), blur_first=True)
        text_encoder = TextEncoder(**(text_encoder_sizes(tensors) if config.any_towers else {}))
    schedule = NoiseSchedule(**config.schedule)
    parts = [part_of(network) for network in (unet, vae, projector, image_encoder, text_encoder)]
    _check(tensors, parts, schedule)
    _check_widths(unet, vae, projector, image_encoder, text_encoder)
    for part in parts:
        part.fill(tensors)
        part.network.eval()
    text_encoder.reset_mask()
    notes = []
    if averaged := sum(name.startswith(EMA_PREFIX) for name in tensors):
        notes.append(f"the file also holds a moving average of the U-Net ({averaged} tensors), which was not read")
    if "alphas_cumprod" not in tensors:
        notes.append("the file holds no noise schedule; that of its config was taken")
    return Assembled(unet, vae, image_encoder, projector, text_encoder, schedule, notes)


@torch.no_grad()
def prompt_embeddings(encoder: TextEncoder, on_stage: OnStage | None = None) -> PromptEmbeddings:
    """Encode the model's two prompts with its text tower in float32.

    Raises:
        InputError: a value of the tower is not finite.
    """
    report, title = on_stage or silent, TITLES[TextEncoder]
    tensors = encoder.state_dict()
    total = stored_bytes(tensors.values(), None)
    done = 0
    for name, tensor in part_of(encoder).exported().items():
        check_finite(name, tensor, tensor.dtype)
        done += tensor.nbytes
        report(title, done, 2 * total)
    try:
        tokens = encoder.tokenize([PROMPT, NEGATIVE_PROMPT])
    except ValueError as error:
        raise InputError(f"the text tower of the checkpoint cannot read the prompts: {error}") from error
    made = functional_call(encoder, {name: tensor.float() for name, tensor in tensors.items()}, (tokens,))
    prompt = PromptEmbeddings(tokens=made.shape[1], dim=made.shape[2])
    prompt.positive.copy_(made[:1])
    prompt.negative.copy_(made[1:])
    report(title, 2 * total, 2 * total)
    return prompt


def _write_component(folder: Path, network: nn.Module, options: ConversionOptions, report: OnStage) -> None:
    assert isinstance(network, ConfigMixin)
    tensors, title = network.state_dict(), TITLES[type(network)]
    total, done = stored_bytes(tensors.values(), options.dtype), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(title, done, total)

    network.save_config(folder)
    write_network(folder, tensors, options.dtype, options.shard_bytes, count)


def _check(tensors: Mapping[str, Tensor], parts: list[Part], schedule: NoiseSchedule) -> None:
    """Refuse a checkpoint with any difference in the parts, the schedule, or additional tensors."""
    found: list[str] = []
    for part in parts:
        title = TITLES[type(part.network)]
        if any(name.startswith(part.prefix) and not leftover(name) for name in tensors):
            found += part.differences(tensors)
        else:
            found.append(f"no {title.lower() if title != 'U-Net' else title}: nothing is named {part.prefix}*")
    prefixes = (*(part.prefix for part in parts), EMA_PREFIX)
    found += [
        f"unexpected {name} {list(tensor.shape)}"
        for name, tensor in tensors.items()
        if not name.startswith(prefixes) and name not in SCHEDULE_BUFFERS and not leftover(name)
    ]
    family = recognised(tensors)
    if found and family:
        hint = f"It looks like {family}."
    else:
        hint = "Check that it is ViewCrafter's, or give the YAML file that it came with by --config."
    refuse(found, hint)
    refuse(
        schedule_differences(tensors, schedule),
        "Names and shapes fit, but it was trained with another noise schedule, as DynamiCrafter's 512-pixel model was: "
        "give the YAML file that it came with by --config.",
    )


def _check_widths(
    unet: UNet, vae: Autoencoder, projector: ImageProjector, image_encoder: ImageEncoder, text_encoder: TextEncoder
) -> None:
    """Refuse parts that are complete but do not match each other."""
    pairs = (
        ("image tower", image_encoder.config["width"], "image projector", projector.config["token_dim"]),
        ("image projector", projector.config["context_dim"], "U-Net's context", unet.config["context_dim"]),
        ("text tower", text_encoder.config["width"], "U-Net's context", unet.config["context_dim"]),
        ("latent", vae.config["latent_channels"], "U-Net's output", unet.config["out_channels"]),
    )
    refuse([f"the {a} is {m} wide, the {b} {n}" for a, m, b, n in pairs if m != n])


def _sampling(config: LVDMConfig, options: ConversionOptions) -> dict[str, Any]:
    """ViewCrafter's sampling settings; its training used its own point renders and no structure guidance."""
    return asdict(
        Sampling(
            steps=50,
            guidance=7.5,
            guidance_rescale=0.7,
            eta=1.0,
            frames=options.frames,
            width=config.width,
            height=config.height,
            fps=config.unet["default_fs"],
            residual_scale=0.0,
            second_pass=False,
            conditioning="points",
        )
    )


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


def recognised(tensors: Mapping[str, Tensor]) -> str | None:
    """A description of the file, or None if its names are not recognised."""
    for parts, family in FAMILIES:
        if all(any(part in name for name in tensors) for part in parts):
            return family
    if any(name.startswith(UNET_PREFIX) for name in tensors):
        return _video_unet(tensors)
    if any(name.startswith("visual.transformer.resblocks.") for name in tensors):
        return "a CLIP model of open_clip"
    if IMAGE_ENCODER_PREFIX + "conv1.weight" in tensors:
        return "a checkpoint of the right family without its U-Net"
    return None


def _video_unet(tensors: Mapping[str, Tensor]) -> str | None:
    """Which of the code base's own models this is."""
    unet = {name.removeprefix(UNET_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(UNET_PREFIX)}
    if not any("temopral_conv" in name for name in unet):
        return "Stable Diffusion, or another model of single pictures"
    if not any("to_k_ip" in name for name in unet):
        return "a text-to-video model such as VideoCrafter's, which reads no image"
    if any(name.endswith("attn2.alpha") for name in unet):
        return "DynamiCrafter's 256-pixel model, whose image attention has learned weights"
    first, context = (
        unet.get("input_blocks.0.0.weight"),
        unet.get("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"),
    )
    if first is None or first.ndim != 4:
        return None
    width, channels = first.shape[:2]
    differs = width != VIEWCRAFTER_UNET["model_channels"] or channels != VIEWCRAFTER_UNET["in_channels"]
    if context is not None and context.ndim == 2 and context.shape[1] != VIEWCRAFTER_UNET["context_dim"]:
        differs = True
    if not differs:
        return None
    dim = "" if context is None else f", context_dim {context.shape[-1]}"
    return (
        f"a model of the right family in another size (model_channels {width}, in_channels {channels}{dim}): "
        "give the YAML file it came with by --config"
    )
