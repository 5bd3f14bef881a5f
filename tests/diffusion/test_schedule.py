"""The noise schedule against the reference tables and its own identities."""

import torch

from cus.diffusion.schedule import NoiseSchedule


def test_tables_agree_with_the_reference(reference: dict[str, torch.Tensor]) -> None:
    schedule = NoiseSchedule()
    torch.testing.assert_close(schedule.alpha_bar, reference["alphas_cumprod"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.rescale, reference["dynamic_rescale"], rtol=1e-12, atol=0)
    assert schedule.alpha_bar[-1] == 0


def test_trailing_timesteps_agree_with_the_reference(reference: dict[str, torch.Tensor]) -> None:
    for steps in (5, 10, 25, 50):
        timesteps = NoiseSchedule().timesteps(steps)
        assert timesteps.sort().values.tolist() == reference[f"ddim_timesteps_{steps}"].sort().values.tolist()
        assert timesteps[0] == 999


def test_one_training_example_agrees_with_the_reference(reference: dict[str, torch.Tensor]) -> None:
    schedule = NoiseSchedule()
    example = {key.removeprefix("train."): value for key, value in reference.items() if key.startswith("train.")}
    noisy = schedule.add_noise(example["z0"], example["noise"], example["timesteps"])
    target = schedule.v_target(example["z0"], example["noise"], example["timesteps"])
    torch.testing.assert_close(noisy, example["z_noisy"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(target, example["v_target"], rtol=1e-5, atol=1e-6)


def test_clean_latents_and_noise_come_back_from_v_at_every_level() -> None:
    schedule = NoiseSchedule()
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1000, 3, 2, generator=generator).unbind(0)
    timesteps = torch.arange(1000)
    noisy, v = schedule.add_noise(latents, noise, timesteps), schedule.v_target(latents, noise, timesteps)
    expected = schedule.rescaled(latents, timesteps)
    torch.testing.assert_close(schedule.x0_from_v(v, noisy, timesteps), expected, rtol=0, atol=1e-5)
    found = torch.stack([schedule.level(t).split(v[t], noisy[t])[1] for t in range(1000)])
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-5)
    assert torch.isfinite(schedule.snr(timesteps)).all()


def test_schedule_survives_saving_and_loading(tmp_path) -> None:
    schedule = NoiseSchedule(rescale_base=0.5, rescale_steps=100)
    schedule.save_pretrained(tmp_path)
    loaded = NoiseSchedule.from_pretrained(tmp_path)
    assert isinstance(loaded, NoiseSchedule)
    torch.testing.assert_close(loaded.rescale, schedule.rescale)
