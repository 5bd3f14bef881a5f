"""Settings of a recipe."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from cus.limits import limited


@dataclass
class Recipe:
    """Settings of train/recipe.py.

    Attributes:
        out: folder; each part has its own in it.
        clips: folder of data/build_clips.py, such as <build>/train, or of its shards.
        held_out: folder of clips for scores and sample pictures, such as <build>/held_out; empty makes none.
        init: pipeline that both U-Nets start from: a folder or Hub id; empty builds what `unet` describes.
        conditioning: which of the clips' warps the models learn from; empty is the clips' own. It should be of the kind
            that `sampling.conditioning` of the U-Net asks for.
        unet: config of train/unet.py for both U-Nets.
        unet_settings: of both, each "key=value" over it.
        guided_settings: of the second one, over these.
        decoder: config of train/decoder.py for both decoder stages; empty leaves them out.
        decoder_settings: of both, each "key=value" over it.
        bf16: whether caches are computed in bfloat16 autocast.
        device: of the caches, a torch device; "auto" is the process's own GPU where there is one.
        dry_run: train nothing; go through all parts with one clip and two steps, and estimate time and disk.
        processes: that the estimate is for.
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
