import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cus.cameras import Cameras


def random_cameras(n: int = 3, seed: int = 0, width: int = 40, height: int = 30) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    viewmats = torch.eye(4).repeat(n, 1, 1)
    viewmats[:, :3, :3] = torch.from_numpy(Rotation.random(n, random_state=seed).as_matrix()).float()
    viewmats[:, :3, 3] = torch.randn(n, 3, generator=generator)
    Ks = torch.tensor([[50.0, 0, 19.0], [0, 52.0, 16.0], [0, 0, 1]]).repeat(n, 1, 1)
    return Cameras(viewmats, Ks, width, height)


def test_c2w_is_the_inverse_of_viewmats():
    cameras = random_cameras()
    torch.testing.assert_close(cameras.c2w, torch.linalg.inv(cameras.viewmats), atol=1e-5, rtol=1e-5)


def test_projecting_backprojected_pixels_gives_the_pixel_centres_and_depths_back():
    cameras = random_cameras()
    depths = 1 + torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(1))
    points = cameras.backproject(depths)
    pixels, z = cameras.project(points.reshape(3, -1, 3))
    torch.testing.assert_close(z.reshape(3, 30, 40), depths, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        pixels.reshape(3, 30, 40, 2), cameras.pixel_centers().expand(3, -1, -1, -1), atol=1e-3, rtol=0
    )


def test_the_centre_of_the_top_left_pixel_is_half_half():
    assert random_cameras().pixel_centers()[0, 0].tolist() == [0.5, 0.5]


@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_resizing_moves_a_projected_point_in_proportion(width: int, height: int):
    cameras = random_cameras()
    points = cameras.c2w[0, :3, 3] + cameras.c2w[0, :3, 2] * 2 + torch.tensor([0.1, 0.05, 0.0])
    before, _ = cameras.project(points[None])
    after, _ = cameras.resized(width, height).project(points[None])
    torch.testing.assert_close(after, before * torch.tensor([width / 40, height / 30]), atol=2e-3, rtol=1e-4)


def test_a_crop_enlarged_is_a_zoom_about_its_centre():
    cameras = random_cameras()
    crop = cameras.cropped(10, 7.5, 20, 15).resized(40, 30)
    torch.testing.assert_close(crop.Ks, cameras.zoomed(2.0).Ks)


def test_an_int_index_gives_a_batch_of_one_and_a_list_keeps_its_order():
    cameras = random_cameras()
    assert len(cameras[-1]) == 1
    assert torch.equal(cameras[-1].viewmats, cameras[2].viewmats)
    assert torch.equal(cameras[[2, 0]].viewmats[0], cameras.viewmats[2])
    with pytest.raises(IndexError):
        cameras[3]


def test_cat_joins_batches_and_refuses_other_sizes():
    cameras = random_cameras()
    assert len(Cameras.cat([cameras, cameras[0]])) == 4
    with pytest.raises(ValueError, match="sizes"):
        Cameras.cat([cameras, cameras.resized(10, 10)])


@pytest.mark.parametrize("broken", ["viewmats", "Ks", "nan", "size"])
def test_cameras_that_cannot_be_are_refused(broken: str):
    good = random_cameras(1)
    viewmats, Ks, width = good.viewmats.clone(), good.Ks.clone(), 40
    if broken == "viewmats":
        viewmats = viewmats[:, :3]
    elif broken == "Ks":
        Ks = torch.cat([Ks, Ks])
    elif broken == "nan":
        viewmats[0, 0, 0] = float("nan")
    else:
        width = 0
    with pytest.raises(ValueError):
        Cameras(viewmats, Ks, width, 30)
