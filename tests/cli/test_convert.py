"""`cus-convert` as a person runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cus.cli.convert import main
from cus.lvdm import load_lvdm_checkpoint

COURTYARD = Path(__file__).parent.parent.parent / "examples" / "courtyard"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_checkpoint_becomes_a_model_that_cus_infer_runs_and_a_checkpoint_again(
    tiny_lvdm: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, config = tiny_lvdm
    folder = tmp_path / "model"
    assert run(checkpoint, folder, "--config", config, "--frames", 5) == 0
    said = capsys.readouterr().err
    assert "U-Net" in said and "5.2 M parameters" in said and str(folder) in said

    from cus.cli.infer import main as infer

    views = [str(COURTYARD / name) for name in ("a.jpg", "b.jpg")]
    options = "--size 128 --frames 5 --steps 2 --photo-size 192 --splat-iterations 5".split()
    assert infer(["--views", *views, "--model", str(folder), "--out", str(tmp_path / "out"), *options]) == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) >= 5
    assert (tmp_path / "out" / "report.html").exists()

    assert run(folder, tmp_path / "back.ckpt", "--complete-from", checkpoint) == 0
    original, back = load_lvdm_checkpoint(checkpoint), load_lvdm_checkpoint(tmp_path / "back.ckpt")
    assert back.keys() == original.keys() and all(torch.equal(back[name], original[name]) for name in original)


def test_relative_paths_and_options_arrive(
    tiny_lvdm: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint, config = tiny_lvdm
    options = ("--config", config, "--frames", 7, "--dtype", "bfloat16", "--shard-size", 0.002)
    assert run(checkpoint, "models/tiny", *options) == 0
    assert len(list(Path("models/tiny/unet").glob("*-of-*.safetensors"))) > 2
    assert '"frames": 7' in Path("models/tiny/model_index.json").read_text()
    assert run(checkpoint, "models/tiny", *options) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(checkpoint, "models/tiny", *options, "--overwrite") == 0
    assert run("models/tiny", "back.safetensors") == 0
    assert "note: the text tower is left out" in capsys.readouterr().err
    back = load_lvdm_checkpoint("back.safetensors")
    assert back["model.diffusion_model.out.2.weight"].dtype == torch.bfloat16


def test_options_that_make_no_sense_are_refused(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = tiny_lvdm[0], tmp_path / "out"
    for arguments, reason in (
        ((tmp_path / "absent.ckpt", out), "no such file or folder"),
        ((checkpoint, tmp_path / "other.ckpt"), "the target must be a folder"),
        ((checkpoint, out, "--shard-size", 0), "--shard-size must be above 0"),
        ((checkpoint, out, "--shard-size", "nan"), "--shard-size must be above 0"),
        ((checkpoint, out, "--frames", 0), "--frames must be 1 or more"),
        ((checkpoint, out, "--complete-from", checkpoint), "--complete-from is for writing a checkpoint"),
        ((checkpoint, out, "--config", tmp_path / "absent.yaml"), "cannot read the config"),
        ((tiny_model, tmp_path / "other"), "must end in .ckpt or .safetensors"),
        ((tiny_model, tmp_path / "other.ckpt", "--frames", 5), "--frames is for writing a folder"),
        ((tiny_model, tmp_path / "other.ckpt", "--shard-size", 1), "--shard-size is for writing a folder"),
    ):
        assert run(*arguments) == 2
        assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_says_what_is_left_out_without_loading_torch() -> None:
    code = "import sys; from cus.cli.convert import main; main(['--help'])"
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "Not written are the text tower" in done.stdout
    assert done.stdout.strip().endswith("False")
