import torch

from cus.conditioning import depth_edges, divide_reliability
from cus.conditioning.reliability import confident
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, random_scene, render_depths


def brute_force_edges(depths: torch.Tensor, threshold: float) -> torch.Tensor:
    edges = torch.zeros_like(depths, dtype=torch.bool)
    height, width = depths.shape
    for i in range(height):
        for j in range(width):
            for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= a < height and 0 <= b < width and depths[i, j] > 0 and depths[a, b] > 0:
                    jump = (depths[i, j] - depths[a, b]).abs() / torch.minimum(depths[i, j], depths[a, b])
                    edges[i, j] |= jump > threshold
    return edges


def test_edges_agree_with_a_loop_over_pixels_and_neighbours():
    depths = random_scene(1).depths
    edges = depth_edges(depths, 0.06)
    assert 0 < edges.float().mean() < 1
    for view in range(2):
        assert torch.equal(edges[view], brute_force_edges(depths[view], 0.06))


def test_edges_do_not_depend_on_the_unit_of_length():
    depths = random_scene(2).depths
    assert torch.equal(depth_edges(depths), depth_edges(depths * 1024))


def test_a_leaning_plane_has_no_edges_and_a_step_has_both_its_sides():
    cameras = pinhole(width=40, height=30)
    assert not depth_edges(plane_depths(cameras, (0.3, 0.1, 1.0))).any()
    step = torch.full((1, 6, 8), 4.0)
    step[..., 4:] = 2.0
    assert depth_edges(step)[0].nonzero()[:, 1].unique().tolist() == [3, 4]


def test_missing_depth_makes_no_edge():
    depths = torch.full((1, 6, 8), 4.0)
    depths[0, 2, 3] = 0
    assert not depth_edges(depths).any()


def test_the_division_is_a_partition_of_the_pixels_with_depth():
    scene = random_scene(3)
    reliable, unreliable = divide_reliability(scene)
    assert not (reliable & unreliable).any()
    assert torch.equal(reliable | unreliable, scene.depths > 0)


def test_the_least_confident_tenth_of_each_view_is_unreliable():
    cameras = pinhole(width=20, height=10)
    depths = plane_depths(cameras)
    confidences = torch.rand((1, 10, 20), generator=torch.Generator().manual_seed(0))
    _, unreliable = divide_reliability(estimate(render_depths(cameras, depths), cameras, depths, confidences))
    assert abs(int(unreliable.sum()) - 20) <= 2
    assert confidences[unreliable].max() < confidences[~unreliable].min()


def test_equal_confidences_leave_everything_but_the_edges_reliable():
    cameras = pinhole(width=20, height=10)
    depths = plane_depths(cameras)
    depths[..., :8] = 1.0
    reliable, _ = divide_reliability(estimate(render_depths(cameras, depths), cameras, depths))
    assert (~reliable).nonzero()[:, 2].unique().tolist() == [7, 8]


def test_the_confident_are_half_of_each_view_and_all_of_equals():
    scene = random_scene(4)
    chosen = confident(scene.depths, scene.confidences)
    for view in range(2):
        known = scene.depths[view] > 0
        assert abs(float(chosen[view][known].float().mean()) - 0.5) < 0.02
        assert scene.confidences[view][chosen[view]].min() > scene.confidences[view][known & ~chosen[view]].max()
    assert torch.equal(confident(scene.depths, torch.full_like(scene.depths, 0.3)), scene.depths > 0)
    assert not confident(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)).any()
