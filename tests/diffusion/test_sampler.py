"""DDIM and guidance with callables for networks; no model."""

import pytest
import torch

from cus.diffusion.sampler import ddim, guided, guided_at_once, keep_first_frame
from cus.diffusion.schedule import NoiseSchedule


def oracle(latents: torch.Tensor, schedule: NoiseSchedule):
    """The v of a network that always knows that the clean latents are `latents`."""

    def denoiser(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        signal = schedule.alpha_bar[timesteps].sqrt().view(-1, 1, 1).to(noisy.dtype)
        spread = (1 - schedule.alpha_bar[timesteps]).sqrt().view(-1, 1, 1).to(noisy.dtype)
        return (signal * noisy - schedule.rescaled(latents, timesteps)) / spread

    return denoiser


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 50])
def test_a_network_that_knows_the_answer_reaches_it(eta: float, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    schedule = NoiseSchedule()
    latents, noise = torch.randn(2, 2, 4, 3, generator=generator)
    sample = ddim(oracle(latents, schedule), noise, schedule, steps, eta=eta, step_noise=generator)
    # The walk ends at timestep 0, where sqrt(1 - alpha_bar) = 0.029 of noise is left.
    torch.testing.assert_close(sample, latents, rtol=0, atol=0.15)


def test_same_generator_state_gives_the_same_sample_and_progress_is_told() -> None:
    schedule = NoiseSchedule()
    noise = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    told: list[tuple[int, int]] = []
    samples = [
        ddim(
            lambda x, _: 0.1 * x,
            noise,
            schedule,
            4,
            eta=1.0,
            step_noise=torch.Generator().manual_seed(5),
            on_progress=lambda done, total: told.append((done, total)),
        )
        for _ in range(2)
    ]
    assert torch.equal(*samples)
    assert told[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_eta_without_a_source_of_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="step_noise"):
        ddim(lambda x, _: x, torch.zeros(1, 2), NoiseSchedule(), 2, eta=1.0)
    with pytest.raises(ValueError, match="one tensor a step"):
        ddim(lambda x, _: x, torch.zeros(1, 2), NoiseSchedule(), 2, eta=1.0, step_noise=[torch.zeros(1, 2)])


def test_guidance_one_skips_the_unconditional_branch() -> None:
    def never(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the unconditional branch was called")

    conditional = lambda x, _: 2 * x  # noqa: E731
    assert guided(conditional, never, 1.0, 0.7) is conditional


def test_full_rescale_keeps_the_spread_of_the_conditional_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, unwanted = torch.randn(2, 3, 4, 5, generator=generator)
    denoiser = guided(lambda x, t: wanted, lambda x, t: unwanted, 7.5, 1.0)
    mixed = denoiser(wanted, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(mixed.std((1, 2)), wanted.std((1, 2)))


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_both_branches_in_one_batch_give_what_two_calls_give(rescale: float) -> None:
    latents, timesteps = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 9])
    weights = torch.tensor([2.0, -1.0])

    def one(weight: torch.Tensor):
        return lambda x, t: weight * x + t.view(-1, 1, 1)

    def both(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return weights.repeat_interleave(len(x) // 2).view(-1, 1, 1) * x + t.view(-1, 1, 1)

    expected = guided(one(weights[0]), one(weights[1]), 7.5, rescale)(latents, timesteps)
    torch.testing.assert_close(guided_at_once(both, 7.5, rescale)(latents, timesteps), expected)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_clip_that_begins_with_a_known_frame_shows_the_network_that_frame_at_every_step(eta: float) -> None:
    generator = torch.Generator().manual_seed(2)
    schedule = NoiseSchedule()
    noise, known = torch.randn(1, 2, 3, 4, 4, generator=generator), torch.randn(1, 2, 4, 4, generator=generator)
    seen: list[tuple[int, torch.Tensor]] = []

    def denoiser(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append((int(timesteps), noisy[:, :, 0]))
        return 0.3 * noisy

    ddim(
        denoiser, noise, schedule, 5, eta=eta, step_noise=generator, constrain=keep_first_frame(known, noise, schedule)
    )
    assert [timestep for timestep, _ in seen] == schedule.timesteps(5).tolist()
    for timestep, first in seen:
        alpha_bar, rescale = float(schedule.alpha_bar[timestep]), float(schedule.rescale[timestep])
        expected = alpha_bar**0.5 * rescale * known + (1 - alpha_bar) ** 0.5 * noise[:, :, 0]
        torch.testing.assert_close(first, expected)
