import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from cus.splats.losses import ssim


def pair(noise: float, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 21, 34, generator=generator, dtype=dtype)
    return x, (x + noise * (torch.rand(x.shape, generator=generator, dtype=dtype) - 0.5)).clamp(0, 1)


@pytest.mark.parametrize("noise", [0.05, 0.5, 2.0])
def test_values_and_gradients_are_those_of_torchmetrics(noise: float) -> None:
    x, y = pair(noise)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = ssim(ours, y)
    want = structural_similarity_index_measure(theirs, y, data_range=1.0, reduction="none")
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    got.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(6, 16), (7, 35), (40, 33)])
def test_compiled_values_and_gradients_are_those_of_double_precision(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 4, 3, height, width, generator=generator, dtype=torch.float64)
    weights = torch.rand(4, generator=generator, dtype=torch.float64)
    ours, plain = x.float().requires_grad_(), x.clone().requires_grad_()
    got, want = ssim(ours, y.float()), ssim(plain, y)
    assert "Similarity" in str(got.grad_fn.next_functions)  # the kernels made it
    torch.testing.assert_close(got.double(), want, atol=2e-6, rtol=0)
    (got * weights.float()).sum().backward()
    (want * weights).sum().backward()
    difference = (ours.grad.double() - plain.grad).norm()
    assert difference < 1e-5 * plain.grad.norm()


def test_equal_images_reach_1_and_do_not_pull() -> None:
    x, _ = pair(0.0)
    x.requires_grad_()
    value = ssim(x, x.detach())
    torch.testing.assert_close(value, torch.ones(2, dtype=torch.float64))
    value.sum().backward()
    assert x.grad.abs().max() < 1e-9


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.zeros(3, 20, 20), torch.zeros(3, 20, 21))
    with pytest.raises(ValueError, match="at least 6x6"):
        ssim(torch.zeros(3, 5, 20), torch.zeros(3, 5, 20))
