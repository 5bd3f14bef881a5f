import numpy as np
import pytest

from cus.errors import InputError
from cus.report.html import colorize_confidence, colorize_depth, depth_range
from cus.report.video import read_video, write_video


def test_near_is_red_far_is_blue_and_unknown_black():
    depth = np.array([[1.0, 10.0, 0.0]])
    (near, far, unknown) = colorize_depth(depth, (1.0, 10.0))[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0] and unknown.tolist() == [0, 0, 0]


def test_depth_without_anything_known_is_all_black():
    assert depth_range(np.zeros((2, 2))) == (1.0, 2.0)
    assert colorize_depth(np.zeros((4, 4))).max() == 0


def test_sure_is_brighter_than_unsure():
    unsure, sure = colorize_confidence(np.array([[0.0, 1.0]]))[0].astype(int)
    assert sure.sum() > unsure.sum()


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_a_video_gives_its_frames_back(tmp_path, size):
    ramp = np.linspace(0, 255, size[1], dtype=np.uint8)
    frames = np.stack([np.broadcast_to(np.roll(ramp, 3 * t)[None, :, None], (*size, 3)) for t in range(5)])
    write_video(tmp_path / "v.mp4", np.ascontiguousarray(frames), fps=8)
    read = read_video(tmp_path / "v.mp4")
    assert read.shape[0] == 5 and read.shape[1] % 2 == 0 and read.shape[2] % 2 == 0
    assert np.abs(read[:, : size[0], : size[1]].astype(int) - frames).mean() < 4


def test_what_is_not_a_video_is_refused(tmp_path):
    (tmp_path / "v.mp4").write_text("no")
    with pytest.raises(InputError, match="not a video"):
        read_video(tmp_path / "v.mp4")
    with pytest.raises(FileNotFoundError, match="v.mp4"):
        write_video(tmp_path / "none" / "v.mp4", np.zeros((1, 8, 8, 3), np.uint8), fps=8)
