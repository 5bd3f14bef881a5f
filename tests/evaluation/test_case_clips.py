"""Cases of posed photographs as clips to validate a training on."""

from pathlib import Path

import pytest
import torch

from cus.datasets.clips import clip_paths, load_clip
from cus.datasets.scenes import open_scene
from cus.errors import InputError
from cus.evaluation.case_clips import CaseClips, build
from cus.evaluation.protocol import Rules, choose_cases
from cus.evaluation.targets import read_target
from tests.evaluation.small_scenes import one_thread, write_scenes


def test_a_case_becomes_a_clip_whose_target_is_the_crop_that_is_scored(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "data", "one")
    settings = CaseClips(str(tmp_path / "out"), [str(scenes / "one")], size=96, zooms=[2.0], cases=1, others=["high"])
    told: list[tuple[int, int]] = []
    with one_thread():
        build(settings, lambda done, total: told.append((done, total)))
    paths = clip_paths(tmp_path / "out")
    clip = load_clip(paths[0])
    posed = open_scene(scenes / "one")
    case = next(c for c in choose_cases(posed, Rules(zooms=(2.0,), centers=("centre",))) if c.name == clip.info["case"])
    expected = read_target(posed, case, 96).picture
    torch.testing.assert_close(clip.targets[0], expected, rtol=0, atol=0.5 / 255 + 1e-6)
    assert clip.layers is not None and clip.conditioning.shape == clip.targets.shape
    assert 0 < clip.others["high"].masks.float().mean() < clip.masks.float().mean()
    assert clip.masks.float().mean() > 0.5 and told[-1][0] == told[-1][1] == len(paths)
    before = paths[0].stat().st_mtime_ns
    build(settings, lambda done, total: None)
    assert paths[0].stat().st_mtime_ns == before


def test_larger_photographs_give_a_case_their_detail(tmp_path: Path) -> None:
    scenes, energies = write_scenes(tmp_path / "data", "one"), []
    for size in (0, 8192):
        out = tmp_path / str(size)
        settings = CaseClips(str(out), [str(scenes / "one")], size=96, zooms=[2.0], cases=1, photo_size=size)
        with one_thread():
            build(settings, lambda done, total: None)
        clip = load_clip(clip_paths(out)[0])
        energies.append(float(clip.conditioning.diff(dim=-1).square().mean()))
    assert energies[0] < 0.8 * energies[1]


def test_no_scene_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name the scenes"):
        build(CaseClips(str(tmp_path)), lambda done, total: None)
