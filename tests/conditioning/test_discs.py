"""Discs against their definition, and against PyTorch3D where it is installed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, discs, render_discs
from cus.errors import InputError
from tests.conditioning.plane_scenes import pinhole

BACKENDS = ("cpu", "torch")
SIZES = {"landscape": (21, 14), "portrait": (11, 19), "square": (16, 16)}


def random_cloud(count: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points in a box around (0, 0, 2), some of them behind the cameras of `askew`, with their colours."""
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.rand((count, 3), generator=generator) - torch.tensor([1.5, 1.5, 0.5])
    return points, torch.rand((count, 3), generator=generator)


def askew(width: int, height: int) -> Cameras:
    """Two cameras that are turned, with uneven focal lengths and principal points off the middle."""
    cameras = Cameras.cat(
        [pinhole((0.1, -0.2, 0.0), 15, width, height), pinhole((0, 0.3, 0.6), 25, width, height, 0.3)]
    )
    Ks = cameras.Ks.clone()
    Ks[:, 1, 1] *= 1.2
    Ks[:, 0, 2] += 1.7
    Ks[:, 1, 2] -= 0.9
    return Cameras(cameras.viewmats, Ks, width, height)


def defined_pixel(ndc: np.ndarray, z: np.ndarray, colors: np.ndarray, place: np.ndarray, radius: float, many: int):
    """Colour and nearest depth of one pixel: all points [N, 2] in PyTorch3D's coordinates are tried."""
    distance2 = ((ndc - place) ** 2).sum(1)
    reaching = np.flatnonzero((distance2 < radius**2) & (z > 0))
    nearest = sorted(reaching, key=lambda point: (z[point], point))[:many]
    color, transmittance = np.zeros(3), 1.0
    for point in nearest:
        weight = 1 - distance2[point] / radius**2
        color += transmittance * weight * colors[point]
        transmittance *= 1 - weight
    return color, z[nearest[0]] if nearest else 0.0


def defined_picture(points: Tensor, colors: Tensor, camera: Cameras, radius: float, many: int) -> tuple[Tensor, Tensor]:
    """Image [3, H, W] and depths [H, W], pixel by pixel, in float64.

    PyTorch3D's x points left and its y up; the shorter side of the picture spans [-1, 1].
    """
    viewmat, K = camera.viewmats[0].double().numpy(), camera.Ks[0].double().numpy()
    world, paint = points.double().numpy(), colors.double().numpy()
    width, height = camera.width, camera.height
    in_camera = world @ viewmat[:3, :3].T + viewmat[:3, 3]
    z = in_camera[:, 2]
    half = min(width, height) / 2
    ndc = -np.stack(
        [
            (K[0, 0] * in_camera[:, 0] / z + K[0, 2] - width / 2) / half,
            (K[1, 1] * in_camera[:, 1] / z + K[1, 2] - height / 2) / half,
        ],
        axis=1,
    )
    image, depths = np.zeros((3, height, width)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            place = -np.array([(column + 0.5 - width / 2) / half, (row + 0.5 - height / 2) / half])
            image[:, row, column], depths[row, column] = defined_pixel(ndc, z, paint, place, radius, many)
    return torch.from_numpy(image).float(), torch.from_numpy(depths).float()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("radius", "many"), [(0.1, 10), (0.35, 4), (0.35, 150)])
def test_discs_are_what_their_definition_says(backend: discs.Backend, size: str, radius: float, many: int):
    points, colors = random_cloud()
    targets = askew(*SIZES[size])
    result = render_discs(points, colors, targets, radius=radius, points_per_pixel=many, backend=backend)
    for index in range(len(targets)):
        image, depths = defined_picture(points, colors, targets[index], radius, many)
        assert torch.equal(result.masks[index], depths > 0)
        torch.testing.assert_close(result.depths[index], depths, rtol=1e-5, atol=0)
        torch.testing.assert_close(result.images[index], image, rtol=0, atol=2e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("radius", "many"), [(0.01, 10), (0.1, 10), (0.35, 4)])
def test_discs_are_those_of_pytorch3d(backend: discs.Backend, size: str, radius: float, many: int):
    pytest.importorskip("pytorch3d")
    from benchmarks.pytorch3d_points import composited_discs

    points, colors = random_cloud(3000)
    targets = askew(*(4 * side for side in SIZES[size]))
    images, depths = composited_discs(points, colors, targets, radius, many)
    result = render_discs(points, colors, targets, radius=radius, points_per_pixel=many, backend=backend)
    torch.testing.assert_close(result.depths, depths, rtol=1e-5, atol=0)
    # Rounding decides which of two equally near points is blended first, and whether the rim of a disc takes a place.
    differences = (result.images - images).abs().amax(1)
    assert float((differences > 1e-4).float().mean()) < 1e-3
    assert float(differences.max()) < 0.1


def both_forms(points: Tensor, colors: Tensor, targets: Cameras, **options) -> list[Conditioning]:
    return [render_discs(points, colors, targets, backend=backend, **options) for backend in BACKENDS]


@pytest.mark.parametrize("seed", range(5))
def test_kernels_and_tensor_operations_give_the_same_pictures(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(discs, "_CHUNK", 97)
    points, colors = random_cloud(seed=seed)
    points[::7] = points[3]  # many at one place
    kernels, plain = both_forms(points, colors, askew(40, 30), radius=0.02 + 0.07 * seed, points_per_pixel=1 + 3 * seed)
    assert torch.equal(kernels.masks, plain.masks)
    assert torch.equal(kernels.depths, plain.depths)
    torch.testing.assert_close(kernels.images, plain.images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lone_disc_fades_with_the_squared_distance_and_ends_at_its_radius(backend: discs.Backend):
    camera = pinhole(focal=10, width=12, height=8)
    at = torch.tensor([[0.5 / 10, 0.5 / 10, 1.0]])  # the centre of pixel (6, 4)
    result = render_discs(at, torch.ones((1, 3)), camera, radius=0.5, backend=backend)  # 2 pixels
    row = result.images[0, 0, 4]
    torch.testing.assert_close(row[4:9], torch.tensor([0.0, 0.75, 1.0, 0.75, 0.0]), rtol=0, atol=1e-5)
    assert int(result.masks.sum()) == 9
    assert float(result.images[0, 0, 3, 5]) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_depths_the_first_is_in_front_and_the_rest_shine_through(backend: discs.Backend):
    camera = pinhole(focal=10, width=12, height=8)
    points = torch.tensor([[0.15, 0.05, 1.0], [0.15, 0.05, 1.0], [0.3, 0.1, 2.0]])  # a pixel beside (6, 4)
    image = render_discs(points, torch.eye(3), camera, radius=0.5, backend=backend).images[0, :, 4, 6]
    torch.testing.assert_close(image, torch.tensor([0.75, 0.25 * 0.75, 0.25**2 * 0.75]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_so_many_of_the_nearest_discs_are_blended(backend: discs.Backend):
    camera = pinhole(focal=10, width=12, height=8)
    points = torch.tensor([[0.3, 0.1, 2.0], [0.15, 0.05, 1.0]])
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    one = render_discs(points, colors, camera, radius=0.5, points_per_pixel=1, backend=backend).images[0, :, 4, 6]
    torch.testing.assert_close(one, torch.tensor([0.0, 0.75, 0.0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_behind_the_camera_leave_no_trace(backend: discs.Backend):
    points, colors = random_cloud()
    camera = askew(20, 16)
    behind = torch.cat([-points[:100] - torch.tensor([0, 0, 5.0]), torch.full((1, 3), torch.nan)])
    with_them = render_discs(
        torch.cat([points, behind]), torch.cat([colors, colors[: len(behind)]]), camera, radius=0.2, backend=backend
    )
    without = render_discs(points, colors, camera, radius=0.2, backend=backend)
    assert torch.equal(with_them.images, without.images)


def test_the_radius_is_measured_by_the_shorter_side():
    point, color = torch.tensor([[0.0, 0.0, 1.0]]), torch.ones((1, 3))
    areas = [
        int(render_discs(point, color, pinhole(focal=9, width=w, height=h), radius=0.3).masks.sum())
        for w, h in ((40, 20), (20, 40), (20, 20), (40, 40))
    ]
    assert areas[0] == areas[1] == areas[2]
    assert areas[3] == pytest.approx(4 * areas[0], rel=0.25)


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress_is_told(backend: discs.Backend):
    points, colors = random_cloud()
    seen: list[tuple[int, int]] = []
    render_discs(
        points, colors, askew(20, 16), backend=backend, on_progress=lambda done, every: seen.append((done, every))
    )
    assert seen[-1] == (2, 2)


def test_what_cannot_be_rendered_is_refused_with_its_reason():
    points, colors = random_cloud()
    camera = askew(20, 16)
    with pytest.raises(InputError, match="empty"):
        render_discs(points[:0], colors[:0], camera)
    with pytest.raises(InputError, match="sees nothing"):
        render_discs(points - 100, colors, camera)
    with pytest.raises(InputError, match="float32"):
        render_discs(points.double(), colors.double(), camera, backend="cpu")
    with pytest.raises(ValueError, match=r"\[N, 3\]"):
        render_discs(points, colors[:-1], camera)
    for radius in (0.0, -0.1, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="radius"):
            render_discs(points, colors, camera, radius=radius)
    for many in (0, 151):
        with pytest.raises(ValueError, match="points_per_pixel"):
            render_discs(points, colors, camera, points_per_pixel=many)
    with pytest.raises(ValueError, match="backend"):
        render_discs(points, colors, camera, backend="cuda")  # type: ignore[arg-type]
