"""The Numba kernels, held to the definition in float64: values and gradients, tiny and at full size."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.scenes import crowd
from cus.errors import InputError
from cus.splats.cpu.projection import project_cpu
from cus.splats.projection import ProjectionOptions, project
from cus.splats.rasterization import rasterization
from tests.splats import brute_force

WIDTH, HEIGHT = 37, 21  # neither is a multiple of a tile or of a block


def scene(count: int = 50, cameras: int = 2, seed: int = 0, channels: int = 3) -> dict[str, Tensor]:
    """Gaussians before, behind, beside and around the cameras, with some balloons and needles."""
    inputs = brute_force.random_scene(count, cameras, seed, channels)
    inputs["scales"][::7] *= torch.tensor([40.0, 0.1, 1.0], dtype=torch.float64)
    inputs["means"][1] = torch.linalg.inv(inputs["viewmats"][0])[:3, 3]  # at the very place of a camera
    return inputs | {"Ks": brute_force.intrinsics(30.0, WIDTH, HEIGHT, cameras)}


def single_precision(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() for name, value in inputs.items()}


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("antialiased", [False, True])
def test_images_equal_those_of_the_definition_pixel_by_pixel(antialiased: bool) -> None:
    inputs = scene()
    want, want_alphas, want_depths = brute_force.render(**inputs, width=WIDTH, height=HEIGHT, antialiased=antialiased)
    assert want_alphas.mean() > 0.25  # the comparison is about something
    got, alphas, _ = rasterization(
        **single_precision(inputs), width=WIDTH, height=HEIGHT, render_mode="RGB+D", backend="cpu",
        rasterize_mode="antialiased" if antialiased else "classic",
    )  # fmt: skip
    assert (got[..., :3].double() - want).abs().mean() < 1e-6
    assert (got[..., 3].double() - want_depths).abs().mean() < 2e-6
    assert (alphas[..., 0].double() - want_alphas).abs().mean() < 1e-6


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_to_every_input_equal_those_of_the_definition(channels: int, antialiased: bool) -> None:
    inputs = scene(channels=channels) | {"backgrounds": torch.rand(2, channels, dtype=torch.float64)}
    weights = torch.rand(2, HEIGHT, WIDTH, channels + 2, dtype=torch.float64)
    mode = "antialiased" if antialiased else "classic"

    def function(backend: str, **leaves: Tensor) -> Tensor:
        renders, alphas, _ = rasterization(
            **leaves, width=WIDTH, height=HEIGHT, render_mode="RGB+ED", rasterize_mode=mode, backend=backend
        )
        return torch.cat([renders, alphas], dim=-1)

    # The torch backend in float64 is held to the definition in test_rasterization.py, to 1e-8.
    want = brute_force.gradients(lambda **leaves: function("torch", **leaves), inputs, weights)
    got = brute_force.gradients(lambda **leaves: function("cpu", **leaves), single_precision(inputs), weights.float())
    assert set(got) == {"means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds"}
    for name, gradient in want.items():
        assert gradient.norm() > 0 and relative(got[name], gradient) < 1e-4, name


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_give_the_colours_and_gradients_of_torch(degree: int) -> None:
    inputs = scene()
    inputs["colors"] = torch.randn(50, 16, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.rand(2, HEIGHT, WIDTH, 3, dtype=torch.float64)

    def function(backend: str, **leaves: Tensor) -> Tensor:
        return rasterization(**leaves, width=WIDTH, height=HEIGHT, sh_degree=degree, backend=backend)[0]

    want, got = function("torch", **inputs), function("cpu", **single_precision(inputs))
    assert (got.double() - want).abs().mean() < 1e-6
    want_grads = brute_force.gradients(lambda **leaves: function("torch", **leaves), inputs, weights)
    grads = brute_force.gradients(lambda **leaves: function("cpu", **leaves), single_precision(inputs), weights.float())
    for name in ("means", "colors", "viewmats"):
        assert relative(grads[name], want_grads[name]) < 1e-4, name


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_every_render_mode_gives_what_torch_gives(mode: str) -> None:
    inputs = scene() | {"width": WIDTH, "height": HEIGHT, "render_mode": mode}
    want, want_alphas, _ = rasterization(**inputs, backend="torch")
    got, alphas, _ = rasterization(**{k: _single(v) for k, v in inputs.items()}, backend="cpu")
    assert got.shape == want.shape
    # An expected depth is a quotient: where alpha is small, so are both of its parts.
    assert ((got.double() - want) * want_alphas).abs().mean() < 3e-6
    assert (alphas.double() - want_alphas).abs().mean() < 1e-6


def test_info_has_the_entries_of_torch() -> None:
    inputs = scene()
    _, _, want = rasterization(**inputs, width=WIDTH, height=HEIGHT, tile_size=16, backend="torch")
    _, _, got = rasterization(**single_precision(inputs), width=WIDTH, height=HEIGHT, backend="cpu")
    assert set(got) == set(want)
    seen = (want["radii"] > 0).all(dim=-1)
    torch.testing.assert_close(got["radii"], want["radii"])
    for name in ("means2d", "depths", "conics", "opacities"):
        torch.testing.assert_close(got[name][seen].double(), want[name][seen], atol=2e-5, rtol=2e-5)
    # Lists are the same but for pairs that only graze a tile: what both have is in the same order.
    ours, theirs = _tiles(got), _tiles(want)
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        common = set(mine) & set(other)
        assert [i for i in mine if i in common] == [i for i in other if i in common]
        assert len(common) >= 0.8 * len(other)


def test_what_is_left_out_early_is_what_the_definition_leaves_out() -> None:
    inputs = scene(3000)
    inputs["means"] *= 3  # many beside the pictures, with tails that just reach them
    options = ProjectionOptions(WIDTH, HEIGHT, antialiased=True)
    names = ("means", "quats", "scales", "opacities", "viewmats", "Ks")
    want = project(*(inputs[name] for name in names), options)
    _, _, depths, opacities, radii = project_cpu(*(inputs[name].float() for name in names), options)
    kept = (want.radii > 0).all(dim=-1)
    beside = ((want.means2d < 0) | (want.means2d > want.means2d.new_tensor([WIDTH, HEIGHT]))).any(dim=-1)
    assert (kept & beside).sum() > 100 and (~kept & beside).sum() > 1000
    assert torch.equal((radii > 0).all(dim=-1), kept)
    torch.testing.assert_close(opacities[kept].double(), want.opacities[kept], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(depths.double(), want.depths, atol=1e-5, rtol=1e-5)


def test_means2d_of_info_receives_the_gradient_that_densification_reads() -> None:
    grads = []
    for backend, inputs in (("torch", scene()), ("cpu", single_precision(scene()))):
        inputs["means"].requires_grad_()
        renders, _, info = rasterization(**inputs, width=WIDTH, height=HEIGHT, backend=backend)
        info["means2d"].retain_grad()
        renders.square().sum().backward()
        grads.append(info["means2d"].grad)
    assert relative(grads[1], grads[0]) < 1e-4


@pytest.mark.slow
def test_fifty_thousand_gaussians_equal_the_definition_at_full_size() -> None:
    """Pixels all over a 509 x 287 picture, each composited over all Gaussians without tiles or boxes, in float64."""
    count, width, height = 50_000, 509, 287
    inputs = crowd(count, width, height)
    pixels = torch.cartesian_prod(torch.arange(3, height, 31), torch.arange(5, width, 47))
    weights = torch.rand(len(pixels), 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = ProjectionOptions(width, height, antialiased=True)

    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    projection = project(
        *(leaves[name] for name in ("means", "quats", "scales", "opacities", "viewmats", "Ks")), options
    )
    want = _pixels(projection, leaves["colors"], pixels)
    (want * weights).sum().backward()

    ours = {name: value.float().requires_grad_() for name, value in inputs.items()}
    renders, alphas, _ = rasterization(**ours, width=width, height=height, rasterize_mode="antialiased", backend="cpu")
    got = torch.cat([renders, alphas], dim=-1)[0, pixels[:, 0], pixels[:, 1]]
    (got * weights.float()).sum().backward()

    assert want[:, 3].mean() > 0.7 and want[:, 3].amin() < 0.999
    assert (got.double() - want).abs().mean() < 1e-6
    for name, leaf in leaves.items():
        assert relative(ours[name].grad, leaf.grad) < 1e-4, name


def test_the_picture_and_the_gradients_are_the_same_bits_on_any_number_of_threads(threads: int) -> None:
    got = _bits(crowd(2000, 160, 100), 160, 100)
    torch.set_num_threads(1)
    want = _bits(crowd(2000, 160, 100), 160, 100)
    for name, value in want.items():
        assert torch.equal(got[name], value), name


def test_two_python_threads_may_rasterize_at_once() -> None:
    inputs = crowd(2000, 160, 100)
    want = _bits(inputs, 160, 100)
    results: list[dict[str, Tensor]] = []
    workers = [threading.Thread(target=lambda: results.append(_bits(inputs, 160, 100))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(torch.equal(result[name], value) for result in results for name, value in want.items())


@pytest.mark.parametrize("count", [0, 50])
def test_nothing_visible_is_the_background_and_gradients_of_zero(count: int) -> None:
    inputs = single_precision(scene(count=50))
    for name in ("means", "quats", "scales", "opacities", "colors"):
        inputs[name] = inputs[name][:count].requires_grad_()
    inputs["viewmats"][:, 2, 3] -= 1000.0  # all of them lie behind
    background = torch.tensor([[0.1, 0.2, 0.3]]).repeat(2, 1)
    renders, alphas, info = rasterization(**inputs, width=WIDTH, height=HEIGHT, backgrounds=background, backend="cpu")
    assert alphas.abs().max() == 0 and len(info["flatten_ids"]) == 0
    torch.testing.assert_close(renders, background[:, None, None].expand_as(renders))
    (renders.sum() + alphas.sum()).backward()
    assert all(inputs[name].grad.abs().sum() == 0 for name in ("means", "colors", "opacities"))


def test_other_precisions_are_refused_with_the_backend_that_takes_them() -> None:
    with pytest.raises(InputError, match="float64 on cpu; use backend='torch'"):
        rasterization(**scene(), width=WIDTH, height=HEIGHT, backend="cpu")


def _pixels(projection, colors: Tensor, pixels: Tensor) -> Tensor:
    """Colour and alpha [P, 4] of pixels (row, column) [P, 2] of the only view, by the definition."""
    kept = (projection.radii[0] > 0).all(dim=1).nonzero()[:, 0]
    kept = kept[projection.depths[0, kept].argsort(stable=True)]
    means, conics, opacities = (getattr(projection, n)[0] for n in ("means2d", "conics", "opacities"))

    def alphas_at(row: int, column: int, ids: Tensor) -> Tensor:
        dx, dy = column + 0.5 - means[ids, 0], row + 0.5 - means[ids, 1]
        sigma = 0.5 * (conics[ids, 0] * dx * dx + conics[ids, 2] * dy * dy) + conics[ids, 1] * dx * dy
        return (opacities[ids] * torch.exp(-sigma)).clamp(max=0.999)

    out = []
    for row, column in pixels.tolist():
        with torch.no_grad():
            near = kept[alphas_at(row, column, kept) >= 1 / 255]
        alphas = alphas_at(row, column, near)
        after = torch.cumprod(1 - alphas, dim=0)
        going = after > 1e-4
        before = torch.cat([after.new_ones(1), after[:-1]])
        weights = alphas * before * going
        out.append(torch.cat([weights @ colors[near], weights.sum()[None]]))
    return torch.stack(out)


def _bits(inputs: dict[str, Tensor], width: int, height: int) -> dict[str, Tensor]:
    leaves = {name: value.float().requires_grad_() for name, value in inputs.items()}
    renders, alphas, _ = rasterization(**leaves, width=width, height=height, backend="cpu")
    (renders.square().sum() + alphas.sum()).backward()
    grads = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"renders": renders.detach(), "alphas": alphas.detach()} | grads


def _single(value: object) -> object:
    return value.float() if isinstance(value, Tensor) else value


def _tiles(info: dict) -> list[list[int]]:
    ids, starts = info["flatten_ids"].tolist(), info["isect_offsets"].flatten().tolist()
    return [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
