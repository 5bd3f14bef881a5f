"""Projects as other programs leave them: shrunk and missing files, several models, masks, Blender's splits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cus.cameras.colmap import save_colmap
from cus.datasets.scenes import find_scenes, open_cameras, open_scene
from cus.errors import InputError
from tests.datasets.layouts import (
    frame_names,
    procedural_views,
    write_colmap,
    write_llff,
    write_pictures,
    write_realestate,
    write_transforms,
)
from tests.datasets.test_scenes import agrees


def test_a_colmap_project_with_shrunk_photographs_alone_follows_them(tmp_path):
    write_colmap(tmp_path, *procedural_views(), scale=4)
    assert agrees(open_scene(tmp_path)) and agrees(open_scene(tmp_path, tmp_path / "images_4"))
    posed = open_scene(tmp_path)
    assert any("96x64 for 384x256" in note for note in posed.notes)


def test_the_folder_that_is_named_is_taken_though_another_is_larger(tmp_path):
    images, cameras = procedural_views()
    write_transforms(tmp_path, images, cameras)
    write_pictures(tmp_path / "images_2", images, frame_names(3), shrink=2)
    assert open_scene(tmp_path).sizes == ((96, 64),) * 3
    assert open_scene(tmp_path, tmp_path / "images_2").sizes == ((48, 32),) * 3
    with pytest.raises(InputError, match="no folder of photographs"):
        open_scene(tmp_path, tmp_path / "images_8")


@pytest.mark.parametrize("images", ["images", "images_2", "input", ".", "../images"])
@pytest.mark.parametrize("model", ["sparse/0", "sparse", "dense/sparse", "undistorted/sparse", "colmap/sparse/0", "."])
def test_colmap_projects_are_found_wherever_model_and_photographs_lie(tmp_path, model, images):
    scene = tmp_path / "scene"
    views, cameras = procedural_views()
    save_colmap(scene / model, cameras, frame_names(3))
    project = (scene / model).parent if model.startswith(("dense", "undistorted")) else scene
    if images == "../images":
        project, images = scene, "images"
    write_pictures(project / images, views, frame_names(3))
    assert agrees(open_scene(scene))


def test_a_model_that_is_named_itself_finds_the_photographs_of_its_scene(tmp_path):
    write_colmap(tmp_path / "scene", *procedural_views())
    assert agrees(open_scene(tmp_path / "scene" / "sparse" / "0"))
    assert agrees(open_scene(tmp_path / "scene" / "sparse"))


def test_of_two_models_the_larger_is_read_and_both_are_named(tmp_path):
    views, cameras = procedural_views()
    write_colmap(tmp_path, views, cameras, model="sparse/1")
    save_colmap(tmp_path / "sparse" / "0", cameras[:2], frame_names(2))
    posed = open_scene(tmp_path)
    assert agrees(posed)
    assert any("2 COLMAP models" in note and "sparse/1: 3, sparse/0: 2" in note for note in posed.notes)


def test_photographs_of_the_same_name_in_two_folders_keep_their_own_cameras(tmp_path):
    views, cameras = procedural_views()
    names = ["cam0/0000.png", "cam0/0001.png", "cam1/0000.png"]
    for view, name in zip(views, names, strict=True):
        write_pictures(tmp_path / "images" / Path(name).parent, view[None], [Path(name).name])
    save_colmap(tmp_path / "sparse" / "0", cameras, names)
    posed = open_scene(tmp_path)
    assert agrees(posed) and posed.names == names
    chosen = open_cameras(tmp_path / "sparse" / "0").match([tmp_path / "images" / names[2], "cam0/0000.png"])
    torch.testing.assert_close(chosen.viewmats, cameras.viewmats[[2, 0]], atol=1e-5, rtol=1e-4)


def test_listed_photographs_that_were_never_published_are_counted(tmp_path):
    """As in instant-ngp's fox: more frames are listed than there are files."""
    views, cameras = procedural_views()
    write_transforms(tmp_path, views, cameras)
    content = json.loads((tmp_path / "transforms.json").read_text())
    extra = [content["frames"][0] | {"file_path": f"images/{i}.png"} for i in ("0009", "0010")]
    (tmp_path / "transforms.json").write_text(json.dumps(content | {"frames": [*content["frames"], *extra]}))
    posed = open_scene(tmp_path)
    assert agrees(posed) and any(note.startswith("2 of 5 photographs") for note in posed.notes)


def write_blender(folder: Path) -> None:
    """NeRF synthetic: camera_angle_x for all, names without extension, a file a split."""
    views, cameras = procedural_views()
    write_pictures(folder / "train", views, ["r_0.png", "r_1.png", "r_2.png"])
    write_pictures(folder / "test", views[:2], ["r_0.png", "r_1.png"])
    write_pictures(folder / "test", views[:1], ["r_0_depth_0001.png"])
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    angle = 2 * np.arctan(cameras.width / 2 / float(cameras.Ks[0, 0, 0]))
    for split, count in (("train", 3), ("test", 2)):
        matrices = (cameras.c2w[:count] @ flip).tolist()
        frames = [
            {"file_path": f"./{split}/r_{i}", "rotation": 0.01, "transform_matrix": matrix}
            for i, matrix in enumerate(matrices)
        ]
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))


def test_blenders_training_photographs_are_a_scene_and_all_splits_give_cameras(tmp_path):
    write_blender(tmp_path)
    (source,) = find_scenes(tmp_path)
    assert source.kind == "transforms"
    posed = open_scene(tmp_path)
    assert [path.parent.name for path in posed.paths] == ["train"] * 3
    assert any("transforms_test.json next to it is not" in note for note in posed.notes)
    _, cameras = posed.load(96)
    torch.testing.assert_close(cameras.viewmats, procedural_views()[1].viewmats, atol=1e-5, rtol=1e-4)
    assert len(open_scene(tmp_path / "transforms_test.json")) == 2
    every = open_cameras(tmp_path)
    assert len(every) == 5 and every.find(tmp_path / "test" / "r_1.png") == 4 and every.find("train/r_1.png") == 1


@pytest.mark.parametrize("layout", ["transforms", "colmap", "llff", "realestate"])
def test_cameras_of_every_layout_are_given_to_photographs_anywhere(tmp_path, layout):
    views, cameras = procedural_views()
    names = frame_names(3)
    if layout == "transforms":
        write_transforms(tmp_path / "scene", views, cameras)
    elif layout == "colmap":
        write_colmap(tmp_path / "scene", views, cameras)
    elif layout == "llff":
        write_llff(tmp_path / "scene", views, cameras)
    else:
        write_realestate(tmp_path / "scene" / "id.txt", tmp_path / "scene" / "id", views, cameras)
        names = [path.name for path in open_scene(tmp_path / "scene").paths]
    write_pictures(tmp_path / "elsewhere", views, names)
    chosen = open_cameras(tmp_path / "scene").match([tmp_path / "elsewhere" / name for name in names[::-1]])
    _, found = chosen.load(96)
    torch.testing.assert_close(found.viewmats, cameras.viewmats.flip(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["0001.png", "0001.png.png", "0001.jpg"])
def test_masks_beside_the_photographs_are_used_and_told(tmp_path, name):
    write_transforms(tmp_path, *procedural_views())
    keep = np.full((64, 96), 255, np.uint8)
    keep[:32] = 0
    (tmp_path / "masks").mkdir()
    Image.fromarray(keep).save(tmp_path / "masks" / name)
    posed = open_scene(tmp_path)
    assert any(note.startswith("1 of 3 photographs have masks") for note in posed.notes)
    photos, _ = posed.read(96)
    assert photos.valid[[0, 2]].all()
    assert not photos.valid[1, :31].any() and photos.valid[1, 33:].all()


def test_a_mask_that_is_listed_and_missing_is_refused(tmp_path):
    write_transforms(tmp_path, *procedural_views())
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"][2]["mask_path"] = "masks/0002.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="no mask .*masks/0002.png"):
        open_scene(tmp_path)


def test_a_far_world_gives_the_pictures_and_cameras_of_a_near_one(tmp_path):
    views, cameras = procedural_views()
    write_transforms(tmp_path / "near", views, cameras)
    write_transforms(tmp_path / "far", views, cameras)
    content = json.loads((tmp_path / "far" / "transforms.json").read_text())
    for frame in content["frames"]:
        for row, offset in enumerate((448251.3, 5411932.7, 35.2)):
            frame["transform_matrix"][row][3] += offset
    (tmp_path / "far" / "transforms.json").write_text(json.dumps(content))
    near, far = open_scene(tmp_path / "near"), open_scene(tmp_path / "far")
    assert not near.origin.any() and far.origin.any()
    images, found = far.load(96)
    assert torch.equal(images, near.load(96)[0])
    between = found.centers[1:] - found.centers[:1]
    torch.testing.assert_close(between, cameras.centers[1:] - cameras.centers[:1], atol=1e-5, rtol=1e-5)
    again = far.moved(torch.tensor([448251.3, 5411932.7, 35.2], dtype=torch.float64))
    torch.testing.assert_close(again.viewmats, near.viewmats, atol=1e-5, rtol=1e-5)


def test_photographs_of_an_inconsistent_shape_are_refused(tmp_path):
    write_transforms(tmp_path, *procedural_views())
    with Image.open(tmp_path / "images" / "0001.png") as image:
        image.resize((96, 96)).save(tmp_path / "images" / "0001.png")
    with pytest.raises(InputError, match="96x96 pixels, but its camera is for 96x64"):
        open_scene(tmp_path)


def test_what_holds_no_cameras_is_refused_by_name(tmp_path):
    for name, content in (("notes.txt", "hello"), ("photo.jpg", "x"), ("cameras.json", "{}")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=name):
            open_cameras(tmp_path / name)
    with pytest.raises(InputError, match="there is no"):
        open_cameras(tmp_path / "missing.json")
