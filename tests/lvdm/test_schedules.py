"""The buffers of a noise schedule against the reference's numbers and each other."""

from pathlib import Path

import torch
from safetensors import safe_open

from cus.diffusion.schedule import NoiseSchedule
from cus.lvdm.config import schedule_buffers, schedule_differences
from cus.lvdm.names import SCHEDULE_BUFFERS

GOLDEN = Path(__file__).parent.parent / "golden"


def test_tables_are_the_reference_s() -> None:
    tables = schedule_buffers(NoiseSchedule())
    with safe_open(GOLDEN / "sampling_tiny.safetensors", "pt") as file:
        torch.testing.assert_close(tables["alphas_cumprod"].double(), file.get_tensor("alphas_cumprod"))
        torch.testing.assert_close(tables["scale_arr"][:1000].double(), file.get_tensor("dynamic_rescale"))
    # The published code puts 1000 steps of the last value behind the 400 that fall.
    assert tables["scale_arr"].shape == (1400,) and bool((tables["scale_arr"][400:] == tables["scale_arr"][-1]).all())
    assert tables.keys() == set(SCHEDULE_BUFFERS)


def test_tables_agree_with_each_other() -> None:
    tables = {name: table.double() for name, table in schedule_buffers(NoiseSchedule()).items()}
    alpha_bar, previous = tables["alphas_cumprod"], tables["alphas_cumprod_prev"]
    torch.testing.assert_close((1 - tables["betas"]).cumprod(0), alpha_bar, rtol=1e-3, atol=1e-6)
    assert previous[0] == 1 and torch.equal(previous[1:], alpha_bar[:-1]) and alpha_bar[-1] == 0
    whole = tables["sqrt_alphas_cumprod"] ** 2 + tables["sqrt_one_minus_alphas_cumprod"] ** 2
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=0, atol=1e-6)
    # The posterior's mean at x_t = sqrt(alpha_bar) x_0 lies on the same line one step earlier.
    mean = tables["posterior_mean_coef1"] + tables["posterior_mean_coef2"] * tables["sqrt_alphas_cumprod"]
    torch.testing.assert_close(mean, previous.sqrt(), rtol=1e-4, atol=1e-5)
    assert all(bool(table.isfinite().all()) for table in tables.values())


def test_a_schedule_kept_in_low_precision_is_still_the_same_one() -> None:
    schedule = NoiseSchedule()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rounded = {name: table.to(dtype) for name, table in schedule_buffers(schedule).items()}
        assert not schedule_differences(rounded, schedule)
        for other in (
            NoiseSchedule(zero_terminal_snr=False),
            NoiseSchedule(rescale_base=0.7),
            NoiseSchedule(rescale_steps=300),
            NoiseSchedule(beta_end=0.02),
        ):
            assert schedule_differences(rounded, other)
