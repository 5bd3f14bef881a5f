"""Structure images of a trained model's own first pass."""

from pathlib import Path

import pytest

from cus.cameras import Cameras, trajectories
from cus.datasets.other_warps import References
from cus.errors import InputError
from cus.estimators import SceneEstimate
from procedural import collage
from procedural.coarse import CoarsePass
from tests.evaluation.small_scenes import one_thread
from tests.training.test_clip_crops import small_stage, write_clips


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new model: its frames are its conditioning images."""
    folder = tmp_path_factory.mktemp("model")
    stage = small_stage(write_clips(folder), "sampling.conditioning=hierarchical", "sampling.layers=0")
    stage.export(folder / "export")
    return folder / "export"


def exact_references(width: int, height: int) -> tuple[References, Cameras]:
    scene, cameras = collage.Collage.random(3), collage.reference_cameras(3, width, height)
    images, depths = collage.render(scene, cameras, 1)
    estimate = SceneEstimate(images, cameras, depths, (depths > 0).float())
    path = trajectories.interpolate(cameras, 2.0, (0.5, 0.5), 7)
    return References(estimate, estimate, None), path


def test_structure_shows_what_the_frames_of_the_path_agree_on(model) -> None:
    references, path = exact_references(64, 48)
    truth, _ = collage.render(collage.Collage.random(3), path, 1)
    with one_thread():
        structure = CoarsePass(str(model), 5)(references, path, 2)
    assert structure.shape == (2, 3, 48, 64)
    shown = structure.amax(dim=1) > 0
    assert shown.float().mean() > 0.3
    errors = (structure - truth[-2:]).abs().mean(dim=1)[shown]
    assert errors.median() < 0.08


def test_a_path_on_which_nothing_is_seen_has_no_structure(model) -> None:
    references, path = exact_references(32, 24)
    turned = path.viewmats.clone()
    turned[:, [0, 2]] *= -1  # the cameras look back
    away = Cameras(turned, path.Ks, path.width, path.height)
    with one_thread(), pytest.raises(InputError, match="sees nothing"):
        CoarsePass(str(model), 4)(references, away, 2)


def test_a_model_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(InputError):
        CoarsePass(str(tmp_path / "absent"), 4)
