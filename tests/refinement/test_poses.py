"""Virtual cameras stand in front of photographs and see the point that they were made for."""

import math
from dataclasses import replace

import pytest
import torch

from cus.cameras import Cameras
from cus.errors import InputError
from cus.refinement.poses import PoseOptions, VirtualPose, VirtualPoses, by_angle, seeing
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, render_depths

CAMERAS = Cameras.cat([pinhole((-0.3, 0.0, 0.0)), pinhole((0.3, 0.05, 0.0), yaw=-0.1)])
DEPTHS = plane_depths(CAMERAS)
SCENE = estimate(render_depths(CAMERAS, DEPTHS), CAMERAS, DEPTHS)


def drawn(options: PoseOptions, seed: int = 0, count: int = 40) -> list[VirtualPose]:
    poses, generator = VirtualPoses(SCENE, 32, 24, options), torch.Generator().manual_seed(seed)
    return [poses.draw(generator) for _ in range(count)]


def test_a_virtual_camera_is_nearer_to_its_point_by_a_factor_within_the_limits():
    factors = []
    for pose in drawn(PoseOptions(closer=(2, 8))):
        # The plane is at z = 4 and both cameras at z = 0: on the way to it the height above it shrinks by the factor.
        factors.append(4 / (4 - float(pose.camera.centers[0, 2])))
    assert 2 - 1e-3 <= min(factors) < 2.5 and 6.5 < max(factors) <= 8 + 1e-2


def test_a_virtual_camera_stands_on_the_way_from_between_the_photographs():
    for pose in drawn(PoseOptions(closer=(2, 8))):
        center = pose.camera.centers[0]
        back = (4 / (4 - center[2])) * (center - pose.point) + pose.point
        share = (back - CAMERAS.centers[0]) @ (CAMERAS.centers[1] - CAMERAS.centers[0]) / 0.3625
        assert -1e-3 <= float(share) <= 1 + 1e-3
        torch.testing.assert_close(back[1], 0.05 * share, rtol=0, atol=2e-3)


def test_the_point_is_in_the_picture_and_not_always_in_its_middle():
    places = []
    for pose in drawn(PoseOptions()):
        assert seeing(pose.camera, pose.point) == [0]
        places.append(pose.camera.project(pose.point[None])[0][0, 0])
    spread = torch.stack(places).std(dim=0)
    assert spread[0] > 32 / 5 and spread[1] > 24 / 5


def test_a_camera_looks_past_its_point_by_no_more_than_asked():
    angles = []
    for pose in drawn(PoseOptions(turned=5.0)):
        ray = torch.nn.functional.normalize(pose.point - pose.camera.centers[0], dim=0)
        axis = pose.camera.c2w[0, :3, 2]
        angles.append(math.degrees(math.acos(min(1.0, float(ray @ axis)))))
    assert 4.5 < max(angles) <= 5.1


def test_the_same_seed_draws_the_same_cameras_and_another_seed_others():
    first, again, other = (drawn(PoseOptions(), seed, 3) for seed in (1, 1, 2))
    assert all(torch.equal(a.camera.viewmats, b.camera.viewmats) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.camera.viewmats, b.camera.viewmats) for a, b in zip(first, other, strict=True))


def test_a_scene_without_depths_is_refused():
    with pytest.raises(InputError, match="no photograph has a reliable one"):
        VirtualPoses(replace(SCENE, depths=torch.zeros_like(DEPTHS)), 32, 24, PoseOptions())


def test_cameras_are_ordered_by_the_angle_of_their_rays():
    row = Cameras.cat([pinhole((x, 0.0, 0.0)) for x in (1.0, 0.0, 0.4)])
    point, center = torch.tensor([0.0, 0.0, 4.0]), torch.tensor([0.1, 0.0, 3.0])
    assert by_angle(row, [0, 1, 2], point, center) == [2, 1, 0]
    assert by_angle(row, [], point, center) == []
