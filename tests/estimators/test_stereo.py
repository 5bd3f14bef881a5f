from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.estimators.estimator import Request
from cus.estimators.stereo import Stereo, StereoSettings
from tests.estimators import planes


@pytest.fixture(scope="module")
def posed() -> tuple[SceneEstimate, Tensor]:
    views = planes.cameras((0.0, 0.4))
    images, depths = planes.render(views)
    return estimate_scene(images, views), depths


def test_depth_of_a_rendered_scene_is_right(posed: tuple[SceneEstimate, Tensor]):
    scene, depths = posed
    error = (scene.depths / depths - 1).abs()
    assert (error < 0.02).float().mean() > 0.9
    assert error.median() < 0.003


def test_given_cameras_are_kept(posed: tuple[SceneEstimate, Tensor]):
    scene, _ = posed
    assert torch.equal(scene.cameras.viewmats, planes.cameras((0.0, 0.4)).viewmats)
    assert 3.0 < scene.scale < 5.0


def test_every_pixel_has_a_depth_and_confidence_predicts_the_error(posed: tuple[SceneEstimate, Tensor]):
    scene, depths = posed
    assert (scene.depths > 0).all()
    assert scene.confidences.min() >= 0 and scene.confidences.max() <= 1
    wrong = ((scene.depths / depths - 1).abs() > 0.02).float()
    sure = scene.confidences > scene.confidences.median()
    assert wrong[sure].mean() < 0.2 * wrong[~sure].mean()


def test_three_views_are_better_than_two():
    views = planes.cameras((0.0, 0.4, -0.4))
    images, depths = planes.render(views)
    both = [estimate_scene(images[:n], views[slice(n)]).depths[0] for n in (2, 3)]
    two, three = (((found / depths[0] - 1).abs() < 0.02).float().mean() for found in both)
    assert three > two


def test_without_cameras_the_first_is_the_identity_and_the_scale_is_one():
    views = planes.cameras((0.0, 0.6), width=320, height=240, focal=340.0)
    images, depths = planes.render(views)
    seen: list[tuple[int, int]] = []
    scene = estimate_scene(images, focals=torch.full((2,), 340.0), on_progress=lambda *step: seen.append(step))
    torch.testing.assert_close(scene.cameras.viewmats[0], torch.eye(4))
    assert scene.scale == pytest.approx(1.0, rel=1e-4)
    ratio = scene.depths / depths
    assert ((ratio / ratio.median() - 1).abs() < 0.04).float().mean() > 0.85
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_same_photos_give_the_same_scene():
    views = planes.cameras((0.0, 0.6), width=240, height=180, focal=255.0)
    images, _ = planes.render(views)
    first, second = (estimate_scene(images) for _ in range(2))
    assert torch.equal(first.cameras.viewmats, second.cameras.viewmats)
    assert torch.equal(first.depths, second.depths) and torch.equal(first.confidences, second.confidences)
    assert "guess" in first.notes[0]


def test_large_photos_are_swept_small_and_enlarged():
    views = planes.cameras((0.0, 0.4), width=320, height=240, focal=340.0)
    images, depths = planes.render(views)
    scene = Stereo(StereoSettings(longest_side=160)).estimate(Request(images, views), None)
    assert scene.depths.shape == depths.shape
    assert ((scene.depths / depths - 1).abs() < 0.03).float().mean() > 0.85


def test_padding_gets_no_depth_and_no_confidence():
    views = planes.cameras((0.0, 0.4))
    images, _ = planes.render(views)
    valid = torch.ones(2, 120, 160, dtype=torch.bool)
    valid[1, :, 130:] = False
    scene = estimate_scene(images * valid[:, None], views, valid=valid)
    assert not scene.depths[~valid].any() and not scene.confidences[~valid].any()
    assert (scene.depths[valid] > 0).all()


def test_exposure_does_not_matter():
    views = planes.cameras((0.0, 0.4))
    images, depths = planes.render(views)
    images[1] = images[1] * 0.7 + 0.1
    scene = estimate_scene(images, views)
    assert ((scene.depths / depths - 1).abs() < 0.02).float().mean() > 0.88


@pytest.mark.parametrize("known", [False, True])
def test_a_blank_photo_is_refused(known: bool):
    views = planes.cameras((0.0, 0.4))
    images, _ = planes.render(views)
    images[1] = 0.0
    with pytest.raises(InputError, match="view 2 cannot .*blank"):
        estimate_scene(images, views if known else None)


def test_cameras_of_other_photos_are_refused():
    views = planes.cameras((0.0, 0.8), width=320, height=240, focal=340.0)
    images, _ = planes.render(views)
    wrong = Cameras(views.viewmats.clone(), views.Ks, 320, 240)
    wrong.viewmats[1, :3, 3] = torch.tensor([0.0, 0.7, 0.3])
    with pytest.raises(InputError, match="do not fit the photographs"):
        estimate_scene(images, wrong)


def test_cameras_without_features_still_give_depth():
    views = planes.cameras((0.0, 0.4))
    images, _ = planes.render(views)
    soft = torch.nn.functional.avg_pool2d(images, 31, 1, 15)
    scene = estimate_scene(soft, views)
    assert torch.isfinite(scene.depths).all()


def rectified(images: Tensor) -> Cameras:
    """A pair one unit apart with parallel axes: disparity = focal / depth, focal = width."""
    height, width = images.shape[-2:]
    K = torch.tensor([[float(width), 0.0, width / 2], [0.0, float(width), height / 2], [0.0, 0.0, 1.0]])
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = -1.0
    return Cameras(viewmats, K.repeat(2, 1, 1), width, height)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def seen_by_the_right(disparity: np.ndarray) -> np.ndarray:
    """Pixels of the left view that nothing nearer hides in the right one, from the true disparity alone."""
    height, width = disparity.shape
    column = np.rint(np.arange(width) - disparity).astype(int)
    inside = (column >= 0) & (disparity > 0)
    nearest = np.zeros_like(disparity)
    rows = np.broadcast_to(np.arange(height)[:, None], disparity.shape)
    np.maximum.at(nearest, (rows[inside], column[inside]), disparity[inside])
    return inside & (nearest[rows, column.clip(0)] <= disparity + 1.5)


def check_disparity(pair: list[np.ndarray], truth: np.ndarray, visible: np.ndarray, shrink: int) -> None:
    images = torch.stack([torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1) for image in pair])
    size = (images.shape[-2] // shrink, images.shape[-1] // shrink)
    images = torch.nn.functional.interpolate(images, size=size, mode="area")
    cameras = rectified(images)
    scene = estimate_scene(images, cameras)
    disparity = truth.shape[1] / scene.depths[:1, None]
    full = torch.nn.functional.interpolate(disparity, size=truth.shape, mode="nearest")[0, 0].numpy()
    trust = torch.nn.functional.interpolate(scene.confidences[:1, None], size=truth.shape, mode="nearest")[0, 0].numpy()
    right = (np.abs(full - truth) < 2)[visible]
    sure = trust[visible] > np.median(trust[visible])
    assert right.mean() > 0.94
    assert 1 - right[sure].mean() < 0.1 * (1 - right[~sure].mean())


@pytest.mark.slow
def test_disparity_of_the_cones_is_within_two_pixels(photos: Path):
    folder = photos / "stereo_cones"
    truth = read(folder / "Cones_LEFT_GT.tif")
    visible = (read(folder / "Occlusion_LEFT.png") == 1) & (truth > 0)
    check_disparity([read(folder / "left.png"), read(folder / "right.png")], truth, visible, shrink=1)


@pytest.mark.slow
def test_disparity_of_the_aloe_is_within_two_pixels(photos: Path):
    folder = photos / "stereo_aloe"
    truth = read(folder / "aloeGT.png").astype(np.float32)
    check_disparity([read(folder / f"aloe{s}.jpg") for s in "LR"], truth, seen_by_the_right(truth), shrink=2)
