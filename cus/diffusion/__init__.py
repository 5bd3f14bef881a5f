"""Noise schedule, objective, sampler and pipeline of the video diffusion model."""

from cus.diffusion.context import ContextEncoder, PromptEmbeddings
from cus.diffusion.objective import LatentTarget, Objective
from cus.diffusion.pipeline import CloseUpShotPipeline
from cus.diffusion.sampler import Sampler, ddim, guided
from cus.diffusion.sampling import PLANS, MemoryPlan, Sampling
from cus.diffusion.schedule import NoiseSchedule

__all__ = [
    "CloseUpShotPipeline",
    "ContextEncoder",
    "LatentTarget",
    "MemoryPlan",
    "NoiseSchedule",
    "Objective",
    "PLANS",
    "PromptEmbeddings",
    "Sampler",
    "Sampling",
    "ddim",
    "guided",
]
