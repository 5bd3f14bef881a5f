"""Photographs that cannot be placed, and pixels that count for nothing."""

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.estimators.poses import initial_intrinsics
from cus.inference.photo_fit import fused_photos
from tests.estimators import planes

FOCAL = 170.0


def pair_and_stranger(place: int) -> Tensor:
    """[3, 3, H, W]: two views of the scene, and at index `place` a picture of something else."""
    images, _ = planes.render(planes.cameras((0.0, 0.4)))
    other = planes.texture(7, 160)[:, :120]
    return torch.cat([images[:place], other[None], images[place:]])


def estimated(images: Tensor, **options) -> SceneEstimate:
    return estimate_scene(images, estimator="stereo", focals=torch.full((len(images),), FOCAL), **options)


@pytest.mark.parametrize(("place", "used"), [(2, (0, 1)), (1, (0, 2)), (0, (1, 2))])
def test_a_photograph_of_something_else_is_left_out_with_a_note(place: int, used: tuple[int, ...]):
    images = pair_and_stranger(place)
    scene = estimated(images)
    assert scene.used == used and scene.left_out == (place,)
    assert torch.equal(scene.images, images[list(used)])
    assert any(f"view {place + 1} is left out" in note for note in scene.notes)
    assert any("first view is left out" in note for note in scene.notes) == (place == 0)
    torch.testing.assert_close(scene.cameras.viewmats[0], torch.eye(4))


def test_what_is_left_is_estimated_as_if_nothing_else_had_been_given():
    images = pair_and_stranger(1)
    with_stranger, alone = estimated(images), estimated(images[[0, 2]])
    assert torch.equal(with_stranger.depths, alone.depths)
    assert torch.equal(with_stranger.cameras.viewmats, alone.cameras.viewmats)


def test_a_blank_photograph_is_left_out_too():
    images = pair_and_stranger(2)
    images[2] = 0.5
    scene = estimated(images)
    assert scene.used == (0, 1)
    assert any("view 3 is left out: it is blank" in note for note in scene.notes)


def test_all_views_insists():
    with pytest.raises(InputError, match="view 3 cannot be placed.*leave it out"):
        estimated(pair_and_stranger(2), all_views=True)


def test_of_views_that_share_nothing_two_do_not_remain():
    images = torch.stack([planes.texture(seed, 160) for seed in (0, 5, 9)])
    with pytest.raises(InputError, match="cannot be placed.*shares too little"):
        estimated(images)


def facing_away() -> tuple[Tensor, Cameras]:
    """Two views of the scene, and one from the same place as the first that looks the other way."""
    views = planes.cameras((0.0, 0.4))
    images, _ = planes.render(views)
    back = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))[None] @ views.viewmats[:1]
    cameras = Cameras(torch.cat([views.viewmats, back]), views.Ks[[0, 1, 1]], 160, 120)
    return torch.cat([images, planes.texture(7, 160)[None, :, :120]]), cameras


def test_with_known_cameras_a_photograph_without_overlap_gets_no_depth_and_a_note():
    images, cameras = facing_away()
    scene = estimate_scene(images, cameras, "stereo")
    assert scene.left_out == () and len(scene) == 3
    assert not scene.depths[2].any() and not scene.confidences[2].any()
    assert any("view 3 gets no depth" in note for note in scene.notes)
    alone = estimate_scene(images[:2], cameras[:2], "stereo")
    # Not the same bits: chance matches with the stranger, which no camera explains, tear a track or two.
    assert ((scene.depths[:2] / alone.depths - 1).abs() < 0.02).float().mean() > 0.995


def test_a_photograph_without_depth_does_not_keep_the_others_from_being_fused():
    images, cameras = facing_away()
    assert len(fused_photos(estimate_scene(images, cameras, "stereo")).points) > 10_000


def test_all_views_insists_with_known_cameras():
    images, cameras = facing_away()
    with pytest.raises(InputError, match="view 3 cannot get a depth"):
        estimate_scene(images, cameras, "stereo", all_views=True)


def test_known_cameras_that_see_nothing_in_common_are_refused():
    images, cameras = facing_away()
    with pytest.raises(InputError, match="sees nothing in common"):
        estimate_scene(images[[0, 2]], cameras[[0, 2]], "stereo")


@pytest.mark.parametrize("known", [False, True])
def test_what_pixels_that_are_not_valid_show_changes_nothing(known: bool):
    views = planes.cameras((0.0, 0.4))
    images, depths = planes.render(views)
    valid = torch.ones(2, 120, 160, dtype=torch.bool)
    valid[0, 30:60, 20:70] = False
    valid[1, 80:, 100:] = False
    cameras = views if known else None
    focals = torch.full((2,), FOCAL)
    shown = [
        torch.where(valid[:, None], images, other)
        for other in (torch.zeros(1), planes.texture(3, 160)[None, :, :120].expand(2, -1, -1, -1))
    ]
    first, second = (estimate_scene(pictures, cameras, "stereo", valid=valid, focals=focals) for pictures in shown)
    assert torch.equal(first.depths, second.depths) and torch.equal(first.confidences, second.confidences)
    assert not first.depths[~valid].any() and not first.confidences[~valid].any()
    assert (first.depths[valid] > 0).all()
    ratio = (first.depths / depths)[valid]
    assert ((ratio / ratio.median() - 1).abs() < 0.03).float().mean() > 0.8


def test_the_principal_point_is_the_middle_of_the_photograph_and_not_of_its_mask():
    images = torch.zeros(2, 3, 120, 160)
    valid = torch.ones(2, 120, 160, dtype=torch.bool)
    valid[:, :, 100:] = False
    cameras = initial_intrinsics(images, None, valid, torch.tensor([[160.0, 120.0], [120.0, 120.0]]))
    assert [(camera.cx, camera.cy) for camera in cameras] == [(80.0, 60.0), (60.0, 60.0)]
