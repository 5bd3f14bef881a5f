"""EXIF's orientation where cameras are given: they are for the pixels as stored, unless the file says otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cus.cameras import load_transforms, save_transforms
from cus.cameras.colmap import load_colmap, save_colmap
from tests.cameras.test_cameras import random_cameras
from tests.cameras.test_pictures import STORED, corners, save_turned


def scene(folder: Path, orientation: int, width: int, height: int, **fields: bool) -> Path:
    """One photograph of an orientation, with a camera for a picture of this size."""
    save_turned(folder / "a.png", orientation)
    save_transforms(folder / "transforms.json", random_cameras(1, width=width, height=height), ["a.png"], dict(fields))
    return folder


def shown(posed) -> np.ndarray:
    """[H, W, 3] uint8 of the first photograph as its camera's program sees it."""
    width, height = posed.sizes[0]
    images, _ = posed.load(width, height)
    return (images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_cameras_of_other_programs_are_for_the_pixels_as_stored(tmp_path, orientation):
    stored = STORED[orientation](corners())
    posed = load_transforms(scene(tmp_path, orientation, stored.shape[1], stored.shape[0]))
    assert np.array_equal(shown(posed), stored)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_field_of_our_own_says_that_a_camera_is_for_the_upright_picture(tmp_path, orientation):
    posed = load_transforms(scene(tmp_path, orientation, 64, 48, upright=True))
    assert np.array_equal(shown(posed), corners())


@pytest.mark.parametrize("orientation", [6, 8])
def test_where_only_the_upright_picture_has_the_camera_s_shape_it_is_taken_with_a_note(tmp_path, orientation):
    posed = load_transforms(scene(tmp_path, orientation, 64, 48))
    assert np.array_equal(shown(posed), corners())
    photos, _ = posed.read(64, 48)
    assert any("upright, as EXIF says" in note and "a.png" in note for note in photos.notes)


def test_a_colmap_model_is_for_the_pixels_as_stored(tmp_path):
    """COLMAP does not read EXIF's orientation; the photograph lies upside down in its file."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        save_turned(tmp_path / "images" / name, 3)
    save_colmap(tmp_path / "sparse", random_cameras(2, width=64, height=48), ["a.png", "b.png"])
    posed = load_colmap(tmp_path / "sparse", tmp_path / "images")
    assert np.array_equal(shown(posed), corners()[::-1, ::-1])


def test_photographs_of_a_run_say_how_they_were_read(tmp_path):
    """A list of `photos` without the field is one of an earlier version, which turned all of them."""
    save_turned(tmp_path / "a.png", 3)
    cameras = random_cameras(1, width=64, height=48)
    save_transforms(tmp_path / "transforms.json", cameras, ["a.png"])
    content = json.loads((tmp_path / "transforms.json").read_text())
    entry = content["frames"][0]
    for fields, expected in (({}, corners()), ({"upright": False}, corners()[::-1, ::-1])):
        (tmp_path / "transforms.json").write_text(json.dumps(content | {"photos": [entry | fields]}))
        assert np.array_equal(shown(load_transforms(tmp_path, "photos")), expected)


def test_alpha_is_a_mask_of_posed_photographs_too(tmp_path):
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :32] = 0
    Image.fromarray(np.dstack([corners(), alpha])).save(tmp_path / "a.png")
    save_transforms(tmp_path / "transforms.json", random_cameras(1, width=64, height=48), ["a.png"])
    photos, _ = load_transforms(tmp_path).read(64, 48)
    assert torch.equal(photos.valid[0], torch.from_numpy(alpha > 0)) and "transparent" in photos.notes[0]
