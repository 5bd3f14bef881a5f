"""What every strategy promises, and what each does."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.splats import FitConfig, fit_gaussians, rasterization
from cus.splats.initialise import initial_gaussians
from cus.splats.parameters import LearningRates, Parameters
from cus.splats.strategies import DefaultStrategy, FixedStrategy, MCMCStrategy, Strategy
from cus.splats.strategies.mcmc import shared_by_copies
from tests.splats.walls import cameras, cloud, psnr, seen, wall, wall_gaussians, wall_pictures

QUICK = replace(FitConfig.for_backend("torch"), iterations=60, max_gaussians=900, sh_degree=1)


def made(columns: int = 22, rows: int = 15, opacity: float = 0.9) -> Parameters:
    gaussians = wall_gaussians(columns, rows)
    return Parameters(replace(gaussians, opacities=torch.full_like(gaussians.opacities, opacity)), LearningRates(), 2.0)


def backward(parameters: Parameters, views: Cameras, target: Tensor) -> dict[str, Any]:
    """One step with Adam; the info whose means2d has its gradient."""
    means, quats, scales, opacities, sh = parameters.tensors()
    renders, _, info = rasterization(
        means,
        quats,
        scales,
        opacities,
        sh,
        views.viewmats[:1],
        views.Ks[:1],
        views.width,
        views.height,
        sh_degree=0,
        backend="torch",
    )
    info["means2d"].retain_grad()
    (renders[0].permute(2, 0, 1) - target).abs().mean().backward()
    parameters.step(1.0)
    return info


def test_copies_of_a_gaussian_look_like_the_one() -> None:
    """In the middle exactly, and in the integral along any line through it, by quadrature."""
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    for opacity in (0.02, 0.5, 0.9, 0.99):
        for count in (1, 2, 3, 8, 51):
            one = torch.tensor([opacity], dtype=torch.float64)
            each, factor = shared_by_copies(one, torch.tensor([count]))
            together = 1 - (1 - each * torch.exp(-0.5 * (x / factor) ** 2)) ** count
            assert together.max() == pytest.approx(opacity, rel=1e-9)
            torch.testing.assert_close(together.sum(), (opacity * torch.exp(-0.5 * x**2)).sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("strategy", [FixedStrategy(), DefaultStrategy(900), MCMCStrategy(900)])
def test_every_strategy_fits_a_wall_and_keeps_the_cap(strategy: Strategy) -> None:
    images, views, points, colors = wall_pictures()
    counts: list[int] = []
    config = replace(QUICK, strategy=strategy)
    fitted = fit_gaussians(
        images, views, cloud(points, colors), config=config, on_status=lambda now: counts.append(now.gaussians)
    )
    assert psnr(seen(fitted, views), images) > 24
    assert max(counts) <= 900 and len(fitted) == counts[-1]
    grows = not isinstance(strategy, FixedStrategy)
    assert (max(counts) > counts[0]) == grows


@pytest.mark.parametrize("name", ["default", "mcmc"])
def test_the_same_seed_gives_the_same_gaussians_whatever_the_strategy(name) -> None:
    images, views, points, colors = wall_pictures()
    config = replace(QUICK, strategy=name, iterations=30)
    first, second = (fit_gaussians(images, views, cloud(points, colors), config=config, seed=3) for _ in range(2))
    assert torch.equal(first.means, second.means) and torch.equal(first.opacities, second.opacities)


def test_clones_and_splits_hardly_change_the_picture() -> None:
    """Each of them, of every Gaussian at once; the budget takes those first that the picture pulls at most."""
    views = cameras()
    for split_radius, least in ((1.0, 28), (0.0, 28)):
        parameters = made()
        before = seen(parameters.gaussians(), views)
        strategy = DefaultStrategy(10_000, grow_gradient=0.0, split_radius=split_radius)
        state = strategy.initialize(len(parameters), torch.device("cpu"))
        for name in ("gradients", "seen", "radii"):
            state[name] += 0.5
        strategy._grow(parameters, state, torch.Generator().manual_seed(0))
        assert len(parameters) == 2 * 22 * 15
        after = psnr(seen(parameters.gaussians(), views), before)
        assert after > least, (split_radius, after)
        assert all(len(state[name]) == len(parameters) for name in ("gradients", "seen", "radii"))


def test_where_the_gradient_is_largest_gaussians_come_first() -> None:
    parameters = made()
    strategy = DefaultStrategy(22 * 15 + 5, grow_gradient=0.5)
    state = strategy.initialize(len(parameters), torch.device("cpu"))
    wanted = torch.tensor([7, 50, 99, 200, 300, 301])
    state["gradients"][wanted] = torch.tensor([9.0, 8, 7, 6, 5, 4])
    state["seen"] += 1
    before = parameters.gaussians().means
    strategy._grow(parameters, state, torch.Generator().manual_seed(0))
    assert len(parameters) == 22 * 15 + 5
    moved = (parameters.gaussians().means[: len(before)] != before).any(dim=1).nonzero().squeeze(1)
    assert moved.tolist() == wanted[:5].tolist()


def test_gradients_on_the_picture_do_not_depend_on_its_size() -> None:
    """The same scene at twice the resolution pulls alike at a Gaussian: the unit is half pictures."""
    norms = []
    for factor in (1, 2):
        views = cameras().resized(48 * factor, 32 * factor)
        target = seen(made().gaussians(), views)[0]
        parameters = made()
        parameters.move(torch.arange(len(parameters)), torch.tensor([0.02, 0.0, 0.0]))
        info = backward(parameters, views, target)
        strategy = DefaultStrategy(900)
        state = strategy.initialize(len(parameters), torch.device("cpu"))
        strategy._accumulate(state, info)
        norms.append(state["gradients"].sum() / state["seen"].sum())
    assert norms[1] == pytest.approx(float(norms[0]), rel=0.25)


def test_faint_gaussians_are_pruned_and_a_reset_dims_all() -> None:
    parameters = made()
    views = cameras()
    info = backward(parameters, views, torch.zeros(3, 32, 48))
    strategy = DefaultStrategy(330, grow_gradient=1e9, start=0, every=0.1, stop=1, reset_every=0.3, reset_opacity=0.05)
    state = strategy.initialize(len(parameters), torch.device("cpu"))
    with torch.no_grad():
        parameters.rescale(torch.arange(30), 1.0, torch.full((30,), 0.001))
    strategy.after_backward(parameters, state, 0, 10, info, torch.Generator())
    assert len(parameters) == 300 and state["resets"] == 0
    info = backward(parameters, views, torch.zeros(3, 32, 48))
    strategy.after_backward(parameters, state, 2, 10, info, torch.Generator())
    assert state["resets"] == 1 and float(parameters.opacities().detach().max()) == pytest.approx(0.05)


def test_relocation_preserves_the_picture() -> None:
    views = cameras()
    parameters = made()
    faint = torch.arange(0, 330, 3)
    with torch.no_grad():
        parameters.rescale(faint, 1.0, torch.full((len(faint),), 0.004))
    before = seen(parameters.gaussians(), views)
    assert MCMCStrategy(330)._relocate(parameters, torch.Generator().manual_seed(0)) == len(faint)
    assert len(parameters) == 330 and float(parameters.opacities().detach().min()) >= 0.01
    assert psnr(seen(parameters.gaussians(), views), before) > 33


def test_copies_that_share_their_opacity_preserve_the_picture_where_plain_ones_do_not() -> None:
    views = cameras()
    shared, plain = made(opacity=0.5), made(opacity=0.5)
    before = seen(shared.gaussians(), views)
    MCMCStrategy(330 + 165, growth=0.5)._add(shared, torch.Generator().manual_seed(0))
    plain.duplicate(torch.arange(330)[::2])
    assert len(shared) == len(plain) == 495
    assert psnr(seen(shared.gaussians(), views), before) > psnr(seen(plain.gaussians(), views), before) + 10


def test_noise_moves_the_faint_within_their_width_and_leaves_the_rest() -> None:
    parameters = made()
    with torch.no_grad():
        parameters.rescale(torch.arange(100), 1.0, torch.full((100,), 0.004))
    before = parameters.gaussians()
    MCMCStrategy(330)._wander(parameters, 0.5, torch.Generator().manual_seed(0))
    shift = (parameters.gaussians().means - before.means).norm(dim=1) / before.scales.amax(dim=1)
    assert float(shift[100:].max()) == 0 and 0.1 < float(shift[:100].mean()) < 1


def test_copies_and_halves_never_become_needles() -> None:
    """Splitting a stretched disc again and again shrinks it evenly; its bound shrinks along."""
    parameters = made(6, 5)
    start = parameters.gaussians().scales
    ratio = (start.amax(dim=1) / start.sort(dim=1).values[:, 1]).max()
    for _ in range(4):
        index = torch.arange(len(parameters))
        opacities = parameters.opacities().detach()
        copies = parameters.duplicate(index)
        for chosen in (index, copies):
            parameters.rescale(chosen, 1 / 1.6, opacities)
        for _ in range(30):
            _, _, scales, _, _ = parameters.tensors()
            (scales[:, 1].log().sum() - scales[:, 0].log().sum()).backward()
            parameters.step(1.0)
    scales = parameters.gaussians().scales
    assert (scales[:, 0] / scales[:, 1]).max() <= 4.01 * ratio
    assert scales.max() <= 2.01 * start.max() / 1.6**4


def test_the_optimizer_keeps_step_with_every_change_of_the_count() -> None:
    views = cameras()
    target = wall_pictures()[0][0]
    parameters = made()
    for change in (
        lambda: parameters.duplicate(torch.arange(40)),
        lambda: parameters.keep(torch.arange(len(parameters)) % 3 > 0),
        lambda: parameters.overwrite(torch.arange(5), torch.arange(5, 10)),
        lambda: parameters.cap_opacities(0.5),
    ):
        backward(parameters, views, target)
        change()
        for name, value in parameters.state().items():
            if value.ndim:
                assert len(value) == len(parameters), name
    moments = [v for k, v in parameters.state().items() if k.startswith("adam.opacities.exp_avg")]
    assert len(moments) == 2 and all(float(m.abs().max()) == 0 for m in moments)
    backward(parameters, views, target)


def test_a_clone_starts_without_momentum_and_keeps_the_others() -> None:
    parameters = made()
    backward(parameters, cameras(), torch.zeros(3, 32, 48))
    before = parameters.state()["adam.means.exp_avg"].clone()
    copies = parameters.duplicate(torch.arange(10))
    after = parameters.state()["adam.means.exp_avg"]
    assert torch.equal(after[: len(before)], before) and float(after[copies].abs().max()) == 0


def test_unknown_strategies_are_refused() -> None:
    points, colors = wall()
    images, views = wall_pictures()[:2]
    config: Any = replace(QUICK, strategy="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected fixed, default, mcmc"):
        fit_gaussians(images, views, cloud(points, colors), config=config)
    assert len(initial_gaussians(points, colors, 0)) == 1320
