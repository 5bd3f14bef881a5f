"""Depth without labels: the loss never reads one, training resumes, and what is exported is what cus-infer loads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cus.datasets.posed_views import PosedViews, save_views
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.estimators.mono import Mono
from cus.estimators.networks.single_view import Form, Pose, SingleViewDepth
from cus.training.scripts import settings_of, train_stage
from cus.training.single_view import SingleView, SingleViewConfig, SingleViewStage
from tests.estimators import planes

TINY = [
    "form.width=8",
    "form.points=4",
    "loop.precision=float32",
    "loop.workers=0",
    "loop.batch=2",
    "loop.save_every=2",
]


def views(offset: float = 0.0, exact: float | None = None) -> PosedViews:
    cameras = planes.cameras((offset, offset + 0.2, offset + 0.4), width=96, height=64, focal=90.0)
    images, depths = planes.render(cameras)
    return PosedViews(images, cameras, None if exact is None else depths * exact)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        save_views(tmp_path / "views" / f"{index}.safetensors", views(0.1 * index))
    return tmp_path


def train(folder: Path, out: str, *more: str, data: str = "views") -> dict[str, torch.Tensor]:
    arguments = [f"out={folder / out}", f"views={folder / data}", *TINY, *more]
    train_stage(SingleViewConfig, SingleViewStage, arguments, lambda done, total: None)
    return load_file(folder / out / "export" / "model.safetensors")


def test_no_depth_label_is_ever_read(folder):
    """Sets without depths, and with depths that are nonsense or not numbers at all, train the same network."""
    for name, exact in (("nonsense", -7.0), ("broken", float("nan"))):
        for index in range(3):
            save_views(folder / name / f"{index}.safetensors", views(0.1 * index, exact))
    states = [train(folder, f"out_{data}", "loop.steps=2", data=data) for data in ("views", "nonsense", "broken")]
    assert all(torch.equal(states[0][key], other[key]) for other in states[1:] for key in states[0])


def test_four_steps_are_two_and_two_more(folder):
    whole = train(folder, "whole", "loop.steps=4")
    train(folder, "halves", "loop.steps=2")
    again = train(folder, "halves", "loop.steps=4")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_run_starts_from_the_weights_of_another_and_refuses_those_of_another_form(folder):
    train(folder, "first", "loop.steps=2")
    weights = folder / "first" / "checkpoints" / "step-00000002" / "model.safetensors"
    arguments = [f"out={folder / 'second'}", f"views={folder / 'views'}", f"init={weights}", *TINY]
    begun = SingleViewStage(settings_of(SingleViewConfig, arguments)).module.state_dict()
    stored = load_file(weights)
    assert all(torch.equal(begun[key], stored[key]) for key in begun)
    with pytest.raises(InputError, match="cannot be read as the weights of such a network"):
        SingleViewStage(settings_of(SingleViewConfig, [*arguments, "parts=depth"]))


@pytest.mark.parametrize("choice", [["parts=depth"], ["parts=synthesis"], ["warps=direct"], ["drawn_share=0.5"]])
def test_parts_of_the_method_train_alone(folder, choice):
    state = train(folder, "out", "loop.steps=1", *choice)
    before = SingleViewDepth(Form(width=8, points=4)).state_dict()
    assert state.keys() == before.keys()


def test_a_few_steps_lower_the_loss_of_a_wall_and_the_scores_of_held_out_views_are_logged(folder):
    save_views(folder / "held_out" / "0.safetensors", views(0.05, exact=1.0))
    settings = settings_of(
        SingleViewConfig,
        [f"out={folder / 'out'}", f"views={folder / 'views'}", f"held_out={folder / 'held_out'}", *TINY],
    )
    torch.manual_seed(0)
    stage = SingleViewStage(settings)
    items = [stage.dataset()[index] for index in range(4)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    optimizer = torch.optim.Adam(stage.module.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = stage.loss(stage.module, batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    scores = stage.sample(folder / "samples", 12)
    assert set(scores) == {"abs_rel", "rmse", "delta", "psnr"} and 0 < scores["delta"] <= 1
    assert (folder / "samples" / "step-00000012.png").is_file()


def test_held_out_views_without_exact_depths_are_refused(folder):
    arguments = [f"out={folder / 'out'}", f"views={folder / 'views'}", f"held_out={folder / 'views'}", *TINY]
    with pytest.raises(InputError, match="no exact depths to score with"):
        SingleViewStage(settings_of(SingleViewConfig, arguments))


def test_the_true_other_view_does_not_leak_into_what_is_drawn():
    torch.manual_seed(0)
    net = SingleView(Form(width=8, points=4)).eval()
    cameras = planes.cameras((0.0, 0.2), width=96, height=64, focal=90.0)
    images, _ = planes.render(cameras)
    way = cameras.viewmats[1:] @ cameras.c2w[:1]
    with torch.no_grad():
        first = net(images[:1], images[1:], cameras.Ks[:1], cameras.Ks[1:], way)
        second = net(images[:1], torch.rand_like(images[1:]), cameras.Ks[:1], cameras.Ks[1:], way)
    assert torch.equal(first.picture, second.picture) and torch.equal(first.other_depths, second.other_depths)
    assert float(first.perceptual) != float(second.perceptual)


def test_the_latent_is_moved_as_points_and_not_at_all_without_motion():
    torch.manual_seed(0)
    pose, latent = Pose(Form(width=8, points=4)), torch.rand(2, 64, 2, 3)
    torch.testing.assert_close(pose(latent), pose(latent, torch.eye(4).repeat(2, 1, 1)))
    moved = torch.eye(4).repeat(2, 1, 1)
    moved[:, 0, 3] = 1.0
    assert not torch.equal(pose(latent), pose(latent, moved))


def test_what_is_exported_is_what_the_estimator_runs(folder):
    train(folder, "out", "loop.steps=2")
    network = Mono().load(folder / "out" / "export" / "model.safetensors")
    assert network.form == Form(width=8, points=4) and not network.training
    scene = estimate_scene(torch.rand(1, 3, 64, 96), estimator=f"mono:{folder / 'out' / 'export'}")
    assert bool((scene.depths > 0).all()) and any("rough guess" in note for note in scene.notes)


def test_damaged_and_foreign_weights_are_refused(tmp_path):
    from safetensors.torch import save_file

    from cus.estimators.mono import save_network

    save_network(tmp_path / "whole.safetensors", SingleViewDepth(Form(width=8, points=4)))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:3000])
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (("cut", "cannot be read as the single-view network"), ("other", "its format is None")):
        with pytest.raises(InputError, match=message):
            Mono().load(tmp_path / f"{name}.safetensors")
