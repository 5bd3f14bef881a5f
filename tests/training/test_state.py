"""Averaged weights, learning rates, and items that depend on their index alone."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from cus.errors import InputError
from cus.training.loop import LoopSettings
from cus.training.state import Ema


def test_the_average_follows_its_definition() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    ema = Ema([parameter], 0.9)
    expected = torch.zeros(3)
    for step in range(20):
        parameter.data += 1
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.data
    with ema.applied():
        torch.testing.assert_close(parameter.data, expected)
    assert torch.equal(parameter.data, torch.full((3,), 20.0))


def test_averages_of_another_model_are_refused() -> None:
    state = Ema([nn.Parameter(torch.zeros(3))], 0.9).state_dict()
    with pytest.raises(InputError, match="another model"):
        Ema([nn.Parameter(torch.zeros(4))], 0.9).load_state_dict(state)


def test_learning_rate_warms_up_then_decays_to_a_twentieth() -> None:
    settings = LoopSettings(steps=100, learning_rate=1.0, warmup=10, decay="cosine")
    rates = [settings.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert all(later <= earlier for earlier, later in pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0.05)
