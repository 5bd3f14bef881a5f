"""Learning curves."""

import json

import pytest

from benchmarks.learning_curve import gains, main, scores


@pytest.fixture
def runs(tmp_path):
    folders = []
    for number, steps in enumerate(([100, 200], [50])):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = [{"step": 10, "loss": 1.0}]
        for step in steps:
            lines.append({"step": step, "psnr": 20 + step / 100, "psnr_conditioning": 20.0})
            lines[-1] |= {"st_lpips": 0.2, "st_lpips_conditioning": 0.3}
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(folder)
    return folders


def test_steps_add_up_over_runs_and_less_distance_is_a_gain(runs):
    lines = scores(runs)
    assert gains(lines, "psnr", 1) == ([100, 200, 250], [1.0, 2.0, 0.5])
    assert gains(lines, "st_lpips", -1)[1] == pytest.approx([0.1] * 3)
    assert gains(lines, "ssim", 1) == ([], [])


def test_the_figure_is_written_and_nothing_is_replaced(runs, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "curve.png"
    main([str(runs[0]), str(runs[1]), str(out)])
    assert out.stat().st_size > 1000
    with pytest.raises(SystemExit, match="exists"):
        main([str(runs[0]), str(out)])
    with pytest.raises(SystemExit, match="train/unet.py"):
        main([str(tmp_path), str(tmp_path / "other.png")])
