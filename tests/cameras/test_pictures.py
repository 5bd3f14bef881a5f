"""Every kind of picture that people have gives its right pixels; see test_refused_pictures.py for the others."""

import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw

from cus.cameras.photos import batch_of, inspect_photo, own_resolution, read_photos, resize, shrink, to_batch
from cus.cameras.pictures import Picture, decode, read_header
from cus.errors import InputError

# Left to right 0 .. 255, top to bottom not at all: a turn, a mirror and a wrong scale all show.
RAMP = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 1))
# EXIF's eight orientations as their definition has them: the row 0 and column 0 of what is stored, seen upright.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: np.rot90(p, -1),
}


def corners() -> np.ndarray:
    """[48, 64, 3] with another colour in each quarter."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return picture


def save_turned(path: Path, orientation: int) -> np.ndarray:
    """Store `corners` with an orientation; the stored pixels."""
    stored = np.ascontiguousarray(STORED[orientation](corners()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    return stored


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_upright_or_left_as_stored(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    stored = save_turned(path, orientation)
    for upright, expected in ((True, corners()), (False, stored)):
        photo = inspect_photo(path, upright)
        pixels = photo.pixels()
        assert (photo.height, photo.width) == pixels.shape[:2] == expected.shape[:2]
        # The middles of the quarters: JPEG and WebP blur the borders.
        close = np.abs(pixels[12::24, 16::32].astype(int) - expected[12::24, 16::32]).max()
        assert close <= (12 if suffix in ("jpg", "webp") else 0)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path, orientation):
    save_turned(tmp_path / "a.png", orientation)
    data = (tmp_path / "a.png").read_bytes()
    start = data.index(b"eXIf") - 4
    length = int.from_bytes(data[start : start + 4], "big") + 12
    end = data.index(b"IEND") - 4
    chunk = data[start : start + length]
    (tmp_path / "b.png").write_bytes(data[:start] + data[start + length : end] + chunk + data[end:])
    photo = inspect_photo(tmp_path / "b.png")
    assert (photo.width, photo.height) == (64, 48)
    assert np.array_equal(photo.pixels(), corners())


def test_sixteen_bits_become_eight_by_257(tmp_path):
    deep = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    right = np.rint(deep / 257)
    for name in ("grey.png", "grey.tif"):
        cv2.imwrite(str(tmp_path / name), deep)
    Image.fromarray(deep).save(tmp_path / "pillow.tif")
    maximum = b"P5 64 48 65535\n"
    (tmp_path / "grey.pgm").write_bytes(maximum + deep.astype(">u2").tobytes())
    for name in ("grey.png", "grey.tif", "pillow.tif", "grey.pgm"):
        assert np.array_equal(decode(tmp_path / name).pixels, np.repeat(right[..., None], 3, axis=2)), name
    colours = np.stack([deep, deep[:, ::-1], deep[::-1]], axis=-1)
    for name in ("rgb.png", "rgb.tif"):
        cv2.imwrite(str(tmp_path / name), colours[..., ::-1])
        difference = decode(tmp_path / name).pixels.astype(int) - np.rint(colours / 257)
        assert np.abs(difference).max() <= 1, name


def test_floating_point_in_0_to_1_is_taken_as_it_is(tmp_path):
    grey = RAMP.astype(np.float32) / 255
    Image.fromarray(grey).save(tmp_path / "grey.tif")
    assert np.array_equal(decode(tmp_path / "grey.tif").pixels[..., 0], RAMP)
    colours = np.stack([grey, grey / 2, 1 - grey], axis=-1)
    cv2.imwrite(str(tmp_path / "rgb.tif"), colours[..., ::-1])
    assert np.array_equal(decode(tmp_path / "rgb.tif").pixels, np.rint(colours * 255))


@pytest.mark.parametrize(("factor", "bits"), [(1, 8), (257, 16)])
def test_thirty_two_bits_are_taken_by_their_range_and_a_note_says_so(tmp_path, factor, bits):
    Image.fromarray(RAMP.astype(np.int32) * factor).save(tmp_path / "a.tif")
    picture = decode(tmp_path / "a.tif")
    assert np.array_equal(picture.pixels[..., 0], RAMP)
    assert any(f"{bits} bits" in note for note in picture.notes)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L with a key", "16 bits with a key", "WebP", "TIFF"])
def test_transparent_pixels_are_white_and_not_valid(tmp_path, kind):
    """The left half is transparent, with a colour of its own below."""
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :32] = 0
    grey = np.where(alpha, 100, 37).astype(np.uint8)
    path = tmp_path / "a.png"
    rgba = Image.fromarray(np.dstack([grey, grey, grey, alpha]))
    if kind == "RGBA":
        rgba.save(path)
    elif kind == "LA":
        rgba.convert("LA").save(path)
    elif kind == "P":
        Image.fromarray(grey).convert("P").save(path, transparency=37)
    elif kind == "L with a key":
        Image.fromarray(grey).save(path, transparency=37)
    elif kind == "16 bits with a key":
        deep = tmp_path / "deep.png"
        Image.fromarray(grey.astype(np.uint16) * 257).save(deep)
        path.write_bytes(with_chunk(deep.read_bytes(), b"tRNS", struct.pack(">H", 37 * 257)))
    else:
        path = tmp_path / f"a.{'webp' if kind == 'WebP' else 'tif'}"
        rgba.save(path, **({"lossless": True, "exact": True} if kind == "WebP" else {}))
    picture = decode(path)
    assert picture.mask is not None and np.array_equal(picture.mask, alpha > 0)
    assert (picture.pixels[:, :32] == 255).all() and (picture.pixels[:, 32:] == 100).all()
    assert any("transparent" in note for note in picture.notes)
    batch = read_photos([inspect_photo(path)], 32)
    assert batch.valid[0, :, :16].sum() == 0 and batch.valid[0, :, 16:].all()
    assert batch.notes == (f"{path.name}: transparent pixels are shown white and count for nothing",)


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk before its pixels."""
    place = png.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:place] + chunk + png[place:]


def test_alpha_that_hides_nothing_leaves_no_mask_and_no_note(tmp_path):
    Image.fromarray(np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)])).save(tmp_path / "a.png")
    picture = decode(tmp_path / "a.png")
    assert picture.mask is None and picture.notes == () and np.array_equal(picture.pixels[..., 0], RAMP)


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    alpha = np.full_like(RAMP, 255)
    alpha[:, 5] = 128
    Image.fromarray(np.dstack([0 * RAMP, 0 * RAMP, 0 * RAMP, alpha])).save(tmp_path / "a.png")
    picture = decode(tmp_path / "a.png")
    assert (picture.pixels[:, 5] == 127).all() and picture.mask is not None and not picture.mask[:, 5].any()


def test_unusual_modes_keep_their_colours(tmp_path):
    Image.fromarray(RAMP > 127).save(tmp_path / "bilevel.png")
    assert np.array_equal(decode(tmp_path / "bilevel.png").pixels[..., 0], np.where(RAMP > 127, 255, 0))
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:] = (200, 40, 90)
    for mode, name, tolerance in (
        ("CMYK", "cmyk.tif", 0),
        ("CMYK", "cmyk.jpg", 3),
        ("YCbCr", "ycc.tif", 3),
        ("P", "p.png", 0),
    ):
        plain = Image.fromarray(colours)
        (plain.quantize(4) if mode == "P" else plain.convert(mode)).save(tmp_path / name)
        picture = decode(tmp_path / name)
        assert np.abs(picture.pixels.astype(int) - colours).max() <= tolerance, name
        assert any("CMYK" in note for note in picture.notes) == (mode == "CMYK")
    lab = ImageCms.applyTransform(
        Image.fromarray(colours),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    assert np.abs(decode(tmp_path / "lab.tif").pixels.astype(int) - colours).max() <= 3


def display_p3() -> bytes:
    """An ICC profile of Display P3 made from sRGB's by changing its primaries (D50-adapted, as Apple's has them)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189)}
    primaries[b"bXYZ"] = (0.15710, 0.06657, 0.78407)
    for index in range(int.from_bytes(profile[128:132], "big")):
        entry = 132 + 12 * index
        name, offset = bytes(profile[entry : entry + 4]), int.from_bytes(profile[entry + 4 : entry + 8], "big")
        if name in primaries:
            values = [round(v * 65536) for v in primaries[name]]
            profile[offset + 8 : offset + 20] = struct.pack(">3i", *values)
    return bytes(profile)


def test_display_p3_of_phones_becomes_srgb(tmp_path):
    """The P3 colour (0.5, 0.8, 0.3) is (0.376, 0.806, 0.206) in sRGB: the two standards' matrices, by hand."""
    p3 = np.array([128, 204, 77]) / 255
    linear = np.where(p3 <= 0.04045, p3 / 12.92, ((p3 + 0.055) / 1.055) ** 2.4)
    to_srgb = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    expected = to_srgb @ linear
    expected = 255 * (1.055 * np.clip(expected, 0, 1) ** (1 / 2.4) - 0.055)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:] = (128, 204, 77)
    Image.fromarray(picture).save(tmp_path / "p3.png", icc_profile=display_p3())
    decoded = decode(tmp_path / "p3.png")
    assert np.abs(decoded.pixels[0, 0] - expected).max() <= 2
    assert any("to sRGB" in note for note in decoded.notes)


def test_a_profile_of_srgb_changes_nothing_and_a_damaged_one_is_noted(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(corners()).save(tmp_path / "a.png", icc_profile=srgb)
    picture = decode(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, corners()) and picture.notes == ()
    Image.fromarray(corners()).save(tmp_path / "b.png", icc_profile=srgb[:200])
    damaged = decode(tmp_path / "b.png")
    assert np.array_equal(damaged.pixels, corners()) and "colour profile is damaged" in damaged.notes[0]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "mpo"])
def test_of_several_pictures_in_a_file_the_first_is_used_with_a_note(tmp_path, suffix):
    first, second = Image.fromarray(corners()), Image.fromarray(255 - corners())
    path = tmp_path / f"a.{suffix}"
    options = {"webp": {"lossless": True}}.get(suffix, {})
    first.save(path, save_all=True, append_images=[second], **options)
    picture = decode(path)
    assert np.abs(picture.pixels[12::24, 16::32].astype(int) - corners()[12::24, 16::32]).max() <= 12
    assert "the first of several pictures in the file is used" in picture.notes


def test_heic_is_read_upright_where_its_package_is_there(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(corners())).save(tmp_path / "a.heic", quality=90)
    photo = inspect_photo(tmp_path / "a.heic")
    assert (photo.width, photo.height) == (64, 48)
    assert np.abs(photo.pixels()[12::24, 16::32].astype(int) - corners()[12::24, 16::32]).max() <= 12


def test_heic_without_its_package_names_the_extra_and_the_commands(tmp_path, monkeypatch):
    path = tmp_path / "my photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("cus.cameras.picture_kinds.find_spec", lambda name: None)
    with pytest.raises(InputError) as refused:
        inspect_photo(path)
    assert "closeupshot[heic]" in str(refused.value)
    assert f"heif-convert '{path}' '{path.with_suffix('')}'.jpg" in str(refused.value)


def test_shrinking_in_bands_is_shrinking_at_once():
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (1501, 2003, 3), dtype=np.uint8)
    for size in ((512, 384), (2003, 1501), (1000, 1501), (501, 375)):
        whole = resize(pixels.astype(np.float32) / 255, *size)
        assert np.abs(shrink(pixels, *size) - whole).max() < 1e-5, size


def test_only_one_picture_is_held_at_full_size():
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self):
            alive.append(-1)

    def pictures():
        for _ in range(4):
            alive.append(1)
            yield Picture(np.zeros((64, 64, 3), np.uint8).view(Counted), None)
            assert sum(alive) <= 1, "the one before is freed first"

    assert batch_of(pictures(), 32, 32).images.shape == (4, 3, 32, 32)


def test_the_notes_of_many_photographs_are_one_line_a_kind(tmp_path):
    for index in range(5):
        Image.fromarray(np.dstack([RAMP, RAMP, RAMP, RAMP])).save(tmp_path / f"{index}.png")
    batch = read_photos([inspect_photo(tmp_path / f"{index}.png") for index in range(5)], 32)
    assert len(batch.notes) == 1 and batch.notes[0].startswith("0.png, 1.png, 2.png and 2 more: transparent")


def test_a_header_speaks_of_the_stored_pixels(tmp_path):
    save_turned(tmp_path / "a.tif", 6)
    header = read_header(tmp_path / "a.tif")
    assert (header.width, header.height, header.orientation) == (48, 64, 6)
    assert header.size(upright=True) == (64, 48)


def test_text_over_a_photograph_changes_nothing_else(tmp_path):
    """Pillow's own way of reading plain pictures is ours."""
    image = Image.fromarray(corners())
    ImageDraw.Draw(image).text((3, 3), "a", fill=(9, 8, 7))
    image.save(tmp_path / "a.jpg", quality=95)
    assert np.array_equal(decode(tmp_path / "a.jpg").pixels, np.asarray(Image.open(tmp_path / "a.jpg")))


def test_a_photograph_at_its_own_resolution_covers_the_same_part_of_the_padded_batch():
    generator = np.random.default_rng(0)
    wide, tall = (generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((60, 120), (120, 60)))
    batch = to_batch([wide, tall], [None, None], 40, 40)
    for picture, scales, image in zip((wide, tall), batch.scales, batch.images, strict=True):
        large = own_resolution(picture, scales, 40, 40, 1000)
        assert large.shape == (3, 120, 120)
        assert torch.equal(large[:, : picture.shape[0], : picture.shape[1]], torch.from_numpy(picture).permute(2, 0, 1))
        shrunk = torch.nn.functional.avg_pool2d(large[None].float() / 255, 3)[0]
        torch.testing.assert_close(shrunk, image, rtol=0, atol=1e-2)
        assert own_resolution(picture, scales, 40, 40, 60).shape == (3, 60, 60)
