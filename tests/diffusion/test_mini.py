"""The weights that ship with the package."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cus.cameras import load_transforms
from cus.conditioning import Conditioning, fused_warp, hierarchical_warp
from cus.diffusion import CloseUpShotPipeline
from cus.estimators import SceneEstimate, estimate_scene
from cus.training.pictures import box_blurred, psnr

COURTYARD = Path(__file__).resolve().parents[2] / "examples/courtyard/transforms.json"


@pytest.fixture(scope="module")
def mini() -> CloseUpShotPipeline:
    return CloseUpShotPipeline.from_pretrained("mini")


@pytest.fixture(scope="module")
def scene() -> SceneEstimate:
    """The example, which nothing was trained on."""
    return estimate_scene(*load_transforms(COURTYARD).select([0, 1]).load(width=320), "stereo")


@pytest.fixture(scope="module")
def fused(scene: SceneEstimate) -> tuple[Conditioning, Tensor]:
    """Two close-ups at four times the references' magnification, and the truth."""
    truth, cameras = load_transforms(COURTYARD).select([3, 4]).load(width=320)
    return fused_warp(scene, cameras), truth


def test_the_shipped_folder_is_small_and_holds_safetensors_json_and_its_card_only() -> None:
    paths = [path for path in Path(str(files("cus") / "weights" / "mini")).rglob("*") if path.is_file()]
    assert {path.suffix for path in paths} == {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in paths) < 25e6


@pytest.mark.slow
def test_frames_are_nearer_to_the_truth_than_their_conditioning_and_its_blur(mini, scene, fused) -> None:
    conditioning, truth = fused
    frames = mini(scene.images, conditioning)
    shown = max(psnr(conditioning.images, truth), psnr(box_blurred(conditioning.images), truth))
    assert psnr(frames, truth) > shown + 0.05


@pytest.mark.slow
def test_a_frame_does_not_depend_on_its_neighbours(mini, scene, fused) -> None:
    """It was trained on single pictures: its layers over time are still silent."""
    conditioning, _ = fused
    alone = fused_warp(scene, load_transforms(COURTYARD).select([3]).load(width=320)[1])
    both, first = (mini(scene.images, shown) for shown in (conditioning, alone))
    torch.testing.assert_close(both[:1], first, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_the_paper_s_warp_may_be_shown_to_it(mini, scene, fused) -> None:
    _, truth = fused
    _, cameras = load_transforms(COURTYARD).select([3, 4]).load(width=320)
    conditioning = hierarchical_warp(scene, cameras)
    assert psnr(mini(scene.images, conditioning), truth) > psnr(conditioning.images, truth) - 0.1
