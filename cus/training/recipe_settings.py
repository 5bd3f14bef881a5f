"""Settings of a recipe."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from cus.limits import limited


@dataclass
class Recipe:
    """Settings of train/recipe.py.

    Attributes:
        out: output folder; each part has its own folder in it.
        clips: folder of data/build_clips.py, such as <build>/train, or of its shards.
        held_out: folder of clips for scores and sample pictures, such as <build>/held_out; empty: none.
        init: pipeline that both U-Nets start from: a folder or Hub id; empty builds a new one as in `unet`.
        conditioning: name of the warp that the models learn from; empty: the clips' own conditioning. It should be of
            the kind in `sampling.conditioning` of the U-Net.
        unet: config of train/unet.py for both U-Nets.
        unet_settings: settings of both U-Nets, each "key=value" overriding the config.
        guided_settings: settings of the second U-Net, overriding these.
        decoder: config of train/decoder.py for both decoder stages; empty: no decoder stages.
        decoder_settings: settings of both decoder stages, each "key=value" overriding the config.
        bf16: whether to compute caches with bfloat16 autocast.
        device: torch device for the caches; "auto" is the process's own GPU if there is one.
        dry_run: train nothing; run all parts with one clip and two steps, and estimate time and disk space.
        processes: number of processes to estimate for.
    """

    out: str = MISSING
    clips: str = MISSING
    held_out: str = ""
    init: str = ""
    conditioning: str = ""
    unet: str = "configs/full/unet.yaml"
    unet_settings: list[str] = field(default_factory=list)
    guided_settings: list[str] = field(default_factory=lambda: ["structure_share=0.5"])
    decoder: str = "configs/full/decoder.yaml"
    decoder_settings: list[str] = field(default_factory=list)
    bf16: bool = True
    device: str = "auto"
    dry_run: bool = False
    processes: int = limited(1, low=1, high=65536)
