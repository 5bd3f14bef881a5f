"""Rough geometry against a rendered scene's exact depth."""

import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from cus.cameras import Cameras, load_transforms, save_transforms
from cus.errors import InputError
from cus.evaluation.geometry import rough_geometry, triangulate
from cus.evaluation.protocol import Rules, choose_cases
from procedural.tracer import random_scene, render, sample_reference_cameras


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """(posed photographs, exact depths [3, H, W]) of a procedural scene."""
    folder = tmp_path_factory.mktemp("scene")
    scene = random_scene(3)
    cameras = sample_reference_cameras(scene, 3, 320, 208, views=3)
    images, depths = render(scene, cameras)
    names = []
    for index, image in enumerate(images):
        names.append(f"{index}.png")
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(folder / names[-1])
    save_transforms(folder / "transforms.json", cameras, names)
    return load_transforms(folder), depths


def test_grid_depths_are_those_of_the_scene(rendered):
    posed, depths = rendered
    geometry = rough_geometry(posed)
    assert geometry.known.all()
    exact = torch.nn.functional.interpolate(depths[:, None], geometry.depths.shape[1:], mode="area")[:, 0]
    ratios = geometry.depths / exact
    assert 0.95 < float(ratios[exact > 0].median()) < 1.05


def test_a_photograph_sees_its_own_points(rendered):
    posed, _ = rendered
    geometry = rough_geometry(posed.select([0, 1]))
    for view in range(2):
        assert geometry.sees(view, geometry.points(view)).all()
        assert geometry.sees(view, geometry.points(view, (0.25, 0.25, 0.5, 0.5))).all()


def test_matched_rays_meet_at_the_point_and_wrong_matches_are_dropped(rendered):
    posed, _ = rendered
    a, b = (Cameras(posed.viewmats[i : i + 1], posed.Ks[i : i + 1], *posed.sizes[i]) for i in (0, 1))
    depth = torch.full((1, a.height, a.width), 3.0)
    points = a.backproject(depth)[0, 40:170:30, 40:280:40].reshape(-1, 3)
    pixels_a, pixels_b = a.project(points)[0][0], b.project(points)[0][0]
    torch.testing.assert_close(triangulate(a, b, pixels_a, pixels_b).float(), points, atol=1e-2, rtol=1e-3)
    assert len(triangulate(a, b, pixels_a, pixels_b + torch.tensor([0.0, 40.0]))) < 0.2 * len(points)


def test_long_scenes_are_thinned_to_the_photographs_asked_for(rendered, tmp_path):
    """Of five photographs, two of them doubled, three take part: the first, the middle and the last."""
    posed, _ = rendered
    longer = posed.select([0, 0, 1, 1, 2])
    copies = tuple(tmp_path / f"{index}.png" for index in range(5))
    for copy, path in zip(copies, longer.paths, strict=True):
        shutil.copy(path, copy)
    rules = Rules(easy=(0.5, 28.0), pair_overlap=0.3, overlap=0.3, aside=5.0, between=(-2.0, 3.0), photographs=3)
    cases = choose_cases(replace(longer, paths=copies), rules, "regular")
    assert {name for case in cases for name in (*case.references, case.target)} == {"0.png", "2.png", "4.png"}


def test_cameras_of_other_photographs_are_refused(rendered):
    posed, _ = rendered
    viewmats = posed.viewmats.clone()
    viewmats[:, :3, 3] = torch.tensor([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    with pytest.raises(InputError, match="are the cameras those of these photographs"):
        rough_geometry(replace(posed, viewmats=viewmats))
