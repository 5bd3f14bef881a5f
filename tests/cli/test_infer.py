import pytest

from cus.cli.infer import main
from tests.cameras.test_files import write_photo


@pytest.fixture
def pair(tmp_path) -> list[str]:
    # Two different files: the same one twice is no pair.
    return [str(write_photo(tmp_path / name, 128, 96, focal_35mm=mm)) for name, mm in (("a.jpg", 26), ("b.jpg", 27))]


def refused(capsys, *arguments: str) -> str:
    """The message of a command that must refuse: one line on stderr, status 2, no traceback."""
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1 and "Traceback" not in message
    return message.split("error:")[1]


def test_help_gives_every_option_a_default_or_a_unit(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--views", "--zoom", "--target", "--frames", "--resume", "--dtype", "--fov", "--guidance"):
        assert option in text
    for unit in ("pixels", "degrees", "mm", "fractions", "default"):
        assert unit in text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--zoom", "0"], "zoom must be above 0"),
        (["--target", "1.5,0.5"], "outside the picture"),
        (["--frames", "0"], "--frames must be 1 to 1000, got 0"),
        (["--size", "7"], "--size must be"),
        (["--trajectory", "spiral"], "no such trajectory"),
        (["--cameras", "none.json"], "no such cameras file"),
        (["--model", "nothing/here/at/all"], "nothing/here/at/all"),
        (["--device", "tpu"], "cannot be used"),
        (["--dtype", "int8"], "--dtype must be one of auto, float32"),
        (["--memory", "most"], "--memory must be one of auto, low, high"),
        (["--attention", "flash"], "--attention must be one of sdpa, xformers"),
        (["--attention", "xformers", "--device", "cpu"], "xformers"),
        (["--conditioning", "warp"], "--conditioning must be one of auto, hierarchical, points"),
        (["--fov", "60", "--focal-35mm", "30"], "not both"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(capsys, tmp_path, pair, extra, message):
    assert message in refused(capsys, "--views", *pair, "--out", str(tmp_path / "out"), *extra)
    assert not (tmp_path / "out").exists()


def test_one_view_is_not_enough_for_stereo_and_the_same_view_twice_is_one(capsys, tmp_path, pair):
    alone = ("--views", pair[0], "--out", str(tmp_path / "out"), "--estimator", "stereo")
    assert "stereo measures depth between photographs" in refused(capsys, *alone)
    assert "given twice" in refused(capsys, "--views", pair[0], pair[0], "--out", str(tmp_path / "out"))


def test_views_that_are_not_pictures_are_named(capsys, tmp_path, pair):
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    assert "text.jpg is not a picture but text" in refused(
        capsys, "--views", pair[0], str(text), "--out", str(tmp_path / "out")
    )
    missing = str(tmp_path / "none.jpg")
    assert "no such photograph" in refused(capsys, "--views", pair[0], missing, "--out", str(tmp_path / "out"))


def test_photographs_without_anything_in_common_are_refused_and_the_folder_says_so(capsys, tmp_path, pair):
    message = refused(capsys, "--views", *pair, "--out", str(tmp_path / "out"), "--conditioning-only")
    assert "match" in message or "feature" in message
    assert '"status": "failed"' in (tmp_path / "out" / "run.json").read_text()


def test_an_earlier_run_is_not_replaced_unasked(capsys, tmp_path, pair):
    refused(capsys, "--views", *pair, "--out", str(tmp_path / "out"), "--conditioning-only")
    assert "--overwrite" in refused(capsys, "--views", *pair, "--out", str(tmp_path / "out"))
