import math

import numpy as np
import pytest
import torch

from cus.cameras import Cameras
from cus.viewer.stage import camera_from_eye, eye_of, frustum_corners, wxyz_of
from tests.viewer.scenes import HEIGHT, WIDTH, photographs, run_path


def world_corners(camera: Cameras) -> torch.Tensor:
    corners = torch.from_numpy(frustum_corners(camera)).float()
    c2w = camera.c2w[0]
    return corners @ c2w[:3, :3].T + c2w[:3, 3]


@pytest.mark.parametrize("index", range(7))
def test_a_frustums_corners_project_to_the_pictures_corners(index):
    camera = Cameras.cat([photographs(), run_path()])[index]
    pixels, depths = camera.project(world_corners(camera))
    expected = torch.tensor([[0.0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]])
    torch.testing.assert_close(pixels[0], expected, atol=1e-3, rtol=0)
    assert (depths > 0).all()


def test_every_frustum_has_the_volume_of_the_unit_cube():
    for index in range(5):
        corners = frustum_corners(run_path()[index])
        width, height = corners[1, 0] - corners[0, 0], corners[3, 1] - corners[0, 1]
        assert width * height * corners[0, 2] / 3 == pytest.approx(1, rel=1e-5)


def test_a_camera_becomes_an_eye_and_a_camera_again():
    camera = photographs()[0]
    eye = eye_of(camera, 2.5)
    fov = eye.vertical_fov(WIDTH / HEIGHT)
    again = camera_from_eye(wxyz_of(camera), eye.position, fov, WIDTH, HEIGHT)
    torch.testing.assert_close(again.viewmats, camera.viewmats, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.Ks, camera.Ks, atol=1e-3, rtol=0)


@pytest.mark.parametrize("aspect", [0.5, 1.5, 3.0])
def test_a_window_of_any_shape_shows_the_whole_picture_and_touches_two_of_its_sides(aspect):
    camera = photographs()[0]
    fov = eye_of(camera, 1.0).vertical_fov(aspect)
    height = 300
    window = camera_from_eye(wxyz_of(camera), np.zeros(3), fov, round(aspect * height), height)
    pixels, _ = window.project(world_corners(camera))
    left, top = pixels[0].min(dim=0).values.tolist()
    assert left > -1 and top > -1 and min(abs(left), abs(top)) < 1


def test_an_eye_looks_at_the_middle_of_a_picture_whose_principal_point_lies_elsewhere():
    camera = photographs()[1]
    eye = eye_of(camera, 3.0)
    pixels, _ = camera.project(torch.from_numpy(eye.look_at).float()[None])
    torch.testing.assert_close(pixels[0, 0], torch.tensor([WIDTH / 2, HEIGHT / 2]), atol=1e-3, rtol=0)
    assert math.isclose(float(np.linalg.norm(eye.look_at - eye.position)), 3.0, rel_tol=1e-6)
    assert abs(float(eye.up @ (eye.look_at - eye.position))) < 1e-6
