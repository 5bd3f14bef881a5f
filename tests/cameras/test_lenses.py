"""Lenses: the rays of pycolmap and OpenCV, straight pictures of every model, and parameters that cannot be."""

import cv2
import numpy as np
import pytest

from cus.cameras.lenses import MODELS, Lens, check_lens, undistort
from cus.errors import InputError

pycolmap = pytest.importorskip("pycolmap")
K = np.array([[300.0, 0, 160.5], [0, 310.0, 119.0], [0, 0, 1]])
RAYS = np.random.default_rng(0).uniform(-0.4, 0.4, (50, 2))
PARAMS = {
    "SIMPLE_PINHOLE": (),
    "PINHOLE": (),
    "SIMPLE_RADIAL": (-0.1,),
    "RADIAL": (-0.1, 0.02),
    "OPENCV": (-0.2, 0.05, 0.002, -0.001),
    "OPENCV_FISHEYE": (0.05, 0.01, 0.002, 0.001),
    "FULL_OPENCV": (-0.2, 0.05, 0.002, -0.001, 0.01, 0.02, 0.01, 0.003),
    "FOV": (0.9,),
    "SIMPLE_RADIAL_FISHEYE": (0.05,),
    "RADIAL_FISHEYE": (0.05, 0.01),
    "THIN_PRISM_FISHEYE": (0.05, 0.01, 0.001, -0.002, 0.002, 0.001, 0.003, -0.001),
    "RAD_TAN_THIN_PRISM_FISHEYE": (0.05, 0.01, 0.002, 0, 0, 0, 0.001, -0.002, 0.003, 0, -0.001, 0),
    "SIMPLE_DIVISION": (-0.1,),
    "DIVISION": (-0.1,),
    "SIMPLE_FISHEYE": (),
    "FISHEYE": (),
    "EUCM": (0.6, 1.1),
}


def dot_at(place: np.ndarray, width: int = 320, height: int = 240) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width] + 0.5
    dot = (255 * np.exp(-((xs - place[0]) ** 2 + (ys - place[1]) ** 2) / 8)).astype(np.uint8)
    return np.repeat(dot[..., None], 3, axis=2)


def center_of(picture: np.ndarray) -> np.ndarray:
    weights = picture[..., 0].astype(float)
    ys, xs = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(weights * xs).sum(), (weights * ys).sum()]) / weights.sum()


def colmap_camera(model: str) -> "pycolmap.Camera":
    focal = [300.0] if MODELS[model].focals == 1 else [300.0, 310.0]
    return pycolmap.Camera(model=model, width=320, height=240, params=[*focal, 160.5, 119.0, *PARAMS[model]])


def test_the_table_of_models_is_that_of_pycolmap():
    for name, model in MODELS.items():
        known = getattr(pycolmap.CameraModelId, name)
        assert int(known) == model.id
        assert len(pycolmap.Camera.create_from_model_name(1, name, 1.0, 2, 2).params) == (
            model.focals + 2 + len(model.params)
        )


@pytest.mark.parametrize("model", MODELS)
def test_a_dot_where_colmap_projects_a_ray_moves_to_where_a_pinhole_projects_it(model):
    camera = colmap_camera(model)
    own_K = np.diag([camera.focal_length_x, camera.focal_length_y, 1.0])
    own_K[:2, 2] = camera.principal_point_x, camera.principal_point_y
    ray = np.array([0.33, -0.24, 1.0])
    picture = dot_at(camera.img_from_cam(ray))
    straight, mask = undistort(picture, own_K, Lens(model, PARAMS[model]))
    assert np.abs(center_of(straight) - (own_K @ ray)[:2]).max() < 0.1
    assert mask is None or mask[120, 160]


def test_lenses_of_opencv_bend_rays_as_opencv_does():
    rays = np.concatenate([RAYS, np.ones((50, 1))], axis=1)
    lens = PARAMS["FULL_OPENCV"]
    expected = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.eye(3), np.array(lens))[0][:, 0]
    assert np.abs(Lens.from_opencv(lens).distort(RAYS) - expected).max() < 1e-12
    fisheye = PARAMS["OPENCV_FISHEYE"]
    expected = cv2.fisheye.distortPoints(RAYS[:, None], np.eye(3), np.array(fisheye))[:, 0]
    assert np.abs(Lens("OPENCV_FISHEYE", fisheye).distort(RAYS) - expected).max() < 1e-9


def test_coefficients_come_back_and_a_fisheye_has_none():
    for coefficients in ((), (0.1,), (0.1, 0.2, 0.3, 0.4), (0.1, 0, 0, 0, 0, 0.2)):
        padded = (*coefficients, *(0.0,) * (8 - len(coefficients)))
        assert Lens.from_opencv(coefficients).opencv() == padded
    assert Lens("FISHEYE").opencv() is None and Lens("FISHEYE").bends
    assert not Lens("OPENCV", (0.0,) * 4).bends


def test_a_mask_is_straightened_with_its_picture():
    mask = np.ones((240, 320), bool)
    mask[:, :160] = False
    straight, usable = undistort(dot_at(np.array([100.0, 60.0])), K, Lens("SIMPLE_RADIAL", (-0.1,)), mask=mask)
    assert usable is not None and not usable[:, :158].any() and usable[100, 163:300].all()
    assert undistort(straight, K, Lens(), mask=mask)[1] is mask


@pytest.mark.parametrize(
    ("lens", "problem"),
    [
        (Lens.from_opencv([-50.0]), "folds 9"),
        (Lens.from_opencv([50.0]), "leaves 1"),
        (Lens.from_opencv([0.1, -40.0]), "folds"),
        (Lens("OPENCV_FISHEYE", (-8.0, 0, 0, 0)), "folds"),
    ],
)
def test_a_lens_that_cannot_be_that_of_the_picture_is_refused(lens, problem):
    with pytest.raises(InputError, match=f"here: the lens .* {problem}"):
        check_lens(lens, K, 320, 240, "here")


@pytest.mark.parametrize("model", MODELS)
def test_lenses_that_can_be_are_not_refused(model):
    check_lens(Lens(model, PARAMS[model]), K, 320, 240, "here")
    # A wide one: 320 pixels at a focal length of 130 see 102 degrees.
    check_lens(Lens("OPENCV", (-0.28, 0.07, 0, 0)), np.array([[130.0, 0, 160], [0, 130, 120], [0, 0, 1]]), 320, 240, "")
