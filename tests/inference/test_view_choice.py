"""Folders, patterns and videos as photographs: sharp ones, spread out, and a note that says which."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from cus.cameras.pictures import sharpness
from cus.errors import InputError
from cus.inference.view_choice import choose_views, natural_key
from cus.report.video import write_video

RNG = np.random.default_rng(3)
SHARP = RNG.integers(0, 256, (48, 64, 3), np.uint8)
SOFT = cv2.GaussianBlur(SHARP, (0, 0), 3)


def shoot(folder: Path, count: int, sharp: set[int], suffix: str = "png") -> list[Path]:
    """Pictures 1 .. count of which only some are sharp; a corner of each has a grey of its own."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(1, count + 1):
        picture = (SHARP if number in sharp else SOFT).copy()
        picture[:8, :8] = 2 * number
        paths.append(folder / f"{number}.{suffix}")
        Image.fromarray(picture).save(paths[-1])
    return paths


def test_a_blurred_picture_is_less_sharp_at_any_size():
    grey, soft = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (SHARP, SOFT))
    assert sharpness(soft) < sharpness(grey) / 4
    large, large_soft = (cv2.resize(p, None, fx=30, fy=30) for p in (grey, soft))
    assert sharpness(large_soft) < sharpness(large) / 4


def test_of_a_folder_the_sharpest_picture_of_each_part_is_chosen(tmp_path):
    shoot(tmp_path / "shots", 24, {2, 7, 10, 14, 17, 19, 24})
    (tmp_path / "shots" / "notes.txt").write_text("not a picture")
    (tmp_path / "shots" / ".hidden.png").write_bytes(b"x")
    views = choose_views([tmp_path / "shots"], 4, tmp_path / "out")
    assert {int(path.stem) for path in views.paths} <= {2, 7, 10, 14, 17, 19, 24}
    parts = [(int(path.stem) - 1) // 6 for path in views.paths]
    assert parts == [0, 1, 2, 3]
    assert "of 24 pictures" in views.notes[0] and "--max-views" in views.notes[0]


def test_eight_are_chosen_by_default_and_few_pictures_are_all_used(tmp_path):
    shoot(tmp_path / "many", 20, set())
    shoot(tmp_path / "few", 5, set())
    assert len(choose_views([tmp_path / "many"], None, tmp_path / "out").paths) == 8
    few = choose_views([tmp_path / "few"], None, tmp_path / "out")
    assert [path.stem for path in few.paths] == ["1", "2", "3", "4", "5"] and few.notes == ()


def test_names_are_sorted_as_people_do():
    names = ["IMG_10.jpg", "IMG_9.jpg", "img_1.jpg", "b.jpg", "IMG_09b.jpg"]
    assert [p.name for p in sorted(map(Path, names), key=natural_key)] == [
        "b.jpg",
        "img_1.jpg",
        "IMG_9.jpg",
        "IMG_09b.jpg",
        "IMG_10.jpg",
    ]


def test_a_quoted_pattern_is_a_folder_with_a_filter(tmp_path):
    shoot(tmp_path / "a", 3, set())
    shoot(tmp_path / "a", 2, set(), "jpg")
    views = choose_views([tmp_path / "a" / "*.png"], None, tmp_path / "out")
    assert [path.name for path in views.paths] == ["1.png", "2.png", "3.png"]
    with pytest.raises(InputError, match="no file fits"):
        choose_views([tmp_path / "a" / "*.tif"], None, tmp_path / "out")


def test_a_file_named_like_a_pattern_is_a_file(tmp_path):
    first, second = shoot(tmp_path / "a", 2, set())
    odd = first.rename(tmp_path / "a" / "x[1]*.png")
    assert choose_views([odd, second], None, tmp_path / "out").paths == (odd, second)


def test_named_files_are_all_used_unless_max_views_says_otherwise(tmp_path):
    paths = shoot(tmp_path / "a", 12, set())
    assert choose_views(paths, None, tmp_path / "out").paths == tuple(paths)
    assert len(choose_views(paths, 3, tmp_path / "out").paths) == 3


def test_named_files_beside_a_folder_are_kept_and_not_taken_twice(tmp_path):
    paths = shoot(tmp_path / "a", 12, set())
    views = choose_views([paths[5], tmp_path / "a"], 4, tmp_path / "out")
    assert views.paths[0] == paths[5] and len(views.paths) == len(set(views.paths)) == 4


def test_unreadable_pictures_of_a_folder_are_left_out_and_counted(tmp_path):
    shoot(tmp_path / "a", 3, set())
    (tmp_path / "a" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    views = choose_views([tmp_path / "a"], None, tmp_path / "out")
    assert [path.stem for path in views.paths] == ["1", "3"] and "1 pictures could not be read" in views.notes[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "has no pictures"),
        (("a.nef",), "raw file"),
        (("images/1.png",), "it has the folders images"),
    ],
)
def test_a_folder_without_enough_pictures_says_what_is_there(tmp_path, names, message):
    folder = tmp_path / "a"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(SHARP).save(folder / name, "PNG")
    with pytest.raises(InputError, match=message):
        choose_views([folder], None, tmp_path / "out")


def test_one_photograph_is_taken_where_one_is_meant_and_not_where_it_is_left_over(tmp_path):
    first, second = shoot(tmp_path / "a", 2, set())
    shoot(tmp_path / "b", 1, set())
    assert choose_views([first], None, tmp_path / "out").paths == (first,)
    assert len(choose_views([tmp_path / "b"], None, tmp_path / "out").paths) == 1
    assert len(choose_views([tmp_path / "a"], 1, tmp_path / "out").paths) == 1
    second.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="got 1.*could not be read.*give it alone"):
        choose_views([tmp_path / "a"], None, tmp_path / "out")


def test_the_same_picture_twice_is_refused_or_left_out(tmp_path):
    first, second, third = shoot(tmp_path / "a", 3, set())
    third.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match="given twice"):
        choose_views([first, first], None, tmp_path / "out")
    with pytest.raises(InputError, match="got 1.*byte for byte"):
        choose_views([first, third], None, tmp_path / "out")
    for given in ([tmp_path / "a"], [first, second, third]):
        views = choose_views(given, None, tmp_path / "out")
        assert views.paths == (first, second) and "byte for byte" in views.notes[0]


def clip(path: Path, sharp: set[int], count: int = 40, fps: int = 10) -> Path:
    """A video whose frames are soft but for some; the corner of each tells its number."""
    frames = np.stack([SHARP if number in sharp else SOFT for number in range(count)])
    for number in range(count):
        frames[number, :16, :16] = 6 * number
    write_video(path, frames, fps, crf=2)
    return path


def numbers(views) -> list[int]:
    return [round(views.frames[path].pixels[2:14, 2:14].mean() / 6) for path in views.paths]


def test_of_a_video_the_sharpest_frame_of_each_part_is_chosen(tmp_path):
    video = clip(tmp_path / "a.mp4", {3, 14, 28, 33})
    views = choose_views([video], 4, tmp_path / "out")
    assert numbers(views) == [3, 14, 28, 33]
    assert [round(views.frames[path].seconds, 3) for path in views.paths] == [0.3, 1.4, 2.8, 3.3]
    assert views.paths[1] == tmp_path / "out" / "photos" / "a_0001400ms.png"
    assert views.sources == (video,) and "0.30 s, 1.40 s" in views.notes[0]
    photo = views.photo(views.paths[0])
    assert photo is not None and (photo.width, photo.height) == (64, 48)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "gif", "mov"])
def test_videos_of_every_container_are_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    codec = {"webm": "libvpx", "gif": "gif", "avi": "mpeg4"}.get(suffix, "libx264")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "rgb8" if suffix == "gif" else "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    views = choose_views([path], 3, tmp_path / "out")
    greys = [views.frames[p].pixels.mean() for p in views.paths]
    assert len(greys) == 3 and greys == sorted(greys)
    assert 0 <= greys[0] < 90 and 60 < greys[1] < 170 and 140 < greys[2] < 240


def test_a_phone_s_rotation_is_applied(tmp_path):
    """The matrix in the track's header turns by 90 degrees clockwise, as a phone held upright writes it."""
    path = clip(tmp_path / "a.mp4", set())
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    views = choose_views([path], 2, tmp_path / "out")
    frame = views.frames[views.paths[1]].pixels
    assert frame.shape == (64, 48, 3)
    corner = frame[2:14, -14:-2].astype(int)
    assert corner.std() < 6, "what was top left is top right"


def test_a_variable_frame_rate_is_spread_by_time_and_not_by_count(tmp_path):
    """30 frames in the first second, then one a second: each of four parts of 8 s gives one frame of its time."""
    path = tmp_path / "a.mkv"
    times = [i / 30 for i in range(30)] + [float(t) for t in range(1, 8)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), int(30 * time), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    seconds = [frame.seconds for frame in choose_views([path], 4, tmp_path / "out").frames.values()]
    assert len(seconds) == 4 and np.diff(seconds).min() > 0.9, seconds


@pytest.mark.parametrize("cut", [40, 400, 3000])
def test_a_damaged_video_is_an_input_error(tmp_path, cut):
    path = clip(tmp_path / "a.mp4", set())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="can be decoded"):
        choose_views([path], 4, tmp_path / "out")


def test_a_play_list_in_the_clothes_of_a_video_opens_nothing(tmp_path):
    clip(tmp_path / "secret.mp4", set())
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x08ftyp#EXTM3U\n#EXTINF:1,\nsecret.mp4\n")
    with pytest.raises(InputError, match="not a video that can be decoded"):
        choose_views([path], 4, tmp_path / "out")


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="sound alone"):
        choose_views([path], 4, tmp_path / "out")


@pytest.mark.parametrize(("ratio", "width"), [(Fraction(4, 3), 85), (Fraction(1, 2000), 64)])
def test_pixels_that_are_not_square_are_widened_where_their_shape_can_be(tmp_path, ratio, width):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.sample_aspect_ratio = ratio
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    views = choose_views([path], 2, tmp_path / "out")
    assert views.frames[views.paths[0]].pixels.shape == (48, width, 3)
    assert any("pixels" in note for note in views.notes)
