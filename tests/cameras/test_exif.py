"""The focal length that EXIF gives, and EXIF that gives none."""

from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from cus.cameras.photos import Photo, inspect_photo

Base = ExifTags.Base
DIAGONAL = (36**2 + 24**2) ** 0.5


def photo_with(path: Path, width: int = 640, height: int = 480, **fields: Any) -> Photo:
    """A photograph with these EXIF fields."""
    exif = Image.Exif()
    for name, value in fields.items():
        exif.get_ifd(ExifTags.IFD.Exif)[Base[name]] = value
    Image.new("RGB", (width, height)).save(path, exif=exif)
    return inspect_photo(path)


def test_the_35_mm_equivalent_is_by_the_diagonal(tmp_path):
    assert photo_with(tmp_path / "a.jpg", FocalLengthIn35mmFilm=26).focal == pytest.approx(26 * 800 / DIAGONAL)


@pytest.mark.parametrize(
    ("unit", "per_unit"), [(2, 4000.0), (3, 4000 / 2.54), (4, 4000 / 25.4), (5, 4000 / 25400), (None, 4000.0)]
)
def test_the_focal_plane_gives_it_in_every_unit(tmp_path, unit, per_unit):
    """5.4 mm at 4000 pixels an inch; inches where the unit is missing."""
    fields = {} if unit is None else {"FocalPlaneResolutionUnit": unit}
    photo = photo_with(tmp_path / "a.jpg", FocalLength=5.4, FocalPlaneXResolution=per_unit, **fields)
    assert photo.focal == pytest.approx(5.4 * 4000 / 25.4, rel=1e-4) and not photo.notes


@pytest.mark.parametrize("size", [(640, 480), (480, 640)])
def test_a_shrunk_copy_has_the_focal_length_of_its_size(tmp_path, size):
    """EXIF keeps the size that the camera wrote: 2560x1920 here, at 4000 pixels an inch."""
    plane = {"FocalLength": 5.4, "FocalPlaneXResolution": 4000.0, "FocalPlaneResolutionUnit": 2}
    photo = photo_with(tmp_path / "a.jpg", *size, **plane, ExifImageWidth=2560, ExifImageHeight=1920)
    assert photo.focal == pytest.approx(5.4 * 4000 / 25.4 / 4, rel=1e-4)


def test_a_digital_zoom_counts_for_the_focal_plane_and_not_twice_for_the_equivalent(tmp_path):
    plane = {"FocalLength": 5.4, "FocalPlaneXResolution": 4000.0}
    zoomed = photo_with(tmp_path / "a.jpg", **plane, DigitalZoomRatio=2.0)
    assert zoomed.focal == pytest.approx(2 * 5.4 * 4000 / 25.4, rel=1e-4) and "digital zoom" in zoomed.notes[0]
    equivalent = photo_with(tmp_path / "b.jpg", FocalLengthIn35mmFilm=52, DigitalZoomRatio=2.0)
    assert equivalent.focal == pytest.approx(52 * 800 / DIAGONAL)


def test_a_cropped_copy_has_no_known_focal_length(tmp_path):
    photo = photo_with(tmp_path / "a.jpg", FocalLengthIn35mmFilm=26, ExifImageWidth=1000, ExifImageHeight=480)
    assert photo.focal is None and "cropped" in photo.notes[0]


@pytest.mark.parametrize("value", [0, 0.0])
def test_zero_is_exifs_word_for_unknown(tmp_path, value):
    photo = photo_with(tmp_path / "a.jpg", FocalLengthIn35mmFilm=int(value), FocalLength=value)
    assert photo.focal is None and photo.notes == ()


def test_nonsense_is_ignored_with_a_note(tmp_path):
    """Fields are set behind Pillow's back, which would refuse to write some of them."""
    cases = [
        b"26",
        "26 mm",
        (26, 27),
        (),
        [26],
        -26.0,
        float("nan"),
        float("inf"),
        10**9,
        1e-6,
        object(),
    ]
    from cus.cameras.exif import focal_length

    for value in cases:
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[Base.FocalLengthIn35mmFilm] = value
        focal, notes = focal_length(exif, 640, 480)
        assert focal is None and len(notes) == 1, value


@pytest.mark.parametrize("ratio", [(0, 0), (5, 0)])
def test_ratios_by_zero_are_ignored_with_a_note(tmp_path, ratio):
    from PIL.TiffImagePlugin import IFDRational

    fields: dict[str, Any] = {"FocalLength": IFDRational(*ratio), "FocalPlaneXResolution": 4000.0}
    photo = photo_with(tmp_path / "a.jpg", **fields)
    assert photo.focal is None and "FocalLength is not a positive number" in photo.notes[0]


def test_an_unknown_unit_gives_no_focal_length(tmp_path):
    plane = {"FocalLength": 5.4, "FocalPlaneXResolution": 4000.0, "FocalPlaneResolutionUnit": 9}
    photo = photo_with(tmp_path / "a.jpg", **plane)
    assert photo.focal is None and "FocalPlaneResolutionUnit" in photo.notes[0]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg", exif=exif)
    photo = inspect_photo(tmp_path / "a.jpg")
    assert (photo.width, photo.height) == (64, 48) == photo.pixels().shape[1::-1]


def test_damaged_exif_leaves_the_pixels_usable(tmp_path):
    for index, exif in enumerate((b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff")):
        path = tmp_path / f"{index}.jpg"
        Image.new("RGB", (64, 48)).save(path, exif=exif)
        photo = inspect_photo(path)
        assert photo.focal is None and photo.pixels().shape == (48, 64, 3)
