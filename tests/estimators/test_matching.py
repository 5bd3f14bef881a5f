"""Which pairs are matched, and that the quick ways of doing so give what the slow ones do."""

from itertools import combinations

import numpy as np
import torch

from cus.estimators.matches import candidate_pairs
from cus.estimators.sfm import MATCH_MAX_DISTANCE, MATCH_RATIO, Features, Intrinsics, Observations, match_features
from cus.estimators.structure import MIN_ANGLE, Structure, _widest_angle, triangulate
from tests.estimators.test_poses import CAMERA, random_structure


def features(descriptors: torch.Tensor) -> Features:
    count = len(descriptors)
    unit = torch.nn.functional.normalize(descriptors, dim=1)
    return Features(np.zeros((count, 2)), unit, np.linspace(9.0, 1.0, count))


def along_a_street(views: int) -> list[Features]:
    """Each view shares a third of its features with the next one."""
    places = torch.randn(20 * (views + 2), 128, generator=torch.Generator().manual_seed(0))
    return [features(places[20 * view : 20 * view + 60]) for view in range(views)]


def test_matches_are_those_of_the_whole_matrix_of_similarities():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(300, 128, generator=generator)
    noisy = shared[torch.randperm(300, generator=generator)] + 0.5 * torch.randn(300, 128, generator=generator)
    a, b = features(torch.cat([shared, torch.randn(250, 128, generator=generator)])), features(noisy)
    similarity = a.descriptors @ b.descriptors.T
    best, index = similarity.topk(2, dim=1)
    distance = (2 - 2 * best).clamp(min=0).sqrt()
    mutual = similarity.argmax(dim=0)[index[:, 0]] == torch.arange(len(a.pixels))
    keep = mutual & (distance[:, 0] < MATCH_RATIO * distance[:, 1]) & (distance[:, 0] < MATCH_MAX_DISTANCE)
    expected = torch.stack([keep.nonzero()[:, 0], index[keep, 0]], dim=1).numpy()
    assert len(expected) > 100
    np.testing.assert_array_equal(match_features(a, b), expected)


def test_of_few_views_all_pairs_are_matched():
    assert candidate_pairs(along_a_street(8)) == list(combinations(range(8), 2))


def test_of_many_views_each_is_matched_with_a_bounded_number_that_overlap():
    for views in (12, 24):
        pairs = candidate_pairs(along_a_street(views))
        assert {(a, a + 1) for a in range(views - 1)} <= set(pairs)
        assert len(pairs) <= 7 * views


def test_views_that_look_alike_are_matched_however_far_apart_in_the_order():
    street = along_a_street(12)
    street[11] = street[0]
    assert (0, 11) in candidate_pairs(street)


def test_the_widest_angle_of_a_track_is_that_of_its_worst_pair_of_rays():
    viewmats, points, seen = random_structure(views=4)
    centers = np.stack([-pose[:3, :3].T @ pose[:3, 3] for pose in viewmats.values()])
    good = np.random.default_rng(2).random(len(seen)) < 0.8
    found = _widest_angle(centers, points, seen, good, len(points))
    for track in range(0, len(points), 20):
        rays = points[track] - centers[seen.view[good & (seen.track == track)]]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        expected = max((np.degrees(np.arccos(np.clip(a @ b, -1, 1))) for a, b in combinations(rays, 2)), default=0.0)
        assert abs(found[track] - expected) < 1e-4


def structure(views: int) -> Structure:
    viewmats, points, seen = random_structure(views=views)
    cameras: list[Intrinsics] = [CAMERA] * views
    _, good = triangulate(viewmats, cameras, seen, 1.0)
    return Structure(np.stack(list(viewmats.values())), cameras, points, seen[good], tuple(range(views)))


def test_each_view_has_at_most_as_many_sources_as_asked_for():
    whole = structure(6)
    for view in range(6):
        sources = whole.sources_for(view, 4)
        assert len(sources) == 4 and view not in sources


def test_a_view_without_common_points_is_no_source():
    whole = structure(4)
    seen = whole.observations[whole.observations.view != 2]
    lonely = Structure(whole.viewmats, whole.cameras, whole.points, seen, whole.used)
    assert all(2 not in lonely.sources_for(view, 4) for view in (0, 1, 3))
    assert lonely.sources_for(2, 2)


def test_a_subset_keeps_poses_points_and_observations_of_its_views():
    whole = structure(4)
    part = whole.subset([1, 3])
    assert part.used == (1, 3)
    np.testing.assert_array_equal(part.viewmats, whole.viewmats[[1, 3]])
    for place, view in enumerate((1, 3)):
        np.testing.assert_array_equal(part.depths_seen_by(place), whole.depths_seen_by(view))


def test_points_seen_under_a_tiny_angle_are_none():
    viewmats, _, seen = random_structure(views=2)
    closer = {0: viewmats[0], 1: viewmats[0].copy()}
    closer[1][0, 3] = -4 * np.radians(MIN_ANGLE / 4)
    tracks = Observations(seen.track, seen.view, np.concatenate([seen.pixels[:200], seen.pixels[:200] - [2.0, 0.0]]))
    assert not triangulate(closer, [CAMERA] * 2, tracks, 3.0)[1].any()
