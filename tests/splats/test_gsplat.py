"""The gsplat backend: held to the torch one where there is a GPU, and to a clear message where there is none."""

import pytest
import torch

from cus.errors import InputError
from cus.splats.rasterization import rasterization, resolve_backend
from tests.splats import brute_force

WIDTH, HEIGHT = 61, 43


def scene(device: str) -> dict[str, torch.Tensor]:
    inputs = brute_force.random_scene(200, 2, seed=0, dtype=torch.float32)
    inputs |= {"Ks": brute_force.intrinsics(50.0, WIDTH, HEIGHT, 2, torch.float32)}
    return {name: value.to(device) for name, value in inputs.items()}


def test_auto_takes_the_kernels_on_a_cpu_and_torch_in_float64() -> None:
    assert resolve_backend("auto", torch.device("cpu")) == "cpu"
    assert resolve_backend("auto", torch.device("cpu"), torch.float64) == "torch"
    assert resolve_backend("gsplat", torch.device("cpu")) == "gsplat"


def test_asking_for_gsplat_on_a_cpu_says_what_to_do() -> None:
    with pytest.raises(InputError, match="CUDA device, got cpu; use backend='torch'"):
        rasterization(**scene("cpu"), width=WIDTH, height=HEIGHT, backend="gsplat")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "ED", "RGB+ED"])
def test_gsplat_renders_what_torch_renders(mode: str, render_mode: str) -> None:
    pytest.importorskip("gsplat")
    inputs = scene("cuda")
    options = dict(width=WIDTH, height=HEIGHT, rasterize_mode=mode, render_mode=render_mode)
    got, got_alphas, _ = rasterization(**inputs, **options, backend="gsplat")
    want, want_alphas, _ = rasterization(**inputs, **options, backend="torch")
    assert (got - want).abs().mean() < 1e-4
    assert (got_alphas - want_alphas).abs().mean() < 1e-4


@pytest.mark.gpu
def test_gradients_of_gsplat_are_those_of_torch() -> None:
    pytest.importorskip("gsplat")
    inputs = scene("cuda")
    views = {name: inputs.pop(name) for name in ("viewmats", "Ks")}
    weights = torch.rand(2, HEIGHT, WIDTH, 3, device="cuda")
    grads = [
        brute_force.gradients(
            lambda backend=backend, **leaves: rasterization(
                **leaves, **views, width=WIDTH, height=HEIGHT, backend=backend
            )[0],
            inputs,
            weights,
        )
        for backend in ("gsplat", "torch")
    ]
    for name, want in grads[1].items():
        assert (grads[0][name] - want).norm() / want.norm() < 1e-2, name
