from importlib.util import find_spec

import pytest
import torch

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene


def make_scene(depths: torch.Tensor, confidences: torch.Tensor) -> SceneEstimate:
    views, height, width = depths.shape
    K = torch.tensor([[100.0, 0.0, width / 2], [0.0, 100.0, height / 2], [0.0, 0.0, 1.0]])
    cameras = Cameras(torch.eye(4).repeat(views, 1, 1), K.repeat(views, 1, 1), width, height)
    return SceneEstimate(torch.zeros(views, 3, height, width), cameras, depths, confidences)


def test_scale_is_the_mean_distance_of_the_reliable_points():
    depths = torch.full((1, 4, 4), 3.0)
    scene = make_scene(depths, torch.ones_like(depths))
    expected = scene.cameras.backproject(depths).norm(dim=-1).mean()
    assert scene.scale == pytest.approx(float(expected), rel=1e-6)
    assert scene.scale > 3.0


def test_the_least_confident_tenth_does_not_count():
    depths = torch.full((1, 10, 10), 2.0)
    confidences = torch.ones(1, 10, 10)
    confidences[0, 0] = 0.1
    depths[0, 0, :9] = 1000.0
    confidences[0, 0, 9] = 0.2
    scene = make_scene(depths, confidences)
    assert int(scene.reliable.sum()) in (90, 91)
    assert scene.scale < 2.1


def test_equal_confidence_keeps_every_pixel_that_has_a_depth():
    depths = torch.ones(2, 5, 5)
    depths[:, 0, 0] = 0.0
    scene = make_scene(depths, torch.ones_like(depths))
    assert torch.equal(scene.reliable, depths > 0)


def test_a_scene_without_depth_has_no_scale():
    with pytest.raises(ValueError, match="no depth"):
        _ = make_scene(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).scale


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match="depths must be"):
        scene = make_scene(torch.ones(1, 4, 4), torch.ones(1, 4, 4))
        SceneEstimate(scene.images, scene.cameras, torch.ones(1, 4, 5), scene.confidences)


def test_one_view_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="needs at least 2.*add another.*da3, depth-pro, depth-anything-2 or mono"):
        estimate_scene(torch.rand(1, 3, 32, 32), estimator="stereo")
    with pytest.raises(InputError, match="there is no photograph"):
        estimate_scene(torch.rand(0, 3, 32, 32))


def test_an_unknown_estimator_names_the_known_ones():
    with pytest.raises(InputError, match="stereo"):
        estimate_scene(torch.rand(2, 3, 32, 32), estimator="sterio")


@pytest.mark.parametrize(
    ("name", "how"), [("vggt", "pip install --no-deps .*vggt.*research"), ("dust3r", "git clone .*dust3r.*CC BY-NC-SA")]
)
def test_a_missing_estimator_says_how_to_install_it_and_its_licence(name, how):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(InputError, match=how):
        estimate_scene(torch.rand(2, 3, 32, 32), estimator=name)


@pytest.mark.parametrize(
    "extra",
    [{"valid": torch.ones(2, 8, 8, dtype=torch.bool)}, {"focals": torch.ones(3)}],
)
def test_arguments_of_another_shape_are_refused(extra):
    with pytest.raises(ValueError):
        estimate_scene(torch.rand(2, 3, 32, 32), **extra)
