"""How a checkpoint is sampled, and how a run of it uses memory: settings, no computation."""

from dataclasses import dataclass

from cus.errors import shown

"""What a user may ask for: the fastest plan that fits, or one."""


@dataclass(frozen=True)
class Sampling:
    """How a checkpoint wants to be sampled; stored in its `model_index.json`.

    Attributes:
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 skips the unconditional branch.
        guidance_rescale: see `cus.diffusion.sampler.guided`.
        eta: 0 deterministic DDIM, 1 as much noise as DDPM.
        frames: clip length the model was trained for; longer paths are made in chunks that share their end frames.
        width: preferred width of the frames, in pixels.
        height: likewise.
        fps: frame rate the network is told.
        residual_scale: see `cus.diffusion.objective.LatentTarget`.
        layers: condition layers that the network reads beside the merged image (`cus.diffusion.layers`), 0 to 2.
        noise: what the starting noise is multiplied with; 0 makes a checkpoint of one step a plain regression, whose
            frames depend on nothing drawn.
        second_pass: whether structure guidance is worth a second pass with this checkpoint, as measured after training.
        fill_holes: whether the network sees conditioning images whose holes continue their surroundings
            (`cus.diffusion.holes`), for one that restores rather than invents; else holes are black.
        color_window: width in pixels, odd, of the window over which frames keep the mean colour of their conditioning
            image (`cus.diffusion.colors`); 0: they need not.
        conditioning: the kind of conditioning images it does best with, as a rule those it was trained on: a name in
            `cus.conditioning.kinds.KINDS`, where it is looked up when frames are made.

    Raises:
        ValueError: a value of another type, or out of its range.
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
        for name in ("second_pass", "fill_holes"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"the sampling's {name} must be true or false, got {shown(getattr(self, name))}")
        if not isinstance(self.conditioning, str):
            raise ValueError(f"the sampling's conditioning must be a name, got {shown(self.conditioning)}")


@dataclass(frozen=True)
class MemoryPlan:
    """How a run trades memory for speed; every plan gives the same frames up to rounding.

    Attributes:
        guidance_at_once: both branches of the guidance in one batch; False runs one after the other.
        frames_at_once: frames that the autoencoder encodes or decodes together.
        offload: networks stay in the main memory and visit the device one at a time; without effect on a CPU.
    """

    guidance_at_once: bool = False
    frames_at_once: int = 2
    offload: bool = False


PLANS = {
    "high": MemoryPlan(guidance_at_once=True, frames_at_once=4),
    "middle": MemoryPlan(),
    "low": MemoryPlan(frames_at_once=1, offload=True),
}
"""From fast to frugal."""
