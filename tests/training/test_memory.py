"""What a step of training needs, against what PyTorch's allocator hands out."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cus.diffusion.context import ContextEncoder
from cus.training.loop import checkpoint_activations
from cus.training.memory import StepNeed, measure_step
from cus.training.unet import Denoiser
from tests.diffusion.tiny import tiny_pipeline

SHAPE = (1, 6, 32, 48)


def denoiser() -> Denoiser:
    parts = tiny_pipeline()
    module = Denoiser(parts.unet, ContextEncoder(parts.prompt, parts.image_encoder, parts.image_projector))
    module.context.requires_grad_(False)
    return module.train()


def allocated(module: Denoiser, precision: str) -> int:
    """Peak bytes that the allocator handed out in the second of two passes, what was there before it included."""
    items, frames, height, width = SHAPE
    sample, target = torch.zeros(items, 8, frames, height, width), torch.zeros(items, 4, frames, height, width)
    drops = (torch.zeros(items, dtype=torch.bool), torch.zeros(items, dtype=torch.bool))
    batch = {"reference": torch.zeros(items, 3, 28, 28)}
    dtype = {"bf16": torch.bfloat16, "float32": None}[precision]

    def step() -> None:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            v = module(sample, torch.zeros(items, dtype=torch.long), batch, drops, 10)
        (v.float() - target).square().mean().backward()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        step()
    events = [event for event in log.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    gradients = sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)
    return peak + gradients + sum(tensor.nbytes for tensor in (sample, target, batch["reference"]))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "checkpointing"), [("bf16", False), ("float32", True)])
def test_the_need_of_a_step_is_what_the_allocator_hands_out(precision: str, checkpointing: bool) -> None:
    options = {"precision": precision, "gradient_checkpointing": checkpointing, "as_on_cuda": False}
    counted = measure_step(denoiser(), SHAPE, **options)
    module = denoiser()
    if checkpointing:
        checkpoint_activations(module)
    assert allocated(module, precision) == pytest.approx(counted.working, rel=0.1)


@pytest.mark.slow
def test_checkpointing_saves_activations_and_nothing_else() -> None:
    plain, saving = (measure_step(denoiser(), SHAPE, gradient_checkpointing=on) for on in (False, True))
    assert saving.working < 0.6 * plain.working
    assert (saving.learning, saving.weights, saving.frozen) == (plain.learning, plain.weights, plain.frozen)


def test_the_total_follows_optimizer_averages_and_shards() -> None:
    need = StepNeed(learning=1000, weights=4000, frozen=2000, working=10_000)
    fixed = StepNeed(0, 0, 0, 0).total()
    assert need.total() - fixed == round(1.1 * (4000 + 2000 + 8000 + 10_000))
    assert need.total(averages=True) - need.total() == round(1.1 * 4000)
    assert need.total("adamw8bit") < need.total()
    assert need.total(processes=4) - fixed == round(1.1 * ((4000 + 2000 + 8000 + 4000) / 4 + 6000))
