"""Parts of the clip builder: segments, frames, windows, and the filters on scenes whose answer is known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cus.cameras import Cameras, save_transforms
from cus.conditioning import Conditioning
from cus.datasets.scene_clips.framing import framed_cameras, in_order, read_crops, read_framed, segments_of
from cus.datasets.scene_clips.make import draw_path
from cus.datasets.scene_clips.recipe import Filters, SceneRecipe
from cus.datasets.scene_clips.truth import Rendered, held_out_of
from cus.datasets.scene_clips.verdicts import (
    Verdict,
    conditioning_verdicts,
    inside_geometry,
    sharpness,
    truth_verdicts,
)
from cus.datasets.scenes import open_scene
from cus.errors import InputError
from tests.datasets.layouts import procedural_views, write_pictures, write_transforms


@pytest.fixture(scope="module")
def posed(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("scene")
    write_transforms(folder, *procedural_views(3, 240, 160))
    return open_scene(folder)


def straight_cameras(count: int, step: float = 0.1) -> Cameras:
    """Side by side, all looking along z."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = -step * torch.arange(count)
    K = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    return Cameras(viewmats, K.repeat(count, 1, 1), 64, 48)


@pytest.mark.parametrize("photographs, length, most", [(300, 27, 1000), (9, 5, 10), (5, 5, 3), (4, 7, 3), (28, 27, 4)])
def test_segments_share_their_ends_and_lie_within_the_scene(photographs, length, most):
    segments = segments_of(photographs, length, most)
    assert all(len(segment) == min(length, photographs) for segment in segments)
    assert segments[0][0] == 0 and segments[-1][-1] < photographs
    assert all(a[-1] == b[0] for a, b in pairwise(segments))


def test_of_many_segments_the_number_asked_for_is_spread_over_the_scene():
    segments = segments_of(300, 11, 3)
    assert [segment[0] for segment in segments] == [0, 140, 280]


@pytest.mark.parametrize("photographs", [3, 4, 7, 16, 50])
@pytest.mark.parametrize("one_in", [3, 5, 16])
def test_held_out_photographs_are_spread_and_never_at_the_ends(photographs, one_in):
    chosen = held_out_of(photographs, one_in)
    assert len(chosen) == max(1, photographs // one_in) == len(set(chosen))
    assert 0 not in chosen and photographs - 1 not in chosen


def test_numbers_in_names_count_by_value(tmp_path):
    images, cameras = procedural_views(3)
    names = ["frame_2.png", "frame_10.png", "frame_1.png"]
    write_pictures(tmp_path, images, names)
    save_transforms(tmp_path / "transforms.json", cameras, names)
    assert in_order(open_scene(tmp_path)).names == ["frame_1.png", "frame_2.png", "frame_10.png"]


def test_frames_are_the_middle_of_the_photographs_and_have_their_cameras(posed):
    framed = read_framed(posed, 120, 60)
    assert framed.images.shape == (3, 3, 60, 120) and framed.valid.all()
    halved = F.avg_pool2d(posed.load(240)[0], 2)
    torch.testing.assert_close(framed.images, halved[..., 10:70, :], atol=0.02, rtol=0)
    torch.testing.assert_close(framed.cameras.Ks, framed_cameras(posed, 120, 60).Ks, atol=0.05, rtol=0)
    # The ray through the middle of the frame is that through the middle of the photograph.
    whole = posed.load(240)[1]
    torch.testing.assert_close(framed.cameras.Ks[:, 1, 2] - 30, (whole.Ks[:, 1, 2] - 80) / 2)


def test_photographs_much_smaller_than_the_frames_are_refused(posed):
    with pytest.raises(InputError, match="240x160 pixels, too few for frames of 320x200: use larger"):
        read_framed(posed, 320, 200)


def test_windows_of_photographs_follow_a_point_and_keep_the_pixels(posed):
    pixels, cameras = posed.load(240)
    point = cameras[0].backproject(torch.full((1, 160, 240), 4.0))[0, 80, 120]
    crops = read_crops(posed, [0, 1, 2], 4.0, point, (60, 40))
    places, _ = crops.cameras.project(point[None])
    assert (places[:2, 0] - torch.tensor([30.0, 20.0])).abs().max() <= 1.0
    x, y = (int((cameras.Ks[0, axis, 2] - crops.cameras.Ks[0, axis, 2]).round()) for axis in (0, 1))
    torch.testing.assert_close(crops.images[0], pixels[0, :, y : y + 40, x : x + 60], atol=0.01, rtol=0)


def test_gradients_tell_a_blurred_truth_from_a_sharp_one():
    generator = torch.Generator().manual_seed(0)
    sharp = torch.rand(2, 3, 32, 40, generator=generator)
    known = torch.ones(2, 32, 40, dtype=torch.bool)
    blurred = F.avg_pool2d(F.pad(sharp, (2, 2, 2, 2), mode="replicate"), 5, 1)
    assert sharpness(sharp, sharp, known) == 1
    assert sharpness(blurred, sharp, known) < 0.5 < 2 < sharpness(sharp, blurred, known)
    assert sharpness(sharp, torch.full_like(sharp, 0.5), known) is None


def test_a_camera_behind_the_surface_of_all_references_is_inside():
    references = straight_cameras(2)
    wall = torch.full((2, 48, 64), 4.0)
    centers = torch.tensor([[0.0, 0, 2], [0, 0, 5], [0, 0, -1], [50.0, 0, 1]])
    assert [inside_geometry(center[None], wall, references) for center in centers] == [0, 1, 0, 0]
    # One reference that sees past the surface is enough.
    wall[1] = 9.0
    assert inside_geometry(centers[1:2], wall, references) == 0
    assert inside_geometry(centers, wall, references) == 0


def test_verdicts_of_a_wall_are_its_distance_its_opacity_and_its_agreement():
    path = straight_cameras(3)
    truth = Rendered(torch.rand(3, 3, 48, 64), torch.full((3, 48, 64), 0.9), torch.full((3, 48, 64), 2.0))
    seen = Rendered(truth.images[:2], truth.alphas[:2], truth.depths[:2])
    found = {v.name: v for v in truth_verdicts(truth, path, seen, straight_cameras(2), 4.0, Filters())}
    assert found["distance"].value == pytest.approx(0.5) and found["opacity"].value == pytest.approx(0.9)
    assert not found["opacity"].passed and found["distance"].passed and found["inside"].passed
    masks = torch.ones(3, 48, 64, dtype=torch.bool)
    masks[:, :12] = False
    noisy = (truth.images * 0.8 + 0.1).clamp(0, 1)
    shown = Conditioning(noisy, masks, truth.depths)
    found = {v.name: v for v in conditioning_verdicts(truth.images, truth.alphas > 0.5, shown, Filters())}
    assert found["coverage"].value == pytest.approx(0.75)
    assert found["sharpness"].value == pytest.approx(1 / 0.8, rel=1e-3)
    error = (noisy - truth.images)[:, :, 12:].square().mean()
    assert found["agreement"].value == pytest.approx(float(-10 * error.log10()), abs=1e-3)


def test_what_could_not_be_measured_passes_and_is_null_in_json():
    verdict = Verdict("sharpness", None, 0.8)
    assert verdict.passed and verdict.entry()["value"] is None
    assert Verdict("agreement", float("inf"), 1.0).entry()["value"] is None


def test_paths_zoom_by_the_recipe_or_walk_in_by_it():
    photographs, depth = straight_cameras(5), torch.full((48, 64), 4.0)
    zoom = SceneRecipe(frames=4, close_up_share=1.0, nearer_share=0.0, zoom=(4.0, 5.0))
    nearer = SceneRecipe(frames=4, close_up_share=1.0, nearer_share=1.0, nearer=(0.5, 0.6))
    regular = SceneRecipe(frames=4, close_up_share=0.0)
    for seed in range(5):
        path, kind, factor = draw_path(photographs, depth, 4.0, zoom, np.random.default_rng(seed))
        assert kind == "zoom" and 4 <= factor <= 5 and len(path) == 4
        torch.testing.assert_close(path.Ks[:, 0, 0], torch.full((4,), 50 * factor))
        path, kind, _ = draw_path(photographs, depth, 4.0, nearer, np.random.default_rng(seed))
        walked = float((path.centers[-1] - path.centers[0]).norm())
        assert kind == "nearer" and float(path.centers[-1, 2]) == pytest.approx(2.2, abs=0.21) and walked > 2
        path, kind, factor = draw_path(photographs, depth, 4.0, regular, np.random.default_rng(seed))
        assert kind == "regular" and factor <= 1.25
