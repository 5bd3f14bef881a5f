"""The noise schedule in a checkpoint of the "lvdm" family: tables derived from alpha_bar."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cus.diffusion.schedule import NoiseSchedule

# Tolerance for two tables to be equal up to rounding in the checkpoint's precision; values are in [0, 1].
TOLERANCES = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
TABLES = ("alphas_cumprod", "scale_arr")


def schedule_buffers(schedule: NoiseSchedule) -> dict[str, Tensor]:
    """The buffers of their model for this schedule, float32 (its `register_schedule`, v-prediction)."""
    alpha_bar = schedule.alpha_bar
    previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    alphas = alpha_bar / previous
    betas = 1 - alphas
    variance = betas * (1 - previous) / (1 - alpha_bar)
    # Theirs appends a whole schedule of the last value to the falling part; entries after the last step are not read.
    falling = schedule.rescale[: schedule.config["rescale_steps"]]
    tables = {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": alpha_bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alpha_bar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alpha_bar).log(),
        # Theirs are zero with v-prediction: at zero terminal SNR the last would be infinite.
        "sqrt_recip_alphas_cumprod": torch.zeros_like(alpha_bar),
        "sqrt_recipm1_alphas_cumprod": torch.zeros_like(alpha_bar),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - alpha_bar),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - alpha_bar),
    }
    if schedule.config["rescale_base"] != 1:
        tables["scale_arr"] = torch.cat([falling, torch.full_like(alpha_bar, schedule.config["rescale_base"])])
    return {name: table.float() for name, table in tables.items()}


def schedule_differences(tensors: Mapping[str, Tensor], schedule: NoiseSchedule) -> list[str]:
    """Differences in noise levels and dynamic rescale between a checkpoint and a schedule, in words.

    Missing tables are not compared: only these two of the buffers are independent.
    """
    ours = {"alphas_cumprod": schedule.alpha_bar, "scale_arr": schedule.rescale}
    found = []
    for name in TABLES:
        theirs = tensors.get(name)
        if theirs is None or theirs.is_meta:
            continue
        steps = schedule.num_timesteps
        if theirs.ndim != 1 or len(theirs) < steps or (name == "alphas_cumprod" and len(theirs) != steps):
            found.append(f"{name} is {list(theirs.shape)}, expected {steps} steps")
            continue
        off = (theirs[:steps].double() - ours[name]).abs()
        # Not "greater than", so that NaN differs, too.
        if not bool((off <= TOLERANCES.get(theirs.dtype, 1e-5)).all()):
            worst = int(off.nan_to_num(torch.inf).argmax())
            found.append(
                f"{name} is {float(theirs[worst]):.4f} at step {worst}, expected {float(ours[name][worst]):.4f}"
            )
    if "scale_arr" not in tensors and "alphas_cumprod" in tensors and schedule.config["rescale_base"] != 1:
        found.append(f"missing scale_arr: no dynamic rescale, expected one to {schedule.config['rescale_base']}")
    return found
