"""What a run makes of its photographs before the first stage: masks, far worlds, cameras for files of another size."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cus.inference import photographs
from cus.inference.view_choice import choose_views
from tests.datasets.layouts import procedural_views, write_pictures, write_transforms

NAMES = ["0000.png", "0001.png", "0002.png"]


def read(tmp_path: Path, cameras: Path | None = None) -> tuple[photographs.Inputs, photographs.Batch]:
    views = tuple(tmp_path / "images" / name for name in NAMES[:2])
    inputs = photographs.inspect(choose_views(views, None, tmp_path / "out"), cameras)
    return inputs, photographs.read(inputs, 128)


def write_mask(folder: Path) -> None:
    keep = np.full((64, 96), 255, np.uint8)
    keep[:, :48] = 0
    folder.mkdir()
    Image.fromarray(keep).save(folder / "0001.png")


def test_masks_count_with_and_without_cameras(tmp_path):
    write_transforms(tmp_path, *procedural_views())
    write_mask(tmp_path / "masks")
    for cameras in (None, tmp_path / "transforms.json", tmp_path):
        inputs, batch = read(tmp_path, cameras)
        assert any(note.startswith("1 of 2 photographs have masks") for note in inputs.notes)
        assert batch.set.valid[0].all() and not batch.set.valid[1, :, :47].any() and batch.set.valid[1, :, 49:].all()


def test_a_far_world_gives_the_batch_of_a_near_one_and_remembers_where_it_was(tmp_path):
    write_transforms(tmp_path, *procedural_views())
    near = read(tmp_path, tmp_path / "transforms.json")[1]
    content = json.loads((tmp_path / "transforms.json").read_text())
    for frame in content["frames"]:
        for row, offset in enumerate((448251.3, 5411932.7, 35.2)):
            frame["transform_matrix"][row][3] += offset
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    far = read(tmp_path, tmp_path / "transforms.json")[1]
    assert torch.equal(far.set.images, near.set.images)
    assert not near.origin.any() and near.cameras is not None and far.cameras is not None
    offset = torch.tensor([448251.3, 5411932.7, 35.2], dtype=torch.float64)
    assert (far.cameras.centers + far.origin - offset - near.cameras.centers).abs().max() < 1e-5
    between = [batch.cameras.centers[1] - batch.cameras.centers[0] for batch in (near, far) if batch.cameras]
    torch.testing.assert_close(between[0], between[1], atol=1e-5, rtol=1e-5)


def test_cameras_follow_photographs_that_were_shrunk(tmp_path):
    images, cameras = procedural_views()
    write_transforms(tmp_path / "full", images, cameras)
    write_pictures(tmp_path / "images", images, NAMES, shrink=2)
    inputs, batch = read(tmp_path, tmp_path / "full")
    assert inputs.photos[0].width == 48 and any("48x32 for 96x64" in note for note in inputs.notes)
    assert batch.cameras is not None
    torch.testing.assert_close(batch.cameras.Ks, cameras.resized(48, 32).Ks[:2])
