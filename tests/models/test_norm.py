"""Our group norm is torch's, values and gradients."""

import pytest
import torch
from torch import nn

from cus.models.norm import GroupNorm, replace_group_norms


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 8, 1, 4), (3, 8, 6, 1)])
def test_values_and_gradients_are_torch_s(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = nn.GroupNorm(4, 8, eps=1e-6)
    ours = GroupNorm(4, 8, eps=1e-6)
    for norm in (theirs, ours):
        norm.weight.data = torch.linspace(0.5, 2, 8)
        norm.bias.data = torch.linspace(-1, 1, 8)
    x = (3 + torch.randn(shape)).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(shape)
    results = []
    for norm in (theirs, ours):
        y = norm(x)
        results.append([y, *torch.autograd.grad((y * weights).sum(), (x, norm.weight, norm.bias))])
    for mine, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_gradient_matches_finite_differences() -> None:
    torch.manual_seed(0)
    norm = GroupNorm(2, 4).double()
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b: nn.functional.silu(norm(x)), (x, norm.weight, norm.bias), atol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 0.01, 0.2, 3.0])
def test_gradients_in_bfloat16_are_exact_to_its_rounding(mean: float) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(4, 16)
    x = (mean + torch.randn(1, 16, 32, 48)).to(torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    dy = 0.3 + torch.randn(x.shape)
    gradients = torch.autograd.grad(norm(x), (x, norm.weight, norm.bias), dy.to(torch.bfloat16))
    exact_x = x.detach().double().requires_grad_()
    exact = torch.autograd.grad(norm.double()(exact_x), (exact_x, norm.weight, norm.bias), dy.double())
    for mine, expected in zip(gradients, exact, strict=True):
        assert (mine.double() - expected).norm() / expected.norm() < 0.01


def test_replacing_keeps_parameters_and_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.GroupNorm(4, 8, eps=1e-3)))
    before = dict(model.named_parameters())
    replace_group_norms(model)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(after[name] is before[name] for name in before)
    assert isinstance(model[1][0], GroupNorm) and model[1][0].eps == 1e-3
