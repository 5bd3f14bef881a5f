"""Reference tensors of the diffusion tests."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture(scope="session")
def reference() -> dict[str, torch.Tensor]:
    """Tables, a DDIM run and a training example computed with the public checkpoints' own sampler."""
    return load_file(GOLDEN / "sampling_tiny.safetensors")
