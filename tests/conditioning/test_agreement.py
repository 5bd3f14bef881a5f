"""References that are made to agree before anything is warped."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes import boards_before_a_wall
from cus.cameras import Cameras
from cus.conditioning import agree, fused_warp
from cus.estimators import SceneEstimate
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths


def textured_wall(width: int = 96, height: int = 64, waves: float = 24) -> SceneEstimate:
    """Two views of a slanted wall of many waves, with exact depths."""
    cameras = Cameras.cat(
        [pinhole((x, 0.0, 0.0), focal=100 * width / 96, width=width, height=height) for x in (-0.4, 0.4)]
    )
    depths = plane_depths(cameras, (0.2, 0.1, 1.0), 4.0)
    generator = torch.Generator().manual_seed(0)
    frequencies = waves * (torch.rand((2, 16), generator=generator) - 0.5)
    tints = torch.rand((16, 3), generator=generator) - 0.5
    points = cameras.backproject(depths)[..., :2]
    phases = 6.3 * torch.rand(16, generator=generator)
    images = 0.5 + 0.12 * torch.sin(points @ frequencies + phases) @ tints
    return estimate(images.permute(0, 3, 1, 2).clamp(0, 1).contiguous(), cameras, depths)


def disturbed(depths: Tensor, share: float) -> Tensor:
    """Depths times a smooth random factor of about 1 +- share."""
    noise = torch.randn((len(depths), 1, 5, 6), generator=torch.Generator().manual_seed(1))
    return depths * (1 + share * F.interpolate(noise, depths.shape[1:], mode="bicubic")[:, 0])


def relative_error(depths: Tensor, exact: Tensor) -> float:
    return float((depths / exact - 1).abs()[:, 6:-6, 16:-16].mean())


def test_depths_that_are_a_little_wrong_become_right():
    exact = textured_wall()
    wrong = disturbed(exact.depths, 0.015)
    scene = estimate(exact.images, exact.cameras, wrong)
    refined = agree(scene)
    assert relative_error(refined.depths, exact.depths) < 0.4 * relative_error(wrong, exact.depths)


def test_right_depths_stay():
    exact = textured_wall()
    assert relative_error(agree(exact).depths, exact.depths) < 1e-3


def test_what_has_no_depth_has_none_afterwards():
    exact = textured_wall()
    depths = exact.depths.clone()
    depths[:, 20:30, 30:50] = 0
    refined = agree(estimate(exact.images, exact.cameras, depths))
    assert torch.equal(refined.depths > 0, depths > 0)
    assert torch.isfinite(refined.depths).all()


def test_gains_bring_the_references_to_one_exposure():
    exact = textured_wall()
    darker = exact.images * torch.tensor([[1.0, 1.0, 1.0], [0.7, 0.8, 0.9]])[:, :, None, None]
    gains = agree(estimate(darker, exact.cameras, exact.depths)).gains
    assert gains is not None
    torch.testing.assert_close(gains[1] / gains[0], 1 / torch.tensor([0.7, 0.8, 0.9]), rtol=0.02, atol=0)
    torch.testing.assert_close(gains.log().sum(dim=0), torch.zeros(3), rtol=0, atol=1e-4)


def test_one_reference_alone_stays_as_it_is():
    exact = textured_wall()
    alone = estimate(exact.images[:1], exact.cameras[0], exact.depths[:1])
    assert agree(alone) is alone


def test_larger_photographs_may_be_used():
    exact = textured_wall()
    wrong = estimate(exact.images, exact.cameras, disturbed(exact.depths, 0.015))
    photographs = [F.interpolate(image[None], scale_factor=2, mode="bicubic")[0].clamp(0, 1) for image in exact.images]
    refined = agree(wrong, photographs)
    assert relative_error(refined.depths, exact.depths) < 0.4 * relative_error(wrong.depths, exact.depths)


def test_kernels_and_tensor_operations_agree_alike():
    scene = boards_before_a_wall(3, 64, 40)
    compiled, plain = (agree(scene, backend=backend) for backend in ("cpu", "torch"))
    assert ((compiled.depths / plain.depths - 1).abs() > 1e-3).float().mean() < 0.01
    assert compiled.gains is not None and plain.gains is not None
    torch.testing.assert_close(compiled.gains, plain.gains, rtol=1e-3, atol=0)


def test_the_warp_makes_them_agree_unless_they_do():
    exact = textured_wall()
    wrong = estimate(exact.images, exact.cameras, disturbed(exact.depths, 0.015))
    target = pinhole(focal=200, width=64, height=48)
    itself, given = fused_warp(wrong, target), fused_warp(agree(wrong), target, agreed=True)
    assert torch.equal(itself.images, given.images)
    assert not torch.equal(itself.images, fused_warp(wrong, target, agreed=True).images)


def four_times_larger() -> tuple[SceneEstimate, list[Tensor], SceneEstimate]:
    """A scene with depths that are a little wrong, its photographs at four times its size, and the exact one there."""
    exact = textured_wall(384, 256, waves=96)
    cameras = exact.cameras.resized(96, 64)
    right = plane_depths(cameras, (0.2, 0.1, 1.0), 4.0)
    images = F.interpolate(exact.images, scale_factor=0.25, mode="area")
    return estimate(images, cameras, disturbed(right, 0.015)), list(exact.images), exact


def test_photographs_of_four_times_the_size_double_that_of_the_depths():
    wrong, photographs, exact = four_times_larger()
    found = agree(wrong, photographs)
    assert found.depths.shape == found.images.shape[:1] + found.images.shape[2:] == (2, 128, 192)
    right = plane_depths(found.cameras, (0.2, 0.1, 1.0), 4.0)
    before = relative_error(wrong.depths, plane_depths(wrong.cameras, (0.2, 0.1, 1.0), 4.0))
    assert relative_error(found.depths, right) < 0.4 * before
    expected = F.interpolate(exact.images, scale_factor=0.5, mode="area")
    torch.testing.assert_close(found.images, expected, rtol=0, atol=0.05)
    kept = agree(wrong, photographs, enlarge=False)
    assert kept.depths.shape == wrong.depths.shape


def test_what_has_no_depth_has_none_at_twice_the_size():
    wrong, photographs, _ = four_times_larger()
    depths = wrong.depths.clone()
    depths[:, 20:30, 30:50] = 0
    found = agree(estimate(wrong.images, wrong.cameras, depths), photographs)
    assert torch.equal(found.depths > 0, F.interpolate((depths > 0).float()[None], scale_factor=2)[0] > 0)
    assert torch.equal(found.confidences > 0, found.depths > 0)
    torch.testing.assert_close(found.depths[:, 50, 80], torch.zeros(2))


def test_a_close_up_through_depths_of_twice_the_size_is_as_close_to_the_truth():
    wrong, photographs, exact = four_times_larger()
    target = exact.cameras[0].resized(384, 256)
    errors = []
    for scene in (agree(wrong, photographs, enlarge=False), agree(wrong, photographs)):
        shown = fused_warp(scene, target, photographs, agreed=True)
        errors.append(
            float(((shown.images - exact.images[:1]).abs() * shown.masks[:, None])[..., 16:-16, 32:-32].mean())
        )
    assert errors[1] < 0.02
    assert errors[1] <= 1.05 * errors[0]
