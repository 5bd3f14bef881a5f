"""Noise schedule, objective, sampler and pipeline of the video diffusion model."""

from cus.diffusion.context import ContextEncoder, PromptEmbeddings
from cus.diffusion.objective import LatentTarget, Objective
from cus.diffusion.pipeline import CloseUpShotPipeline, Sampling
from cus.diffusion.sampler import ddim, guided
from cus.diffusion.schedule import NoiseSchedule

__all__ = [
    "CloseUpShotPipeline",
    "ContextEncoder",
    "LatentTarget",
    "NoiseSchedule",
    "Objective",
    "PromptEmbeddings",
    "Sampling",
    "ddim",
    "guided",
]
