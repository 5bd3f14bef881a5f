"""The single-view network that ships: what it is worth on scenes that it has not seen, and how it says so."""

import torch

from cus.estimators import estimate_scene
from cus.estimators.choice import prepare
from cus.estimators.mono import OWN, SHIPPED, Mono
from cus.training.single_view import DepthScores, depth_scores
from procedural.posed_views import ProceduralViews, views_of

MOST_BYTES = 60e6  # of all weights that ship


def test_the_network_that_ships_is_far_better_than_a_constant_plane_on_scenes_it_has_not_seen():
    settings = ProceduralViews(out="nowhere", views=2, depths=True)
    found, constant = [], []
    for seed in range(910000, 910010):
        views = views_of(settings, seed)
        assert views.depths is not None
        scene = estimate_scene(views.images[:1], estimator="mono", focals=views.cameras.Ks[:1, 0, 0])
        found.append(depth_scores(scene.depths[0], views.depths[0]))
        constant.append(depth_scores(torch.ones_like(views.depths[0]), views.depths[0]))
    ours, plane = DepthScores.mean(found), DepthScores.mean(constant)
    assert ours.abs_rel < 0.7 * plane.abs_rel and ours.delta > plane.delta + 0.15


def test_the_shipped_weights_need_no_download_and_all_weights_together_stay_small():
    assert prepare("mono", 1).weights == OWN
    assert Mono().load(SHIPPED / "model.safetensors").form.width == 32
    sizes = [file.stat().st_size for file in SHIPPED.parent.rglob("*.safetensors")]
    assert sum(sizes) < MOST_BYTES


def test_where_the_mirrored_picture_is_seen_otherwise_nothing_is_trusted_much():
    picture = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    scene = estimate_scene(picture, estimator="mono")
    assert float(scene.confidences.max()) <= 0.5 + 1e-6 and float(scene.confidences.min()) >= 0


def test_a_lens_that_is_not_known_is_guessed_and_said():
    picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    unknown = estimate_scene(picture, estimator="mono")
    known = estimate_scene(picture, estimator="mono", focals=torch.tensor([120.0]))
    assert any("55 degrees along the longer side" in note for note in unknown.notes)
    assert not any("55 degrees" in note for note in known.notes)
    # Depth is proportional to the focal length, so the shape in the unit of the scene changes but little.
    ratio = known.depths / unknown.depths
    assert float(ratio.std() / ratio.mean()) < 0.05
