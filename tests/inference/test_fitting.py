"""What supervises the fit of a run (Eqs. 9 and 10), and its options."""

from typing import Any

import pytest
import torch

from cus.cameras import Cameras
from cus.closeup import CloseUp
from cus.conditioning import Conditioning, FusedCloud
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.inference.fitting import LEAST_CONFIDENCE, FitOptions, supervision


@pytest.fixture
def made() -> CloseUp:
    """Two photographs side by side and three frames that zoom in on the first, grey all over."""
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = -0.5
    K = torch.tensor([[60.0, 0, 24], [0, 60.0, 16], [0, 0, 1]])
    photos = Cameras(viewmats, K.repeat(2, 1, 1), 48, 32)
    frames = Cameras.cat([photos[:1].zoomed(zoom) for zoom in (1.0, 2.0, 4.0)])
    grey, depths = torch.full((2, 3, 32, 48), 0.5), torch.full((2, 32, 48), 2.0)
    grey[1, :, :, 40:] = 0  # padding
    scene = SceneEstimate(grey, photos, depths, torch.ones_like(depths))
    masks = torch.ones(3, 32, 48, dtype=torch.bool)
    warped = Conditioning(torch.full((3, 3, 32, 48), 0.5), masks, torch.full((3, 32, 48), 2.0))
    return CloseUp(scene, frames, warped, torch.full((3, 3, 32, 48), 0.5))


def cloud(counts: torch.Tensor) -> FusedCloud:
    return FusedCloud(torch.zeros(0, 3), torch.zeros(0, 3), counts, 2)


def test_confidences_fall_from_the_photographs_and_with_the_views_that_agree(made) -> None:
    counts = torch.zeros(5, 32, 48, dtype=torch.int64)
    counts[:, :16] = 1
    counts[:, :8] = 4
    views = supervision(made, cloud(counts), FitOptions(), valid=made.scene.images[:, 0] > 0)
    assert views.references.tolist() == [False, False, False, True, True]
    assert views.image_weights[0] == 1 and views.image_weights[3:].tolist() == [1, 1]
    assert 1 > views.image_weights[1] > views.image_weights[2] > 0.5
    frame = views.pixel_weights[1]
    assert frame[0, 0] == 1 and frame[10, 0] == 0.5 and frame[20, 0] == pytest.approx(LEAST_CONFIDENCE)
    assert views.pixel_weights[3].min() == 1
    assert views.pixel_weights[4, :, :40].min() == 1 and views.pixel_weights[4, :, 40:].max() == 0


def test_the_photographs_are_shown_at_their_own_resolution_and_the_frames_at_theirs(made) -> None:
    counts = torch.ones(5, 32, 48, dtype=torch.int64)
    own = [torch.zeros(3, 128, 192, dtype=torch.uint8), torch.zeros(3, 64, 96, dtype=torch.uint8)]
    views = supervision(made, cloud(counts), FitOptions(), own)
    assert views.photographs[:3] == (None, None, None)
    assert [p.shape[1] for p in views.photographs if p is not None] == [128, 64]
    views.check()
    assert supervision(made, cloud(counts), FitOptions()).photographs == ()


def test_the_rows_of_table_iv_leave_confidences_out(made) -> None:
    counts = torch.zeros(5, 32, 48, dtype=torch.int64)
    vanilla = supervision(made, cloud(counts), FitOptions(image_confidence=False, pixel_confidence=False))
    assert vanilla.image_weights.min() == 1 and vanilla.pixel_weights[:3].min() == 1
    image_only = supervision(made, cloud(counts), FitOptions(pixel_confidence=False))
    assert image_only.image_weights.min() < 1 and image_only.pixel_weights[:3].min() == 1


def test_options_become_settings_of_the_fit() -> None:
    options = FitOptions(iterations=7, strategy="mcmc", size=100, exposure=True)
    config = options.config(torch.device("cpu"), 200, 100)
    assert (config.iterations, config.strategy, config.exposure, config.max_pixels) == (7, "mcmc", True, 5000)
    plain = FitOptions().config(torch.device("cpu"), 200, 100)
    assert plain.iterations == 1000 and not plain.exposure


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"max_gaussians": 2},
        {"sh_degree": 4},
        {"depth_weight": float("nan")},
        {"size": 5},
        {"crops": -1},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        FitOptions(**wrong).check()
