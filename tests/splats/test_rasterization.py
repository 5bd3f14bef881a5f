import math

import pytest
import torch
from torch import Tensor

from cus.splats import rasterize_torch
from cus.splats.rasterization import rasterization
from tests.splats import brute_force

WIDTH, HEIGHT = 37, 21  # neither is a multiple of a tile


def scene(
    count: int = 50, cameras: int = 2, seed: int = 0, channels: int = 3, dtype=torch.float64, focal: float = 30.0
) -> dict[str, Tensor]:
    inputs = brute_force.random_scene(count, cameras, seed, channels, dtype)
    return inputs | {"Ks": brute_force.intrinsics(focal, WIDTH, HEIGHT, cameras, dtype)}


def single(opacity: float = 0.8, depth: float = 2.0, scale: float = 0.3, color: float = 1.0) -> dict[str, Tensor]:
    """One round Gaussian in the middle of a 17 x 17 picture (pixel (8, 8))."""
    return {
        "means": torch.tensor([[0.0, 0, depth]], dtype=torch.float64),
        "quats": torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64),
        "scales": torch.full((1, 3), scale, dtype=torch.float64),
        "opacities": torch.tensor([opacity], dtype=torch.float64),
        "colors": torch.full((1, 3), color, dtype=torch.float64),
        "viewmats": torch.eye(4, dtype=torch.float64)[None],
        "Ks": torch.tensor([[[20.0, 0, 8.5], [0, 20.0, 8.5], [0, 0, 1]]], dtype=torch.float64),
    }


def stacked(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    shared = {"viewmats": parts[0]["viewmats"], "Ks": parts[0]["Ks"]}
    names = ("means", "quats", "scales", "opacities", "colors")
    return {name: torch.cat([part[name] for part in parts]) for name in names} | shared


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("tile_size", [4, 16])
def test_images_equal_those_of_the_definition_pixel_by_pixel(antialiased: bool, tile_size: int) -> None:
    inputs = scene()
    mode = "antialiased" if antialiased else "classic"
    got, alphas, _ = rasterization(
        **inputs, width=WIDTH, height=HEIGHT, tile_size=tile_size, rasterize_mode=mode, render_mode="RGB+D"
    )
    want, want_alphas, want_depths = brute_force.render(**inputs, width=WIDTH, height=HEIGHT, antialiased=antialiased)
    assert want_alphas.mean() > 0.25  # the comparison is about something
    torch.testing.assert_close(got[..., :3], want, atol=1e-10, rtol=0)
    torch.testing.assert_close(got[..., 3], want_depths, atol=1e-10, rtol=0)
    torch.testing.assert_close(alphas[..., 0], want_alphas, atol=1e-10, rtol=0)


def test_float32_images_are_within_1e_5_of_the_definition_in_float64() -> None:
    inputs = scene()
    want, _, _ = brute_force.render(**inputs, width=WIDTH, height=HEIGHT)
    got, _, _ = rasterization(**{k: v.float() for k, v in inputs.items()}, width=WIDTH, height=HEIGHT)
    assert (got.double() - want).abs().mean() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_equal_those_of_the_definition(dtype: torch.dtype) -> None:
    inputs = scene(cameras=1)
    cameras = {name: inputs.pop(name) for name in ("viewmats", "Ks")}
    weights = torch.rand(1, HEIGHT, WIDTH, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def ours(**leaves: Tensor) -> Tensor:
        views = {k: v.to(leaves["means"].dtype) for k, v in cameras.items()}
        renders, alphas, _ = rasterization(**leaves, **views, width=WIDTH, height=HEIGHT, rasterize_mode="antialiased")
        return torch.cat([renders, alphas], dim=-1)

    def definition(**leaves: Tensor) -> Tensor:
        renders, alphas, _ = brute_force.render(**leaves, **cameras, width=WIDTH, height=HEIGHT, antialiased=True)
        return torch.cat([renders, alphas[..., None]], dim=-1)

    got = brute_force.gradients(ours, {k: v.to(dtype) for k, v in inputs.items()}, weights.to(dtype))
    want = brute_force.gradients(definition, inputs, weights)
    for name, gradient in want.items():
        assert gradient.norm() > 0
        relative = (got[name].double() - gradient).norm() / gradient.norm()
        assert relative < (1e-8 if dtype == torch.float64 else 1e-4), name


def test_gradients_reach_cameras_and_backgrounds() -> None:
    inputs = scene(cameras=2, count=20) | {"backgrounds": torch.rand(2, 3, dtype=torch.float64)}

    def function(*values: Tensor) -> Tensor:
        return rasterization(**dict(zip(inputs, values, strict=True)), width=9, height=7)[0].sum()

    leaves = tuple(value.clone().requires_grad_() for value in inputs.values())
    # Rasterization jumps where an alpha crosses the cutoff; so small a step crosses none here.
    assert torch.autograd.gradcheck(function, leaves, eps=1e-7, atol=1e-4, rtol=1e-3)


def test_work_in_many_small_segments_gives_the_same_images_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = scene(count=120, focal=20.0)
    inputs["opacities"] = inputs["opacities"] ** 0.25  # opaque enough for pixels to stop early
    weights = torch.rand(2, HEIGHT, WIDTH, 3, dtype=torch.float64)

    def function(**leaves: Tensor) -> Tensor:
        return rasterization(**leaves, width=WIDTH, height=HEIGHT)[0]

    whole, whole_grads = function(**inputs), brute_force.gradients(function, inputs, weights)
    monkeypatch.setattr(rasterize_torch, "_SEGMENT", 3)
    monkeypatch.setattr(rasterize_torch, "_BATCH_ENTRIES", 2000)
    torch.testing.assert_close(function(**inputs), whole, atol=1e-12, rtol=0)
    for name, gradient in brute_force.gradients(function, inputs, weights).items():
        torch.testing.assert_close(gradient, whole_grads[name], atol=1e-9, rtol=1e-9)


def test_alpha_is_capped_at_0_999() -> None:
    _, alphas, _ = rasterization(**single(opacity=1.0), width=17, height=17)
    assert alphas[0, 8, 8, 0] == pytest.approx(0.999)


def test_alpha_under_1_255_leaves_no_trace() -> None:
    _, alphas, info = rasterization(**single(opacity=0.0039), width=17, height=17)
    assert alphas.abs().max() == 0 and (info["radii"] == 0).all()
    _, alphas, _ = rasterization(**single(opacity=0.5), width=17, height=17)
    assert alphas[alphas > 0].min() >= 1 / 255


def test_a_pixel_stops_before_the_gaussian_that_would_use_up_its_light() -> None:
    """0.01 * 0.02 = 2e-4 is left after two; a third of 0.9 would leave 2e-5 <= 1e-4 and must not count."""
    layers = [
        single(opacity=0.99, depth=2.0, color=1.0),
        single(opacity=0.98, depth=3.0, color=1.0),
        single(opacity=0.90, depth=4.0, color=1e6),
        single(opacity=0.30, depth=5.0, color=1e6),
    ]
    for layer in layers:
        layer["scales"] = layer["scales"] * 100  # alpha at the centre is the opacity
    renders, alphas, _ = rasterization(**stacked(*layers), width=17, height=17)
    assert alphas[0, 8, 8, 0] == pytest.approx(1 - 2e-4, abs=1e-9)
    assert renders[0, 8, 8, 0] == pytest.approx(1 - 2e-4, abs=1e-9)


def test_nearer_gaussians_cover_farther_ones_whatever_their_order() -> None:
    near, far = single(0.9, depth=1.5, color=1.0), single(0.9, depth=3.0, color=0.0, scale=2.0)
    first, _, _ = rasterization(**stacked(near, far), width=17, height=17)
    second, _, _ = rasterization(**stacked(far, near), width=17, height=17)
    torch.testing.assert_close(first, second)
    assert first[0, 8, 8, 0] > 0.85


def test_an_image_without_visible_gaussians_is_background_and_has_gradients() -> None:
    inputs = single(depth=-2.0)
    leaves = {k: v.requires_grad_() for k, v in inputs.items() if k not in ("viewmats", "Ks")}
    background = torch.tensor([[0.2, 0.4, 0.6]], dtype=torch.float64)
    renders, alphas, info = rasterization(**inputs, width=17, height=17, backgrounds=background)
    assert (renders == background).all() and (alphas == 0).all() and (info["radii"] == 0).all()
    renders.sum().backward()
    assert all(leaf.grad is not None and (leaf.grad == 0).all() for leaf in leaves.values())


def test_no_gaussians_at_all_is_an_empty_image() -> None:
    inputs = {k: v[:0] if k not in ("viewmats", "Ks") else v for k, v in single().items()}
    renders, alphas, _ = rasterization(**inputs, width=17, height=17)
    assert renders.shape == (1, 17, 17, 3) and renders.abs().sum() + alphas.abs().sum() == 0


def test_background_shines_through_by_the_transmittance_and_spares_depth() -> None:
    inputs = scene()
    background = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
    black, alphas, _ = rasterization(**inputs, width=WIDTH, height=HEIGHT, render_mode="RGB+D")
    lit, _, _ = rasterization(**inputs, width=WIDTH, height=HEIGHT, render_mode="RGB+D", backgrounds=background)
    want = black[..., :3] + (1 - alphas) * background[:, None, None]
    torch.testing.assert_close(lit[..., :3], want)
    torch.testing.assert_close(lit[..., 3], black[..., 3])


def test_expected_depth_is_accumulated_depth_over_alpha_and_near_the_surface() -> None:
    inputs = single(depth=2.0)
    depth, alphas, _ = rasterization(**inputs, width=17, height=17, render_mode="D")
    expected, _, _ = rasterization(**inputs, width=17, height=17, render_mode="ED")
    both, _, _ = rasterization(**inputs, width=17, height=17, render_mode="RGB+ED")
    seen = alphas[..., 0] > 0
    torch.testing.assert_close(expected[seen], torch.full_like(expected[seen], 2.0))
    torch.testing.assert_close(depth, expected * alphas)
    torch.testing.assert_close(both[..., 3:], expected)
    assert both.shape[-1] == 4 and depth.shape[-1] == 1


@pytest.mark.parametrize("channels", [1, 7])
def test_any_number_of_channels_and_colors_per_camera(channels: int) -> None:
    inputs = scene(channels=channels)
    shared, _, _ = rasterization(**inputs, width=WIDTH, height=HEIGHT)
    inputs["colors"] = torch.stack([inputs["colors"], 2 * inputs["colors"]])
    own, _, _ = rasterization(**inputs, width=WIDTH, height=HEIGHT)
    assert shared.shape == (2, HEIGHT, WIDTH, channels)
    torch.testing.assert_close(own, shared * torch.tensor([1.0, 2.0], dtype=shared.dtype)[:, None, None, None])


def test_cameras_in_a_batch_see_what_they_see_alone() -> None:
    inputs = scene(cameras=3)
    together, _, _ = rasterization(**inputs, width=WIDTH, height=HEIGHT)
    for c in range(3):
        one = inputs | {"viewmats": inputs["viewmats"][c : c + 1], "Ks": inputs["Ks"][c : c + 1]}
        torch.testing.assert_close(rasterization(**one, width=WIDTH, height=HEIGHT)[0][0], together[c])


def test_antialiasing_keeps_the_energy_of_a_gaussian_far_smaller_than_a_pixel() -> None:
    """Halving the size of a tiny Gaussian quarters its light; without antialiasing the blur alone decides its size."""
    sums = {}
    for mode in ("classic", "antialiased"):
        sums[mode] = [
            float(rasterization(**single(0.99, scale=s), width=17, height=17, rasterize_mode=mode)[1].sum())
            for s in (0.02, 0.01)
        ]
    assert sums["antialiased"][0] / sums["antialiased"][1] == pytest.approx(4, rel=0.15)
    assert sums["classic"][0] / sums["classic"][1] == pytest.approx(1, rel=0.15)


def test_spherical_harmonics_follow_the_viewing_direction() -> None:
    inputs = single(opacity=0.9)
    sh = torch.zeros(1, 4, 3, dtype=torch.float64)
    sh[0, 2] = torch.tensor([0.5, 0.0, -0.5])  # the band along z: red from the front, blue from behind
    inputs["colors"] = sh
    front, alpha, info = rasterization(**inputs, width=17, height=17, sh_degree=1)
    c1 = math.sqrt(3 / (4 * math.pi))
    want = 0.5 + c1 * sh[0, 2]
    torch.testing.assert_close(front[0, 8, 8], want * alpha[0, 8, 8])
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    turned[2, 3] = 4.0  # on the other side, looking back
    back, alpha, _ = rasterization(**inputs | {"viewmats": turned[None]}, width=17, height=17, sh_degree=1)
    torch.testing.assert_close(back[0, 8, 8], (1 - want) * alpha[0, 8, 8])
    assert info["n_cameras"] == 1


def test_a_needle_across_many_tiles_is_exact_in_float32() -> None:
    inputs = single(opacity=0.9)
    inputs["scales"] = torch.tensor([[4.0, 0.004, 0.004]], dtype=torch.float64)
    inputs["quats"] = torch.tensor([[math.cos(0.3), 0, 0, math.sin(0.3)]], dtype=torch.float64)
    inputs["Ks"] = torch.tensor([[[150.0, 0, 100], [0, 150.0, 60], [0, 0, 1]]], dtype=torch.float64)
    want, _, _ = rasterization(**inputs, width=200, height=120)
    got, _, _ = rasterization(**{k: v.float() for k, v in inputs.items()}, width=200, height=120)
    assert (want > 0.1).sum() > 400
    assert (got - want).abs().mean() < 1e-5


def test_packed_info_lists_the_visible_pairs_only() -> None:
    inputs = scene()
    _, _, dense = rasterization(**inputs, width=WIDTH, height=HEIGHT)
    _, _, packed = rasterization(**inputs, width=WIDTH, height=HEIGHT, packed=True)
    visible = (dense["radii"] > 0).all(dim=-1)
    assert 0 < visible.sum() < visible.numel()
    torch.testing.assert_close(packed["means2d"], dense["means2d"][visible])
    assert (visible[packed["camera_ids"], packed["gaussian_ids"]]).all()


def test_means2d_of_info_receives_the_gradient_that_densification_reads() -> None:
    inputs = scene()
    inputs["means"].requires_grad_()
    renders, _, info = rasterization(**inputs, width=WIDTH, height=HEIGHT)
    info["means2d"].retain_grad()
    renders.sum().backward()
    assert info["means2d"].grad.shape == (2, 50, 2) and info["means2d"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opacities": torch.zeros(3)}, "opacities must have shape"),
        ({"colors": torch.zeros(4, 2, 3)}, "colors must be"),
        ({"render_mode": "rgb"}, "render_mode must be one of"),
        ({"backend": "cuda"}, "backend must be one of"),
        ({"backgrounds": torch.zeros(3)}, "backgrounds must be"),
        ({"width": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = scene() | {"width": WIDTH, "height": HEIGHT} | change
    with pytest.raises(ValueError, match=message):
        rasterization(**arguments)
