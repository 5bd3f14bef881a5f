"""A rendered scene as posed photographs, and what its cameras see."""

import torch

from cus.datasets.scenes import open_scene
from cus.training.scripts import settings_of
from procedural import tracer
from procedural.posed_scene import PosedScene, build


def test_photographs_on_disk_are_renders_of_their_cameras_and_are_not_made_twice(tmp_path):
    arguments = [f"out={tmp_path / 'scene'}", "seed=5", "views=3", "width=48", "height=32"]
    build(settings_of(PosedScene, arguments), lambda done, total: None)
    posed = open_scene(tmp_path / "scene")
    images, cameras = posed.load(48)
    rendered, _ = tracer.render(tracer.random_scene(5), cameras[1], 1)
    torch.testing.assert_close(images[1], rendered[0], atol=0.03, rtol=0)
    made = {path: path.stat().st_mtime_ns for path in posed.paths}
    posed.paths[0].unlink()
    build(settings_of(PosedScene, arguments), lambda done, total: None)
    assert {path: path.stat().st_mtime_ns for path in posed.paths[1:]} == dict(list(made.items())[1:])
    torch.testing.assert_close(open_scene(tmp_path / "scene").load(48)[0], images)
