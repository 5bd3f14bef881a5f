"""A ray-traced scene as posed photographs on disk, to test scene readers; data/make_scene.py is its command."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING
from PIL import Image

from cus.cameras import save_transforms, trajectories
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.scripts import REMEDY
from procedural import tracer


@dataclass
class PosedScene:
    """Settings of the scene to render.

    Attributes:
        out: output folder of `images/` and `transforms.json`, in nerfstudio's layout.
        seed: seed of the scene and its cameras.
        views: number of photographs, on a path past the scene.
        width: width of the photographs in pixels.
        height: height of the photographs in pixels.
        supersample: number of samples per pixel along each axis.
    """

    out: str = MISSING
    seed: int = limited(3, low=0)
    views: int = limited(9, low=2)
    width: int = limited(1152, low=16, high=8192)
    height: int = limited(648, low=16, high=8192)
    supersample: int = limited(1, low=1, high=16)


def build(settings: PosedScene, on_progress: Callable[[int, int], None]) -> None:
    """Render missing photographs, then write their cameras. Raises InputError."""
    scene = tracer.random_scene(settings.seed)
    ends = tracer.sample_reference_cameras(scene, settings.seed, settings.width, settings.height, views=3)
    cameras = trajectories.interpolate(ends, frames=settings.views)
    names = [f"images/{view:03d}.png" for view in range(len(cameras))]
    folder = OutputFolder(Path(settings.out), "a rendered scene", REMEDY)
    folder.open(("settings.yaml", "images/*.png", "transforms.json"))
    try:
        config.write(settings, folder, "settings.yaml", ("out",))
        for view, name in enumerate(names):
            on_progress(view, len(names))
            if not folder.is_ours(name):
                image = tracer.render(scene, cameras[view], settings.supersample)[0][0]
                picture = Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
                folder.write(name, lambda part, picture=picture: picture.save(part, format="PNG"))
        folder.write("transforms.json", lambda part: save_transforms(part, cameras, names))
        on_progress(len(names), len(names))
    finally:
        folder.close()
