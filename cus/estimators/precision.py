"""The precision in which networks run."""

import torch


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type in which a device multiplies matrices faster than in float32; None if there is none.

    On GPUs bfloat16 from Ampere on, float16 before; on CPUs bfloat16 if they have instructions for it.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in _CPU_INSTRUCTIONS):
        return torch.bfloat16
    return None


# Emulation, which oneDNN has for every CPU with AVX-512, is not faster than float32.
_CPU_INSTRUCTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
