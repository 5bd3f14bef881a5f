"""Settings of a checkpoint's sampling, and of the memory use of a run; no computation."""

from dataclasses import dataclass

from cus.errors import shown

"""Memory plans to choose from: the fastest that fits, or a specific one."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of a checkpoint; stored in its `model_index.json`.

    Attributes:
        steps: number of denoising steps.
        guidance: classifier-free guidance scale; 1 skips the unconditional branch.
        guidance_rescale: strength of the rescaling of the guidance, 0 .. 1 (`cus.diffusion.sampler.guided`).
        eta: 0: deterministic DDIM; 1: as much noise as DDPM.
        frames: clip length of the training; longer paths are made in chunks that share their end frames.
        width: preferred frame width in pixels.
        height: preferred frame height in pixels.
        fps: frame rate passed to the network.
        residual_scale: scale of the diffused residual; 0: latents (`cus.diffusion.objective.LatentTarget`).
        layers: number of condition layers besides the merged image (`cus.diffusion.layers`), 0 to 2.
        noise: factor on the starting noise; 0 makes a one-step checkpoint a plain regression, whose frames do not
            depend on any random draw.
        second_pass: whether structure guidance is worth a second pass with this checkpoint, as measured after training.
        fill_holes: whether to fill holes of the conditioning images from their surroundings, along a path with their
            texture (`cus.conditioning.continued`), for a network that restores rather than invents; else black.
        color_window: width in pixels, odd, of the window over which frames keep the mean colour of their conditioning
            image (`cus.diffusion.colors`); 0: off.
        keep_resolved: whether frames keep the detail that the photographs already show, so that the network changes
            only what they leave open (`cus.diffusion.colors`).
        conditioning: best kind of conditioning images, usually that of the training: a name in
            `cus.conditioning.kinds.KINDS`, which is looked up when frames are made.

    Raises:
        ValueError: a value of a wrong type, or out of range.
    """

    steps: int = 50
    guidance: float = 7.5
    guidance_rescale: float = 0.7
    eta: float = 1.0
    frames: int = 25
    width: int = 1024
    height: int = 576
    fps: int = 10
    residual_scale: float = 0.0
    layers: int = 0
    noise: float = 1.0
    second_pass: bool = True
    fill_holes: bool = False
    color_window: int = 0
    keep_resolved: bool = False
    conditioning: str = "hierarchical"

    def __post_init__(self) -> None:
        ranges = {
            "steps": (1, 1000), "guidance": (0, 100), "guidance_rescale": (0, 1), "eta": (0, 1), "frames": (1, 1000),
            "width": (1, 8192), "height": (1, 8192), "fps": (1, 1000), "residual_scale": (0, 1000),
            "layers": (0, 2), "noise": (0, 1000), "color_window": (0, 1001),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            whole = name in ("steps", "frames", "width", "height", "fps", "layers", "color_window")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise ValueError(f"the sampling's {name} must be a {'whole ' * whole}number, got {shown(value)}")
            if not low <= value <= high:
                raise ValueError(f"the sampling's {name} must be {low} to {high}, got {shown(value)}")
        if self.color_window and self.color_window % 2 == 0:
            raise ValueError(f"the sampling's color_window must be 0 or odd, got {self.color_window}")
        for name in ("second_pass", "fill_holes", "keep_resolved"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"the sampling's {name} must be true or false, got {shown(getattr(self, name))}")
        if not isinstance(self.conditioning, str):
            raise ValueError(f"the sampling's conditioning must be a name, got {shown(self.conditioning)}")


@dataclass(frozen=True)
class MemoryPlan:
    """How a run trades memory for speed; every plan gives the same frames up to rounding.

    Attributes:
        guidance_at_once: both branches of the guidance in one batch; False runs one after the other.
        frames_at_once: number of frames that the autoencoder encodes or decodes together.
        offload: networks stay in main memory and move to the device one at a time; no effect on a CPU.
    """

    guidance_at_once: bool = False
    frames_at_once: int = 2
    offload: bool = False


PLANS = {
    "high": MemoryPlan(guidance_at_once=True, frames_at_once=4),
    "middle": MemoryPlan(),
    "low": MemoryPlan(frames_at_once=1, offload=True),
}
"""The plans by name, from the fastest to the most economical."""
