import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cus.cli.view import main
from cus.errors import InputError
from cus.report.video import read_video
from cus.viewer.recording import check_output
from tests.viewer.scenes import write_folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("view"))


def refusal(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1 and "Traceback" not in message
    return message.split("error:")[1]


def test_help_gives_units_and_defaults(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for part in ("--record", "--path", "--factor", "--measure", "pixels", "fractions", "default", "examples:"):
        assert part in text


@pytest.mark.parametrize("kind", ["walk", "zoom", "orbit"])
def test_a_recording_has_the_frames_and_the_size_that_were_asked_for(out, tmp_path, kind):
    video = tmp_path / f"{kind}.mp4"
    arguments = ["--path", kind, "--frames", "4", "--size", "120", "--factor", "2"]
    assert main([str(out), "--record", str(video), *arguments]) == 0
    assert read_video(video).shape == (4, 80, 120, 3)
    assert not list(tmp_path.glob(".part*"))


def test_the_runs_path_has_its_own_number_of_frames_and_a_relative_name_works(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(out), "--record", "run.mp4", "--path", "run", "--size", "96"]) == 0
    assert read_video("run.mp4").shape == (5, 64, 96, 3)


def test_a_recording_starts_with_the_first_photograph(out, tmp_path):
    import cv2

    video = tmp_path / "walk.mp4"
    assert main([str(out), "--record", str(video), "--frames", "2", "--size", "96"]) == 0
    photograph = cv2.imread(str(out.parent / "a.png"))[..., ::-1].astype(float)
    assert np.abs(read_video(video)[0] - photograph).mean() < 4, "as near as the codec gets"


def test_measures_are_printed_and_kept_beside_the_video(out, tmp_path, capsys):
    video = tmp_path / "walk.mp4"
    arguments = ["--frames", "3", "--size", "96", "--measure"]
    assert main([str(out), "--record", str(video), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "uncovered" in printed and "worst" in printed
    content = json.loads((tmp_path / "walk.json").read_text())
    check_output(tmp_path / "walk.mp4", measure=True, overwrite=True)
    with pytest.raises(InputError, match="walk.json already exists|walk.mp4 already exists"):
        check_output(tmp_path / "walk.mp4", measure=True, overwrite=False)
    assert len(content["frames"]) == 3 and content["frames"][-1]["popping"] is None
    assert content["summary"]["uncovered_worst"] == 0 and content["summary"]["popping_worst"] < 20


def test_the_background_is_seen_where_nothing_covers_it(out, tmp_path):
    video = tmp_path / "wide.mp4"
    arguments = ["--path", "zoom", "--factor", "0.2", "--frames", "1", "--size", "96", "--background", "0,1,0"]
    assert main([str(out), "--record", str(video), *arguments]) == 0
    corner = read_video(video)[0, :8, :8].mean(axis=(0, 1))
    assert corner[1] > 220 and corner[0] < 30 and corner[2] < 30


def test_an_existing_video_is_kept_unless_it_is_given_up(out, tmp_path, capsys):
    video = tmp_path / "walk.mp4"
    video.write_bytes(b"precious")
    arguments = [out, "--record", video, "--frames", 1, "--size", 64]
    assert "--overwrite replaces it" in refusal(capsys, *arguments)
    assert video.read_bytes() == b"precious"
    assert main([str(a) for a in (*arguments, "--overwrite")]) == 0
    assert len(read_video(video)) == 1
    (tmp_path / "other.json").write_text("precious")
    other = [out, "--record", tmp_path / "other.mp4", "--frames", 1, "--size", 64]
    assert "holds no measures" in refusal(capsys, *other, "--measure")
    assert "holds no measures" in refusal(capsys, *other, "--measure", "--overwrite")
    assert main([str(a) for a in other]) == 0 and (tmp_path / "other.json").read_text() == "precious"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--record", "walk.avi"], "must end in .mp4"),
        (["--record", "nowhere/walk.mp4"], "folder does not exist"),
        (["--record", "walk.mp4", "--size", "2"], "size of a recording"),
        (["--record", "walk.mp4", "--fps", "0"], "frame rate"),
        (["--record", "walk.mp4", "--factor", "0.5"], "at least 1"),
        (["--record", "walk.mp4", "--target", "2,0"], "outside the picture"),
        (["--record", "walk.mp4", "--frames", "0"], "at least one frame"),
        (["--record", "walk.mp4", "--background", "0,0,7"], "background"),
        (["--record", "walk.mp4", "--cameras", "none.json"], "no such cameras file"),
        (["--measure"], "--record"),
        (["--port", "70000"], "0 to 65535"),
        (["--port", "0", "--allow-origin", "example.org"], "--allow-origin takes addresses like"),
        (["--max-gaussians", "0", "--port", "0"], "at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(out, tmp_path, monkeypatch, capsys, extra, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, out, *extra)
    assert not list(tmp_path.iterdir())


def test_a_file_that_holds_no_gaussians_is_refused(out, tmp_path, capsys):
    assert "missing" in refusal(capsys, out / "points.ply", "--record", tmp_path / "a.mp4")
    assert "no such file" in refusal(capsys, tmp_path / "splat.ply", "--record", tmp_path / "a.mp4")


def test_a_port_in_use_is_refused_before_anything_is_loaded(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        message = refusal(capsys, tmp_path / "not there", "--port", taken.getsockname()[1])
    assert "cannot listen" in message and "--port" in message


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_page_stops_at_once_also_while_a_browser_is_connected(out, number, status):
    pytest.importorskip("viser")
    import viser
    from websockets.sync.client import connect

    command = [sys.executable, "-m", "cus.cli.view", str(out), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split("open ")[1].split(" ")[0]
    # A client that never answers.
    with connect(address.replace("http", "ws"), subprotocols=[f"viser-v{viser.__version__}"], max_size=None) as client:
        client.recv(timeout=20)
        started = time.monotonic()
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        seconds = time.monotonic() - started
    assert process.returncode == status and output == "" and errors.splitlines()[-1] == "interrupted"
    assert seconds < 5, "two on a machine with nothing else to do"


def test_without_viser_the_browser_is_refused_and_recording_works(out, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "viser", None)
    assert "pip install 'closeupshot[view]'" in refusal(capsys, out)
    assert main([str(out), "--record", str(tmp_path / "a.mp4"), "--frames", "1", "--size", "64"]) == 0
