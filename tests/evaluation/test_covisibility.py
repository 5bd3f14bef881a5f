"""Co-visible masks of a plane, whose visible part is known by hand."""

import pytest
import torch

from cus.cameras import Cameras
from cus.estimators import SceneEstimate
from cus.evaluation.targets import covisible

WIDTH, HEIGHT, FOCAL, DEPTH = 96, 64, 80.0, 4.0


def camera(x: float = 0.0, focal: float = FOCAL, turned_away: bool = False) -> Cameras:
    viewmat = torch.eye(4)
    if turned_away:
        viewmat[0, 0] = viewmat[2, 2] = -1
    viewmat[0, 3] = -x
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    return Cameras(viewmat[None], K[None], WIDTH, HEIGHT)


def plane(*positions: float, confidences: torch.Tensor | None = None) -> SceneEstimate:
    """A wall `DEPTH` in front of cameras that stand side by side."""
    shape = (len(positions), HEIGHT, WIDTH)
    images = torch.rand(len(positions), 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    confidences = torch.ones(shape) if confidences is None else confidences
    return SceneEstimate(images, Cameras.cat([camera(x) for x in positions]), torch.full(shape, DEPTH), confidences)


def test_a_reference_sees_all_of_itself_and_of_its_close_up():
    assert covisible(plane(0.0, 0.4), camera()).all()
    assert covisible(plane(0.0, 0.4), camera(focal=4 * FOCAL)).float().mean() > 0.97


@pytest.mark.parametrize("shift", [0.5, 1.2, 2.4])
def test_the_part_that_a_shift_uncovers_is_not_seen(shift):
    """A camera that moves right by s sees s f / z columns of the wall that the reference does not."""
    mask = covisible(plane(0.0), camera(shift), border=0)
    columns = WIDTH - shift * FOCAL / DEPTH
    assert mask.float().mean() == pytest.approx(columns / WIDTH, abs=1.5 / WIDTH)
    smaller = covisible(plane(0.0), camera(shift), border=3)
    assert not (smaller & ~mask).any()
    assert mask[0].sum() - smaller[0].sum() == 3  # along the hole, not along the picture's own border


def test_a_second_reference_adds_what_it_sees():
    target = camera(0.6)
    one, both = covisible(plane(0.0), target), covisible(plane(0.0, 1.2), target)
    assert not (one & ~both).any() and both.all() and not one.all()


def test_only_reliable_depths_count():
    confidences = torch.ones(1, HEIGHT, WIDTH)
    confidences[:, :, :9] = 0.1  # less than a tenth of the picture
    mask = covisible(plane(0.0, confidences=confidences), camera(), border=0)
    assert not mask[:, :9].any() and mask[:, 9:].all()


def test_a_camera_that_looks_elsewhere_shares_nothing():
    assert not covisible(plane(0.0, 0.4), camera(turned_away=True)).any()
    scene = plane(0.0)
    empty = SceneEstimate(scene.images, scene.cameras, torch.zeros_like(scene.depths), torch.zeros_like(scene.depths))
    assert not covisible(empty, camera()).any()
    with pytest.raises(ValueError, match="one target"):
        covisible(scene, Cameras.cat([camera(), camera(1.0)]))
    with pytest.raises(ValueError, match="negative"):
        covisible(scene, camera(), border=-1)
