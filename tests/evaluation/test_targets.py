"""Ground truth crops: the photograph's own pixels, averaged, with the exact camera."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cus.cameras import Cameras, Lens, PosedPhotos, load_transforms, save_transforms
from cus.errors import InputError
from cus.evaluation.protocol import Case
from cus.evaluation.targets import read_target
from tests.evaluation.rooms import standing_at

WIDTH, HEIGHT = 600, 400


def case(zoom: float = 1.0, center: tuple[float, float] = (0.5, 0.5), target: str = "1.png") -> Case:
    return Case("case", ("0.png", "2.png"), target, "closeup", "easy", zoom, center, "zoom")


def pictures(folder, values: np.ndarray, count: int = 3) -> PosedPhotos:
    """Photographs [HEIGHT, WIDTH, 3] uint8 of three cameras."""
    cameras = Cameras.cat([standing_at(float(i), -5.0) for i in range(count)])
    for index in range(count):
        Image.fromarray(values).save(folder / f"{index}.png")
    save_transforms(folder / "transforms.json", cameras, [f"{i}.png" for i in range(count)])
    return load_transforms(folder)


@pytest.fixture
def noise(tmp_path):
    return pictures(tmp_path, np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def test_the_whole_photograph_is_what_references_are_loaded_as(noise):
    target = read_target(noise, case(), 150)
    picture, camera = target.picture, target.camera
    images, cameras = noise.select([1]).load(150)
    torch.testing.assert_close(picture, images[0])
    torch.testing.assert_close(camera.Ks, cameras.Ks)
    torch.testing.assert_close(camera.viewmats, cameras.viewmats)


def test_a_crop_is_the_mean_of_the_photographs_pixels(noise):
    """Twice as many pixels as asked for: each of the target's is the mean of 2 x 2."""
    target = read_target(noise, case(2.0, (0.25, 0.75)), 150)
    pixels = torch.from_numpy(np.array(Image.open(noise.paths[1]))).permute(2, 0, 1) / 255
    expected = torch.nn.functional.avg_pool2d(pixels[None, :, 200:, :300], 2)[0]
    torch.testing.assert_close(target.picture, expected, atol=1e-5, rtol=0)
    assert target.valid.all() and target.note is None


@pytest.mark.parametrize(("zoom", "center"), [(4.0, (0.5, 0.5)), (5.0, (0.3, 0.7)), (3.3, (0.0, 1.0))])
def test_the_camera_of_a_crop_is_exact(tmp_path, zoom, center):
    """The picture shows where each of its pixels lies in the photograph; the camera must say the same."""
    xs, ys = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    coordinates = np.stack([xs * 255 / WIDTH, ys * 255 / HEIGHT, np.zeros_like(xs)], axis=-1).astype(np.uint8)
    posed = pictures(tmp_path, coordinates)
    target = read_target(posed, case(zoom, center), 96)
    picture, camera = target.picture, target.camera
    full = Cameras(posed.viewmats[1:2], posed.Ks[1:2], WIDTH, HEIGHT)
    points = camera.backproject(torch.ones(1, camera.height, camera.width))[0].reshape(-1, 3)
    pixels = full.project(points)[0][0].reshape(camera.height, camera.width, 2)
    shown = picture[:2].permute(1, 2, 0) * 255 + 0.5  # whole numbers were cut off
    said = pixels * torch.tensor([255 / WIDTH, 255 / HEIGHT])
    assert (shown - said).abs().mean(dim=(0, 1)).max() < 0.3 and (shown - said).mean(dim=(0, 1)).abs().max() < 0.1


def test_nothing_is_enlarged(noise):
    target = read_target(noise, case(4.0), 300)
    assert target.picture.shape == (3, 100, 150) and "150x100" in str(target.note)
    pixels = torch.from_numpy(np.array(Image.open(noise.paths[1])))[150:250, 225:375].permute(2, 0, 1) / 255
    torch.testing.assert_close(target.picture, pixels)
    with pytest.raises(InputError, match="too few"):
        read_target(noise, case(12.0), 300)
    with pytest.raises(ValueError, match="at least 64"):
        read_target(noise, case(), 20)


def test_a_distorted_lens_is_straightened_and_its_empty_corners_are_marked(noise):
    bent = replace(noise, lenses=(Lens("SIMPLE_RADIAL", (0.3,)),) * len(noise))
    whole = read_target(bent, case(), 150)
    assert not whole.valid.all() and whole.valid[40:60, 60:90].all()
    assert whole.picture[:, ~whole.valid].mean() < whole.picture[:, whole.valid].mean()
    images, _ = bent.select([1]).load(150)
    torch.testing.assert_close(whole.picture, images[0])
    assert read_target(bent, case(4.0), 150).valid.all()


def test_photographs_that_changed_are_refused(noise):
    with pytest.raises(InputError, match="no photograph 7.png"):
        read_target(noise, case(target="7.png"), 150)
    Image.new("RGB", (300, 200)).save(noise.paths[1])
    with pytest.raises(InputError, match="300x200 pixels, but its camera is for 600x400"):
        read_target(noise, case(), 150)
    noise.paths[1].unlink()
    with pytest.raises(InputError, match="no such photograph"):
        read_target(noise, case(), 150)
