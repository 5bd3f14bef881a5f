"""Small clips as data/build_clips.py makes them, with cameras and depths; quickly, from exact geometry."""

from pathlib import Path

from cus.cameras import trajectories
from cus.conditioning import agree, fused_warp
from cus.datasets.clips import Clip, Warp, save_clip
from cus.datasets.geometry import Geometry
from cus.datasets.other_warps import References, other_warps
from cus.estimators import SceneEstimate
from procedural import collage

WIDTH, HEIGHT, FRAMES = 48, 32, 3


def made_clip(seed: int, others: tuple[str, ...] = ("hierarchical",)) -> Clip:
    """A clip of a collage that zooms in a little."""
    scene = collage.Collage.random(seed)
    cameras = collage.reference_cameras(seed, WIDTH, HEIGHT)
    images, depths = collage.render(scene, cameras, 1)
    estimate = SceneEstimate(images, cameras, depths, (depths > 0).float())
    path = trajectories.interpolate(cameras, 1.3, (0.5, 0.5), FRAMES)
    references = References(estimate, agree(estimate), None)
    warped = fused_warp(references.agreed, path, None, False, agreed=True)
    targets, _ = collage.render(scene, path, 1)
    found: dict[str, Warp] = other_warps(others, references, path)
    geometry = Geometry(cameras, depths, estimate.confidences, path, warped.depths)
    return Clip(images, targets, warped.images, warped.masks, None, {"seed": seed}, warped.layers, found, geometry)


def write_made_clips(folder: Path, count: int = 2, first: int = 3) -> Path:
    """A folder of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        save_clip(folder / f"clip-{seed}.safetensors", made_clip(seed))
    return folder
