"""The claimed device itself: what it refuses, what it counts, and that it computes what the CPU does."""

import pytest
import torch
from torch import nn

from tests.devices.claimed import Claimed, DeviceError, Machine


def test_mixing_devices_is_refused_but_for_single_values_and_indices() -> None:
    with Machine() as machine:
        here, there = torch.ones(3, 4, device="cuda"), torch.ones(3, 4)
        assert (here + 1).device.type == "cuda" and (here + torch.tensor(2.0)).device.type == "cuda"
        assert here[torch.tensor([0, 2])].shape == (2, 4)
        mixed = [lambda: here + there, lambda: torch.cat([here, there]), lambda: there @ here.T]
        mixed += [lambda: torch.where(there > 0, here, here), lambda: nn.functional.linear(here, torch.ones(2, 4))]
        for mix in mixed:
            with pytest.raises(DeviceError, match="mixes"):
                mix()
        with pytest.raises(DeviceError, match="from a generator of cpu"):
            torch.randn(3, device="cuda", generator=torch.Generator())
        assert (here + there.to("cuda")).device == machine.device and machine.uploads > 0


def test_whatever_makes_the_host_wait_is_counted_and_refused_where_it_is_forbidden() -> None:
    waiting = [lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: bool((x > 0).any()), lambda x: x.cpu()]
    waiting += [
        lambda x: x[x > 1],
        lambda x: (x > 1).nonzero(),
        lambda x: x.tolist(),
        lambda x: torch.zeros(3).copy_(x),
    ]
    with Machine() as machine:
        x = torch.arange(3.0, device="cuda")
        for number, wait in enumerate(waiting):
            wait(x)
            assert sum(machine.waits.values()) > number, f"of {number}"
            with machine.no_waiting(), pytest.raises(DeviceError, match="makes the host wait"):
                wait(x)
        assert x.tolist() == [0, 1, 2]


def test_a_network_gives_the_values_and_gradients_of_the_cpu() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.SiLU(), nn.Linear(6, 1))
    x = torch.randn(5, 4)
    expected = network(x)
    expected.sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    with Machine("lazy") as machine:
        found = machine.moved(network)(machine.holds(x))
        assert isinstance(found, Claimed) and torch.equal(found.value, expected)
        found.sum().backward()
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            assert isinstance(parameter.grad, Claimed)
            torch.testing.assert_close(parameter.grad.value, gradient)
