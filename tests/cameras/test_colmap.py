"""COLMAP models: cameras come back, tracks reproject, and visibility is that of the points."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cus.cameras import Cameras
from cus.cameras.colmap import load_colmap, save_colmap, visible_points
from cus.cameras.lenses import Lens, filling_K, undistort
from cus.errors import InputError
from tests.cameras.test_cameras import random_cameras

pycolmap = pytest.importorskip("pycolmap")


def batches() -> list[Cameras]:
    """Five cameras of three image sizes, with centres off the middle, on a path before the plane z = 4."""
    found = []
    for start, count, (width, height) in ((0, 2, (320, 200)), (2, 2, (4032, 3024)), (4, 1, (77, 131))):
        viewmats = torch.eye(4).repeat(count, 1, 1)
        viewmats[:, 0, 3] = -0.1 * torch.arange(start, start + count)
        Ks = torch.tensor([[1.1 * width, 0, 0.51 * width], [0, 1.1001 * width, 0.48 * height], [0, 0, 1]])
        found.append(Cameras(viewmats, Ks.repeat(count, 1, 1), width, height))
    return found


def plane(z: float, count: int = 900, half: float = 1.5) -> torch.Tensor:
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 2 * half - half
    points[:, 2] = z
    return points


def test_cameras_of_different_sizes_come_back(tmp_path: Path) -> None:
    cameras = [*batches(), random_cameras(3, width=40, height=30)]
    names = [f"{i}.png" for i in range(8)]
    save_colmap(tmp_path / "sparse", cameras, names)
    posed = load_colmap(tmp_path / "sparse", tmp_path)
    assert [path.name for path in posed.paths] == names
    assert posed.sizes == ((320, 200),) * 2 + ((4032, 3024),) * 2 + ((77, 131),) + ((40, 30),) * 3
    expected = torch.cat([c.Ks for c in cameras])
    assert (posed.Ks - expected).abs().max() <= 1e-5
    assert (posed.viewmats - torch.cat([c.viewmats for c in cameras])).abs().max() <= 1e-6
    assert posed.distortion.abs().max() == 0


def test_observations_lie_where_pycolmap_and_the_cameras_project_the_points(tmp_path: Path) -> None:
    cameras, points = batches(), plane(4.0)
    seen = visible_points(cameras, points)
    colors = torch.rand(900, 3)
    save_colmap(tmp_path, cameras, [f"{i}.png" for i in range(5)], points, colors, seen)
    model = pycolmap.Reconstruction(str(tmp_path))
    assert model.num_points3D() == 900 and model.compute_num_observations() == sum(len(s) for s in seen)
    assert model.compute_mean_reprojection_error() < 1e-3
    singles = [batch[i] for batch in cameras for i in range(len(batch))]
    for index, camera in enumerate(singles, start=1):
        image = model.images[index]
        ids = [p.point3D_id for p in image.get_observation_points2D()]
        stored = np.array([p.xy for p in image.get_observation_points2D()])
        xyz = torch.tensor(np.array([model.points3D[i].xyz for i in ids]), dtype=torch.float32)
        ours = camera.project(xyz)[0][0].numpy()
        theirs = np.array([image.project_point(point) for point in xyz.double().numpy()])
        assert np.abs(stored - ours).max() < 0.01 and np.abs(theirs - ours).max() < 0.01
    stored_colors = np.array([model.points3D[i].color for i in sorted(model.points3D)]) / 255
    assert np.abs(stored_colors - colors.numpy()).max() <= 0.5 / 255 + 1e-6


def test_a_wall_hides_what_is_behind_it_and_every_point_before_a_camera_is_seen_by_some() -> None:
    wall, behind = plane(2.0, 2500, half=0.5), plane(6.0, 400, half=0.5)
    seen = visible_points(batches()[:1], torch.cat([wall, behind]), most_views=2)
    hidden = [(s >= 2500).sum().item() for s in seen]
    assert sum(hidden) <= 400, "a hidden point goes to one camera, that its track is not empty"
    both = torch.cat(seen)
    counts = torch.bincount(both, minlength=2900)
    assert counts[:2500].float().mean() > 1.9 and counts[2500:].max() <= 1


def test_observations_are_limited_and_spread_over_the_cameras() -> None:
    cameras = batches()
    points = plane(8.0, 1000, half=1.0)
    seen = visible_points(cameras, points, most_views=2)
    counts = torch.bincount(torch.cat(seen), minlength=1000)
    assert counts.max() == 2 and counts.min() >= 1
    assert min(len(s) for s in seen) > 0.5 * max(len(s) for s in seen)


def test_points_that_no_camera_sees_have_empty_tracks(tmp_path: Path) -> None:
    points = torch.tensor([[0.0, 0, -5], [0, 0, 4]])
    seen = visible_points(batches(), points)
    assert all(0 not in s for s in seen)
    save_colmap(tmp_path, batches(), [f"{i}.png" for i in range(5)], points, None, seen)
    model = pycolmap.Reconstruction(str(tmp_path))
    assert sorted(p.track.length() for p in model.points3D.values()) == [0, 3]


FULL_DISK = """
import resource, signal, sys, torch
from cus.cameras import Cameras
from cus.cameras.colmap import save_colmap
from cus.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
camera = Cameras(torch.eye(4)[None], torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]]), 64, 48)
try:
    save_colmap(sys.argv[1], camera, ["a.png"], torch.rand(5000, 3) + 1, None, [torch.arange(5000)])
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the file size limit that stands for a full disk is POSIX")
def test_a_model_that_a_full_disk_cut_is_refused(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "m")], capture_output=True, text=True)
    assert "is not whole (images.bin, points3D.bin); is the disk full?" in result.stdout, result.stderr


def test_a_cut_model_is_no_model(tmp_path: Path) -> None:
    save_colmap(tmp_path / "a", batches(), [f"{i}.png" for i in range(5)], plane(4.0), None, None)
    for name in ("cameras.bin", "images.bin"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
        (tmp_path / name / name).write_bytes((tmp_path / "a" / name).read_bytes()[:50])
        with pytest.raises(InputError, match="no COLMAP model"):
            load_colmap(tmp_path / name, tmp_path)


@pytest.mark.parametrize("k1", [-0.15, 0.12])
def test_a_straightened_picture_can_be_full_to_its_border(k1: float) -> None:
    K = np.array([[300.0, 0, 160.5], [0, 310.0, 119.0], [0, 0, 1]])
    lens = np.array([k1, 0.02, 0.002, -0.001, 0, 0, 0, 0])
    new_K = filling_K(K, Lens.from_opencv(lens), 320, 240)
    assert new_K[0, 0] >= K[0, 0] and np.allclose(new_K[:, 2], K[:, 2])
    # A dot at the bent projection of a ray moves to the ray's projection by the new intrinsics.
    K_cv = K.copy()
    K_cv[:2, 2] -= 0.5
    ray = np.array([[[0.2, -0.12, 1.0]]])
    u, v = cv2.projectPoints(ray, np.zeros(3), np.zeros(3), K_cv, lens)[0].reshape(2)
    ys, xs = np.mgrid[:240, :320]
    dot = (255 * np.exp(-((xs - u) ** 2 + (ys - v) ** 2) / 8)).astype(np.uint8)
    straight, mask = undistort(np.repeat(dot[..., None], 3, axis=2), K, Lens.from_opencv(lens), new_K)
    assert mask is not None and mask.all(), "no pixel without a source"
    weights = straight[..., 0].astype(float)
    centre = np.array([(weights * (xs + 0.5)).sum(), (weights * (ys + 0.5)).sum()]) / weights.sum()
    assert np.abs(centre - (new_K @ ray[0, 0])[:2]).max() < 0.1


def test_a_straight_lens_needs_no_other_intrinsics_and_an_impossible_one_is_refused() -> None:
    K = np.array([[300.0, 0, 160.5], [0, 310.0, 119.0], [0, 0, 1]])
    assert np.array_equal(filling_K(K, Lens(), 320, 240), K)
    with pytest.raises(InputError, match="cannot be removed"):
        filling_K(K, Lens.from_opencv([400.0]), 320, 240)
