"""What each row shows of an exact scene: a textured wall that two cameras look at and a third comes closer to."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import fused_warp, hierarchical_warp, render_scene_points
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.evaluation.metrics import psnr
from cus.evaluation.rows import Frames, FusedWarp, PointRender, ReferencesSplat, Splat, Warp
from cus.evaluation.rows.conditioning import push_pull
from cus.evaluation.rows.nearest import nearest_reference
from cus.evaluation.work import CaseWork, Defaults, Models, References, nearest_index
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, render_depths
from tests.evaluation.small_scenes import one_thread

WIDTH, HEIGHT, FOCAL = 96, 64, 90.0
LEANING = (0.15, 0.1, 1.0)


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


def standing_at(x: float, zoom: float = 1.0) -> Cameras:
    return pinhole((x, 0.0, 0.0), FOCAL * zoom, WIDTH, HEIGHT)


def wall() -> SceneEstimate:
    """Two views of a leaning plane, coloured by place, with exact depths."""
    cameras = Cameras.cat([standing_at(-0.3), standing_at(0.5)])
    depths = plane_depths(cameras, LEANING)
    return estimate(render_depths(cameras, depths), cameras, depths)


def close_up() -> tuple[Cameras, Tensor]:
    """A camera between the two, at x4, and its true picture."""
    camera = standing_at(0.0, zoom=4.0)
    return camera, render_depths(camera, plane_depths(camera, LEANING))[0]


@pytest.fixture(scope="module")
def work() -> CaseWork:
    scene = wall()
    valid, defaults = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool), Defaults(frames=4, iterations=4)
    return CaseWork(References(scene, valid, Models(), defaults), close_up()[0])


def with_photographs(work: CaseWork, photographs: list[Tensor]) -> CaseWork:
    """The same case, whose references can be read larger."""
    given = work.references
    return CaseWork(
        References(given.scene, given.valid, given.models, given.defaults, lambda size: photographs), work.camera
    )


def test_the_nearest_camera_is_found():
    assert nearest_index(wall().cameras, standing_at(0.0)) == 0
    assert nearest_index(wall().cameras, standing_at(0.2)) == 1


def test_the_nearest_reference_is_the_truth_up_to_interpolation_and_beats_its_splats():
    scene, (camera, truth) = wall(), close_up()
    shown = nearest_reference(scene, camera)
    seen = shown.sum(dim=0) > 0
    assert seen.float().mean() > 0.9
    assert (shown - truth)[:, seen].abs().max() < 0.01
    alone = SceneEstimate(scene.images[:1], scene.cameras[:1], scene.depths[:1], scene.confidences[:1])
    warped = hierarchical_warp(alone, camera)
    both = seen & warped.masks[0]
    assert psnr(shown, truth, both) > psnr(warped.images[0], truth, both) + 10


def test_the_nearest_reference_is_black_where_it_says_nothing():
    scene = wall()
    shown = nearest_reference(scene, standing_at(-1.5))
    beyond = -(-1.5 + 0.3) / 4 * FOCAL  # columns that leave the nearer picture to the left, roughly
    assert (shown[:, :, : int(beyond) - 6] == 0).all() and (shown[:, :, int(beyond) + 12 :] > 0).all()


def test_a_reference_seen_from_its_own_place_is_itself():
    scene = wall()
    assert torch.allclose(nearest_reference(scene, scene.cameras[:1]), scene.images[0], atol=1e-3)


def test_push_pull_leaves_known_pixels_alone_and_stays_within_their_range():
    generator = torch.Generator().manual_seed(0)
    image = 0.2 + 0.5 * torch.rand((3, 40, 56), generator=generator)
    mask = torch.rand((40, 56), generator=generator) < 0.3
    mask[10:30, 15:40] = False
    filled = push_pull(torch.where(mask, image, 0.0), mask)
    assert torch.equal(filled[:, mask], image[:, mask])
    for channel, known in zip(filled, image, strict=True):
        assert known[mask].min() - 1e-5 <= channel.min() and channel.max() <= known[mask].max() + 1e-5


def test_push_pull_of_nothing_is_nothing_and_of_a_full_picture_is_itself():
    image = torch.rand((3, 12, 17), generator=torch.Generator().manual_seed(1))
    assert torch.equal(push_pull(torch.zeros(3, 12, 17), torch.zeros(12, 17, dtype=torch.bool)), torch.zeros(3, 12, 17))
    assert torch.equal(push_pull(image, torch.ones(12, 17, dtype=torch.bool)), image)


def test_high_resolution_alone_covers_less_than_low_and_low_no_more_than_all(work):
    high, low, every = (float(Warp(scales=scales).warped(work).masks.float().mean()) for scales in ([1], [4], None))
    assert high < 0.3 < low <= every and every > 0.95


def test_inpainting_fills_the_holes_of_the_warp_and_nothing_else(work):
    row = Warp(scales=[1])
    warped, filled = row.warped(work), Warp(scales=[1], inpaint=True).picture(work)
    mask = warped.masks[0]
    assert torch.equal(filled[:, mask], warped.images[0][:, mask]) and (filled[:, ~mask] > 0).all()
    assert psnr(filled, close_up()[1]) > psnr(row.picture(work), close_up()[1]) + 10


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_path_of_the_frames_ends_at_the_target_and_starts_at_the_nearest_reference(work, frames):
    path, reference = work.path(frames), wall().cameras[0]
    assert len(path) == frames and (path.width, path.height) == (WIDTH, HEIGHT)
    assert torch.allclose(path.viewmats[-1], work.camera.viewmats[0], atol=1e-6)
    assert torch.allclose(path.Ks[-1], work.camera.Ks[0], rtol=1e-5)
    if frames > 1:
        assert torch.allclose(path.viewmats[0], reference.viewmats, atol=1e-6)
        assert torch.allclose(path.Ks[0], reference.Ks, rtol=1e-5)


def test_the_two_passes_share_the_first(work):
    once, twice = Frames(structure=False), Frames(structure=True)
    first = once.close_up(work)
    second = twice.close_up(work)
    assert (
        once.close_up(work) is first and second.conditioning is first.conditioning and second.cameras is first.cameras
    )
    assert second.frames is not first.frames and torch.equal(once.picture(work), first.frames[-1])
    assert Splat(structure=False).close_up(work) is first, "a fit takes the frames that are shown"


def test_rows_that_differ_in_what_is_given_share_nothing(work):
    plain = Frames(structure=False, conditioning="hierarchical")
    other = Frames(structure=False, conditioning="hierarchical", scales=[4])
    assert plain.close_up(work) is not other.close_up(work)
    assert not torch.equal(plain.picture(work), other.picture(work))
    fits = [Splat(structure=False, pixel_confidence=given) for given in (True, False)]
    assert fits[0].fit(work) is not fits[1].fit(work) and fits[0].fit(work) is fits[0].fit(work)


def test_point_renders_show_the_scene_and_are_shared_by_rows_alike(work):
    row = PointRender()
    assert torch.equal(row.picture(work), render_scene_points(wall(), work.camera).images[0])
    assert row.warped(work) is PointRender(name="again").warped(work)
    sparse = PointRender(shrink_references=True)
    assert sparse.warped(work) is not row.warped(work) is not Warp().warped(work)
    truth = close_up()[1]
    assert psnr(sparse.picture(work), truth) < 20 < psnr(row.picture(work), truth)


def test_a_model_is_shown_what_it_does_best_with_unless_the_row_says_otherwise(work):
    own, named, papers, other = (
        Frames(structure=False, conditioning=kind) for kind in ("auto", "fused", "hierarchical", "points")
    )
    assert own.close_up(work) is named.close_up(work) is not other.close_up(work)
    path = work.path(4)
    assert torch.equal(papers.close_up(work).conditioning.images, hierarchical_warp(wall(), path).images)
    assert torch.equal(other.close_up(work).conditioning.images, render_scene_points(wall(), path).images)
    assert torch.equal(other.close_up(work).conditioning.images[0], wall().images[0]), "where a photograph was taken"


def test_gaussians_of_the_references_are_fitted_once_for_all_their_cases(work):
    row = ReferencesSplat()
    other = CaseWork(work.references, standing_at(0.1, zoom=2.0))
    assert row.picture(work).shape == row.picture(other).shape == (3, HEIGHT, WIDTH)
    assert row.fit(work.references) is row.fit(other.references)


def test_fused_warps_are_shared_by_rows_alike_and_may_take_colours_from_larger_photographs(work):
    row = FusedWarp()
    shown = row.picture(work)
    assert torch.equal(shown, fused_warp(work.scene, work.camera).images[0])
    assert row.warped(work) is FusedWarp(name="again").warped(work)
    assert row.warped(work).layers is not None
    with pytest.raises(InputError, match="cannot be read here"):
        FusedWarp(photo_size=512).picture(work)
    brighter = [(255 * (0.5 + 0.5 * image)).to(torch.uint8) for image in wall().images]
    larger = with_photographs(work, brighter)
    assert (FusedWarp(photo_size=96).picture(larger) - shown).mean() > 0.1


def test_a_fit_s_row_with_a_photo_size_sees_the_photographs(work):
    large = [(255 * image).to(torch.uint8) for image in wall().images.repeat_interleave(4, 2).repeat_interleave(4, 3)]
    larger = with_photographs(work, large)
    small, own = ReferencesSplat(iterations=4), ReferencesSplat(photo_size=512, iterations=4)
    assert not torch.equal(small.picture(larger), own.picture(larger))
    assert own.fit(larger.references) is not small.fit(larger.references)


def test_pseudo_labels_make_another_scene_of_the_references(work):
    plain, labelled = ReferencesSplat(iterations=4), ReferencesSplat(iterations=4, pseudo_labels=True)
    assert labelled.fit(work.references) is labelled.fit(work.references)
    assert not torch.equal(plain.picture(work), labelled.picture(work))
