"""The weights that ship with the package."""

from importlib.resources import files
from pathlib import Path

import pytest

from cus.datasets import collage
from cus.datasets.closeup import ClipRecipe, make_clip
from cus.diffusion import CloseUpShotPipeline
from cus.training.pictures import psnr


@pytest.fixture(scope="module")
def mini() -> CloseUpShotPipeline:
    return CloseUpShotPipeline.from_pretrained("mini")


def test_the_shipped_folder_is_small_and_holds_safetensors_json_and_its_card_only() -> None:
    paths = [path for path in Path(str(files("cus") / "weights" / "mini")).rglob("*") if path.is_file()]
    assert {path.suffix for path in paths} == {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in paths) < 25e6


@pytest.mark.slow
def test_holes_get_closer_to_the_truth_and_covered_pixels_lose_little(mini: CloseUpShotPipeline) -> None:
    """What the shipped model is good for. Where its conditioning is already good it costs up to a decibel."""
    recipe = ClipRecipe(frames=2, width=192, height=108, window_width=160, window_height=96, structure_fraction=0.0)
    for seed in range(810000, 810003):
        scene, references = collage.Collage.random(seed), collage.reference_cameras(seed, 192, 108)
        clip = make_clip(lambda cameras, scene=scene: collage.render(scene, cameras), references, recipe, seed)
        frames = mini(clip.references, clip.conditioning)
        holes = ~clip.masks
        assert psnr(frames, clip.targets, clip.masks) > psnr(clip.conditioning, clip.targets, clip.masks) - 1.5
        assert psnr(frames, clip.targets, holes) > psnr(clip.conditioning, clip.targets, holes) + 0.5
