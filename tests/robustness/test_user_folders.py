"""Commands whose output folder is a folder of the user's: refused, and not a byte changes."""

import shutil
from pathlib import Path

import pytest

from cus.cli import eval as evaluation
from cus.cli import fit, infer
from tests.cameras.test_files import write_photo
from tests.datasets.layouts import write_transforms
from tests.evaluation.small_scenes import rendered
from tests.robustness.kills import checksums

EXISTING = ([], ["--resume"], ["--overwrite"])


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    (tmp_path / "photos").mkdir()
    names = (("a.jpg", 26), ("b.jpg", 27))
    return [str(write_photo(tmp_path / "photos" / name, 128, 96, focal_35mm=mm)) for name, mm in names]


@pytest.fixture
def posed(tmp_path: Path) -> Path:
    images, cameras = rendered("one")
    write_transforms(tmp_path / "posed", images[:2], cameras[:2])
    return tmp_path / "posed"


def check_refused(folder: Path, capsys: pytest.CaptureFixture[str], status: int) -> None:
    said = capsys.readouterr().err
    assert status == 2 and said.count("error:") == 1 and "Traceback" not in said, said
    assert str(folder) in said


@pytest.mark.parametrize("mode", EXISTING)
@pytest.mark.parametrize("name", ["frames/IMG_1.jpg", "transforms.json", "splat.ply", "state/notes.txt"])
def test_cus_infer_leaves_a_folder_of_the_user_s_as_it_is(photos, tmp_path, capsys, name, mode):
    mine = tmp_path / "mine"
    (mine / name).parent.mkdir(parents=True)
    shutil.copy(photos[0], mine / name)
    before = checksums(tmp_path)
    check_refused(mine, capsys, infer.main(["--views", *photos, "--out", str(mine), *mode]))
    assert checksums(tmp_path) == before


@pytest.mark.parametrize("mode", EXISTING)
def test_cus_infer_never_replaces_photographs_by_frames_made_from_them(photos, tmp_path, capsys, mode):
    mine = tmp_path / "mine"
    shutil.copytree(tmp_path / "photos", mine / "frames")
    before = checksums(tmp_path)
    views = [str(path) for path in sorted((mine / "frames").iterdir())]
    check_refused(mine, capsys, infer.main(["--views", *views, "--out", str(mine), *mode]))
    assert checksums(tmp_path) == before


@pytest.mark.parametrize("mode", EXISTING)
def test_cus_fit_never_writes_into_the_scene_that_it_reads(posed, tmp_path, capsys, mode):
    before = checksums(tmp_path)
    check_refused(posed, capsys, fit.main([str(posed), "--out", str(posed), *mode]))
    assert checksums(tmp_path) == before


@pytest.mark.parametrize("mode", EXISTING)
def test_cus_eval_leaves_a_file_of_the_user_s_under_a_name_of_its_own(posed, tmp_path, capsys, mode):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "results.md").write_text("years of work")
    before = checksums(tmp_path)
    check_refused(
        mine, capsys, evaluation.main(["--data", str(posed.parent), "--out", str(mine), "--size", "96", *mode])
    )
    assert checksums(tmp_path) == before
