"""Distribution matching on Gaussians, whose scores are known."""

import pytest
import torch
from torch import Tensor

from cus.diffusion import NoiseSchedule
from cus.diffusion.matching import estimate_of, matching_loss, student_samples
from cus.diffusion.sampler import Denoiser, ddim, ddim_parts

SCHEDULE = NoiseSchedule(rescale_base=1.0)


def gaussian(mean: Tensor | float, deviation: Tensor | float) -> Denoiser:
    """The exact denoiser of N(mean, deviation^2), as v."""

    def denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
        alpha = SCHEDULE.alpha_bar[timesteps].to(noisy).view(-1, *[1] * (noisy.ndim - 1))
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        gain = deviation**2 * signal / (signal**2 * deviation**2 + sigma**2)
        x0 = mean + gain * (noisy - signal * mean)
        # v = signal * noise - sigma * x0, with the noise that belongs to x0; at no signal it is all of what is noisy.
        noise = (noisy - signal * x0) / sigma
        return signal * noise - sigma * x0

    return denoiser


def test_the_estimate_of_an_exact_denoiser_is_the_posterior_mean() -> None:
    noisy, timesteps = torch.randn(5, 7), torch.full((5,), 400)
    signal = float(SCHEDULE.alpha_bar[400]) ** 0.5
    gain = 0.25 * signal / (0.25 * signal**2 + 1 - signal**2)
    expected = 2 + gain * (noisy - signal * 2)
    torch.testing.assert_close(estimate_of(gaussian(2.0, 0.5), noisy, timesteps, SCHEDULE), expected)


def test_the_gradient_is_the_difference_of_the_scores_over_the_teachers_error() -> None:
    clean = torch.randn(3, 4, requires_grad=True)
    real, fake = torch.randn(3, 4), torch.randn(3, 4)
    matching_loss(clean, real, fake).backward()
    scale = (clean.detach() - real).abs().mean(dim=1, keepdim=True)
    torch.testing.assert_close(clean.grad, (fake - real) / scale / clean.numel())
    # Where the critic knows nothing better than the teacher, nothing moves.
    assert not torch.autograd.grad(matching_loss(clean, real, real), clean)[0].any()


@pytest.mark.parametrize("start", [(0.0, 1.0), (3.0, 0.2)])
def test_a_students_samples_take_the_mean_and_the_deviation_of_the_teachers(start: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, deviation = (torch.tensor(value, requires_grad=True) for value in start)
    optimizer = torch.optim.Adam([mean, deviation], lr=0.03)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 500)
        samples = mean + deviation * torch.randn(256, 8, generator=generator)
        timesteps = torch.randint(20, 980, (256,), generator=generator)
        noisy = SCHEDULE.add_noise(samples.detach(), torch.randn(256, 8, generator=generator), timesteps)
        real = estimate_of(gaussian(1.0, 0.5), noisy, timesteps, SCHEDULE)
        # A perfect critic: the student's distribution is known.
        fake = estimate_of(gaussian(mean.detach(), deviation.detach()), noisy, timesteps, SCHEDULE)
        optimizer.zero_grad()
        matching_loss(samples, real, fake).backward()
        optimizer.step()
    found = float(mean.detach()), float(deviation.detach())
    assert found == pytest.approx((1.0, 0.5), abs=0.03)


@pytest.mark.parametrize("rescale_base", [1.0, 0.3])
def test_the_students_last_sample_is_what_ddim_ends_with(rescale_base: float) -> None:
    schedule, noise = NoiseSchedule(rescale_base=rescale_base), torch.randn(2, 3, 4)
    calls: list[bool] = []
    seen: list[Tensor] = []

    def denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        seen.append(noisy)
        return 0.3 * noisy - 0.1

    samples = student_samples(denoiser, noise, schedule, 4, 3)
    assert calls == [False, False, False, True]
    x0, direction = ddim_parts(denoiser(seen[3], torch.zeros(2)), seen[3], schedule, 249, 0)
    torch.testing.assert_close(samples, x0)
    # DDIM leaves the noise of timestep 0 in.
    alpha = float(schedule.alpha_bar[0])
    torch.testing.assert_close(
        ddim(denoiser, noise, schedule, 4), alpha**0.5 * x0 + (1 - alpha) ** 0.5 * direction, rtol=0, atol=1e-5
    )
    calls[:] = [False] * 8
    student_samples(denoiser, noise, schedule, 4, 0)
    assert calls[8:] == [True]
    with pytest.raises(ValueError, match="last must be 0 to 3"):
        student_samples(denoiser, noise, schedule, 4, 4)
