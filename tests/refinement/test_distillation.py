"""Score distillation on Gaussians, whose scores are known: what each gradient makes of many samples."""

import pytest
import torch
from torch import Tensor, nn

from cus.diffusion import NoiseSchedule
from cus.diffusion.sampler import ddim_parts
from cus.errors import InputError
from cus.refinement.distillation import DistillOptions, Gradient, annealed, distill, gradient, renoised

SCHEDULE = NoiseSchedule(rescale_base=1.0)
MEAN, DEVIATION = 1.0, 0.5


def posterior(noisy: Tensor, timestep: int, mean: Tensor | float, deviation: Tensor | float, schedule=SCHEDULE):
    """The mean of the clean samples of N(mean, deviation^2) behind noisy ones."""
    level, scale = schedule.level(timestep), float(schedule.rescale[timestep])
    signal = level.signal * scale
    gain = deviation**2 * signal / (signal**2 * deviation**2 + level.spread**2)
    return mean + gain * (noisy - signal * mean)


class Exact:
    """The prior N(1, 0.5^2), and a critic that always knows how the samples are distributed."""

    def __init__(self) -> None:
        self.mean, self.deviation, self.learned = torch.zeros(()), torch.ones(()), 0

    def prior(self, noisy: Tensor, timestep: int) -> Tensor:
        return posterior(noisy, timestep, MEAN, DEVIATION)

    def critic(self, noisy: Tensor, timestep: int) -> Tensor:
        return posterior(noisy, timestep, self.mean, self.deviation)

    def learn(self, clean: Tensor, noise: Tensor, timestep: int) -> None:
        self.mean, self.deviation, self.learned = clean.mean(), clean.std(), self.learned + 1


class Trained(Exact):
    """The prior, and a critic that learns mean and deviation by gradient descent on its denoising error."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters = nn.ParameterList([torch.zeros(()), torch.zeros(())])
        self.optimizer = torch.optim.Adam(self.parameters, lr=0.05)

    def critic(self, noisy: Tensor, timestep: int) -> Tensor:
        return posterior(noisy, timestep, self.parameters[0], self.parameters[1].exp())

    def learn(self, clean: Tensor, noise: Tensor, timestep: int) -> None:
        self.optimizer.zero_grad()
        estimate = self.critic(renoised(clean, noise, timestep, SCHEDULE), timestep)
        (estimate - clean).square().mean().backward()
        self.optimizer.step()


def after(kind: Gradient, score: Exact, steps: int = 400, rate: float = 0.1, **options) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    start = -1 + 0.1 * torch.randn(1024, 1, generator=generator)
    settings = DistillOptions(kind, steps=steps, rate=rate, **options)
    return distill([start], [score], SCHEDULE, settings, generator)[0]


@pytest.mark.parametrize(("score", "options"), [(Exact, {"critic_every": 1}), (Trained, {"critic_every": 3})])
def test_samples_under_vsd_take_the_priors_mean_and_deviation(score, options):
    made = after("vsd", score(), steps=800, rate=0.03, noise_range=(0.02, 0.6), **options)
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.06)
    assert float(made.std()) == pytest.approx(DEVIATION, abs=0.06)


def test_samples_under_sds_collapse_to_the_mode():
    made = after("sds", Exact(), steps=800, rate=0.02)
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(made.std()) < 0.1 * DEVIATION


def test_samples_that_are_distributed_as_the_prior_stay_so_under_vsd_alone():
    generator = torch.Generator().manual_seed(1)
    samples = MEAN + DEVIATION * torch.randn(50_000, 1, generator=generator)
    noise = torch.randn(samples.shape, generator=generator)
    score = Exact()
    score.learn(samples, noise, 0)
    sizes = {
        kind: float(gradient(DistillOptions(kind), score, samples, noise, 500, 400, SCHEDULE).square().mean().sqrt())
        for kind in ("sds", "rsd", "vsd")
    }
    assert sizes["vsd"] < 0.01 and sizes["sds"] > 0.1 and sizes["rsd"] > 0.01


def test_rsd_is_sds_by_the_share_of_the_noise_that_its_step_removes():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    now, score = 600, Exact()
    level = SCHEDULE.level(now)
    sds = gradient(DistillOptions("sds"), score, clean, noise, now, now, SCHEDULE) / level.signal
    for then in (0, 300, 600):
        there = SCHEDULE.level(then)
        removed = 1 - (there.spread / there.signal) / (level.spread / level.signal)
        rsd = gradient(DistillOptions("rsd"), score, clean, noise, now, then, SCHEDULE)
        torch.testing.assert_close(rsd, removed * sds, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rescale_base", [1.0, 0.5])
def test_rsd_with_whole_steps_is_ddim_sampling(rescale_base: float):
    schedule = NoiseSchedule(rescale_base=rescale_base)
    options = DistillOptions("rsd", steps=9, noise_range=(0.1, 0.9))

    class Prior(Exact):
        def prior(self, noisy: Tensor, timestep: int) -> Tensor:
            return posterior(noisy, timestep, MEAN, DEVIATION, schedule)

    start = torch.randn(4, 6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    made = distill([start], [Prior()], schedule, options, generator)[0]
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(3)).double()
    levels = annealed(options, schedule)
    latents = renoised(start, noise, levels[0][0], schedule)
    for now, then in levels:
        estimate = posterior(latents, now, MEAN, DEVIATION, schedule)
        level = schedule.level(now)
        direction = (latents - level.signal * float(schedule.rescale[now]) * estimate) / level.spread
        v = level.v(estimate * float(schedule.rescale[now]), direction)
        x0, direction = ddim_parts(v, latents, schedule, now, then)
        latents = schedule.level(then).mix(x0, direction)
    torch.testing.assert_close(renoised(made, noise, 0, schedule), latents, rtol=1e-6, atol=1e-8)


def test_samples_under_rsd_take_the_spread_of_the_prior_from_their_noise():
    options = DistillOptions("rsd", steps=60, noise_range=(0.0, 0.99))
    generator = torch.Generator().manual_seed(0)
    made = distill([torch.zeros(4096, 1)], [Exact()], SCHEDULE, options, generator)[0]
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(made.std()) == pytest.approx(DEVIATION, rel=0.15)


def test_the_critic_learns_in_every_third_step():
    score = Exact()
    after("vsd", score, steps=10, critic_every=3, critic_steps=2)
    assert score.learned == 2 + 4
    idle = Exact()
    after("sds", idle, steps=10)
    assert idle.learned == 0


def test_noise_is_annealed_from_the_highest_level_to_the_lowest():
    levels = annealed(DistillOptions(steps=5, noise_range=(0.1, 0.9)), SCHEDULE)
    assert [now for now, _ in levels] == [899, 699, 500, 300, 100]
    assert [then for _, then in levels] == [699, 500, 300, 100, 0]


def test_every_sample_is_moved_whatever_its_size():
    scores = [Exact(), Exact()]
    seen = []
    generator = torch.Generator().manual_seed(0)
    samples = [torch.zeros(2, 3), torch.zeros(5, 1)]
    made = distill(samples, scores, SCHEDULE, DistillOptions("sds", steps=2), generator, lambda *now: seen.append(now))
    assert [m.shape for m in made] == [s.shape for s in samples] and all(bool((m != 0).any()) for m in made)
    assert not samples[0].any() and seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"noise_range": (0.9, 0.1)}, {"critic_every": 0}, {"rate": 0.0}, {"gradient": "ism"}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        DistillOptions(**options).check()
