"""Photographs in a network's frame and back: nothing is cropped, the middle stays the middle, edges stay sharp."""

import pytest
import torch

from cus.errors import InputError
from cus.estimators import da3, dust3r, vggt
from cus.estimators.framing import FrameRule, frame_views
from cus.estimators.predictions import trust

DA3, DUST3R, VGGT = da3.DA3.rule, dust3r.DUSt3R.rule, vggt.VGGT.rule
SIZES = [(160, 120), (120, 160), (400, 100), (37, 37), (1000, 667)]


def padded(sizes: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures that get brighter to the right and bluer downwards, padded at the right and the bottom."""
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    images = torch.zeros(len(sizes), 3, height, width)
    valid = torch.zeros(len(sizes), height, width, dtype=torch.bool)
    for view, (w, h) in enumerate(sizes):
        images[view, 0, :h, :w] = (torch.arange(w) + 0.5) / w
        images[view, 1, :h, :w] = ((torch.arange(h) + 0.5) / h)[:, None]
        images[view, 2, :h, :w] = 0.5
        valid[view, :h, :w] = True
    return images, valid


@pytest.mark.parametrize("rule", [VGGT, DUST3R, DA3], ids=["vggt", "dust3r", "da3"])
def test_frames_are_as_the_network_wants_them(rule):
    images, valid = padded(SIZES)
    framed = frame_views(images, valid, rule)
    sizes = [tuple(picture.shape[-2:]) for picture in framed.pictures]
    assert all(side % rule.patch == 0 and side <= rule.longest_side for size in sizes for side in size)
    assert all(max(place.inner[2:]) == rule.longest_side for place in framed.placements)
    if rule.one_size:
        assert len(set(sizes)) == 1


@pytest.mark.parametrize("rule", [VGGT, DUST3R, DA3], ids=["vggt", "dust3r", "da3"])
def test_the_whole_photograph_is_in_the_middle_of_its_frame(rule):
    images, valid = padded(SIZES)
    framed = frame_views(images, valid, rule)
    for (w, h), place, inner in zip(SIZES, framed.placements, framed.inside(framed.pictures), strict=True):
        left, top, width, height = place.inner
        assert place.box == (0, 0, w, h)
        assert (2 * left + width, 2 * top + height) == place.frame
        assert abs(width / height / (w / h) - 1) <= rule.step / min(width, height)
        # From border to border: the first and the last column are those of the photograph, not of its inside.
        ramp = (torch.arange(width) + 0.5) / width
        middle = slice(height // 4, -height // 4)
        torch.testing.assert_close(inner[0, middle].mean(dim=0), ramp, atol=1.2 / w, rtol=0)


def test_only_a_network_that_wants_one_size_gets_padding_of_other_views():
    images, valid = padded([(160, 120), (120, 160)])
    assert [picture.shape[1:] for picture in frame_views(images, valid, VGGT).pictures] == [(518, 518)] * 2
    assert [picture.shape[1:] for picture in frame_views(images, valid, DUST3R).pictures] == [(384, 512), (512, 384)]


def test_padding_has_the_value_that_the_rule_says():
    images, valid = padded([(160, 80)])
    rule = FrameRule(longest_side=64, patch=48, step=2, fill=0.25, one_size=True)
    picture = frame_views(images, valid, rule).pictures[0]
    assert (
        picture.shape == (3, 48, 96)
        and bool((picture[:, :8] == 0.25).all())
        and bool((picture[..., -16:] == 0.25).all())
    )
    repeated = frame_views(images, valid, FrameRule(64, 48, 2, None, True)).pictures[0]
    assert torch.equal(repeated[:, 0], repeated[:, 8]) and torch.equal(repeated[..., 0], repeated[..., 16])


@pytest.mark.parametrize("rule", [VGGT, DUST3R, DA3], ids=["vggt", "dust3r", "da3"])
def test_intrinsics_come_back_through_the_same_pixels(rule):
    images, valid = padded(SIZES)
    framed = frame_views(images, valid, rule)
    Ks = torch.tensor([[500.0, 0, 200], [0, 510, 220], [0, 0, 1]]).repeat(len(SIZES), 1, 1)
    back = framed.Ks_of_images(Ks)
    ray = torch.tensor([0.1, -0.07, 1.0])
    for view, place in enumerate(framed.placements):
        in_frame, in_image = (K[view] @ ray for K in (Ks, back))
        for axis in (0, 1):
            share_of_frame = (in_frame[axis] - place.inner[axis]) / place.inner[2 + axis]
            share_of_photo = (in_image[axis] - place.box[axis]) / place.box[2 + axis]
            assert share_of_photo == pytest.approx(float(share_of_frame), abs=1e-5)


def test_the_middle_of_a_frame_is_the_middle_of_the_photograph():
    images, valid = padded(SIZES)
    for rule in (VGGT, DUST3R, DA3):
        framed = frame_views(images, valid, rule)
        Ks = torch.eye(3).repeat(len(SIZES), 1, 1)
        for view, place in enumerate(framed.placements):
            Ks[view, :2, 2] = torch.tensor(place.frame) / 2
        expected = torch.tensor(SIZES) / 2
        torch.testing.assert_close(framed.Ks_of_images(Ks)[:, :2, 2], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(700, 500), (160, 120)], ids=["larger", "smaller"])
def test_a_step_in_depth_stays_a_step_at_the_size_of_the_photograph(size):
    w, h = size
    images = torch.zeros(1, 3, h, w)
    images[..., w // 3 :] = 0.8
    framed = frame_views(images, None, VGGT)
    picture = framed.pictures[0]
    depth = torch.where(picture[0] > 0.4, 3.0, 1.0)
    depths, confidences = framed.maps_of_images([depth], [torch.full_like(depth, 0.5)], images)
    assert set(depths.unique().tolist()) == {1.0, 3.0}
    assert torch.equal(depths[0] == 3.0, images[0, 0] > 0.4)
    torch.testing.assert_close(confidences, torch.full_like(confidences, 0.5))


def test_padding_and_missing_depth_have_neither_depth_nor_confidence():
    images, valid = padded([(160, 120), (120, 160)])
    framed = frame_views(images, valid, VGGT)
    depths = [torch.full(picture.shape[1:], 2.0) for picture in framed.pictures]
    depths[0][:, : 518 // 2] = -1.0
    back, confidences = framed.maps_of_images(depths, [torch.ones_like(depth) for depth in depths], images)
    assert torch.equal(back > 0, confidences > 0) and not bool(back[~valid].any())
    assert not bool(back[0, :, :80].any()) and bool((back[0, :120, 80:] == 2.0).all())


def test_a_view_without_a_valid_pixel_is_refused():
    images, valid = padded([(160, 120), (120, 160)])
    with pytest.raises(InputError, match="view 2 has no valid pixel"):
        frame_views(images, valid & torch.tensor([True, False])[:, None, None], VGGT)


def test_trust_is_the_logistic_function_of_what_the_network_says_raw():
    raw = torch.linspace(-8, 8, 101)
    values = trust(1 + raw.exp())
    torch.testing.assert_close(values, raw.sigmoid(), atol=1e-6, rtol=1e-3)
    assert bool((values.diff() > 0).all()) and values.min() >= 0 and values.max() < 1
    assert trust(torch.tensor([1.0, 0.5, 1e30])).tolist() == [0.0, 0.0, 1.0]
