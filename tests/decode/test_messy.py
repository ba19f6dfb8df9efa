"""Every odd file of the shared set: its size and content, or the reason why it has none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vecstore.decode import content_hash, frames
from vecstore.decode.scaling import to_eight_bits
from vecstore.errors import PictureError
from vecstore.records import DecodeRule, UInt8Array

# file -> (height, width, frames in all) or a part of the reason
CASES: dict[str, tuple[int, int, int] | str] = {
    "plain.jpg": (256, 256, 1),
    "truncated.jpg": "cut short: the JPEG data end before the picture is complete; copy it again",
    "damaged.jpg": (256, 256, 1),
    "cmyk.jpg": (256, 256, 1),
    "progressive.jpg": (256, 256, 1),
    "gray.jpg": (256, 572, 1),
    "exif_rotate6.jpg": (572, 192, 1),
    "exif_mirror2.jpg": (256, 256, 1),
    "gray16.png": (256, 256, 1),
    "gray16_full.png": (256, 256, 1),
    "interlaced.png": (256, 572, 1),
    "rgba.png": (128, 128, 1),
    "la.png": (128, 128, 1),
    "palette_transparent.png": (128, 128, 1),
    "bilevel.png": (128, 128, 1),
    "one_pixel.png": (1, 1, 1),
    "strip.png": (4, 512, 1),
    "animated.gif": (120, 160, 6),
    "multipage.tiff": (192, 192, 4),
    "float32.tif": (128, 128, 1),
    "pgm16.pgm": (64, 64, 1),
    "text.jpg": "text, not a picture",
    "error_page.png": "an HTML page, not a picture",
    "lfs_pointer.jpg": "a Git LFS pointer, not the picture; run: git lfs pull",
    "empty.jpg": "the file is empty",
    "png_inside.jpg": (160, 160, 1),
    "UPPER.JPG": (256, 256, 1),
    "no_extension": (256, 256, 1),
    "two.dots.v1.jpeg": (256, 256, 1),
    "with space (1).jpg": (256, 256, 1),
    "röntgen.jpg": (256, 572, 1),
    "same_stem.jpg": (256, 572, 1),
    "same_stem.png": (128, 128, 1),
    "._plain.jpg": "an AppleDouble side file of macOS",
    "no_metadata.dcm": "not a known picture format (first bytes: 20 08 00 05",
}


@pytest.fixture(scope="module")
def pictures(shared: Path) -> dict[str, UInt8Array]:
    """The first picture of each messy file that has one."""
    found = {}
    for name, expected in CASES.items():
        if not isinstance(expected, str):
            found[name] = next(frames((shared / "messy" / name).read_bytes(), DecodeRule())).picture
    return found


def difference(a: UInt8Array, b: UInt8Array) -> float:
    """Mean absolute difference in gray levels."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


def test_the_table_covers_every_case_and_agrees_with_it(shared: Path) -> None:
    with (shared / "messy" / "cases.csv").open(encoding="utf-8", newline="") as file:
        said = {row["file"]: row["decodes"] for row in csv.DictReader(file)}
    assert said.keys() == CASES.keys()
    # "damaged" is neither: libjpeg paints it and only warns.
    assert {f for f, d in said.items() if d == "no"} == {f for f, e in CASES.items() if isinstance(e, str)}


@pytest.mark.parametrize("name", CASES)
def test_each_file_has_its_pictures_or_its_reason(shared: Path, name: str) -> None:
    expected = CASES[name]
    data = (shared / "messy" / name).read_bytes()
    if isinstance(expected, str):
        with pytest.raises(PictureError) as refused:
            list(frames(data, DecodeRule()))
        assert expected in str(refused.value)
        return
    height, width, count = expected
    every = list(frames(data, DecodeRule(frames="all")))
    assert [frame.picture.shape for frame in every] == [(height, width, 3)] * count
    assert [frame.number for frame in every] == (list(range(1, count + 1)) if count > 1 else [None])
    assert all(frame.picture.dtype == np.uint8 and frame.picture.flags.writeable for frame in every)
    first = list(frames(data, DecodeRule()))
    assert len(first) == 1
    assert first[0].number is None
    assert np.array_equal(first[0].picture, every[0].picture)


@pytest.mark.parametrize("name", ["UPPER.JPG", "no_extension", "two.dots.v1.jpeg", "with space (1).jpg"])
def test_one_picture_under_four_names_has_one_content(pictures: dict[str, UInt8Array], name: str) -> None:
    assert content_hash(pictures[name]) == content_hash(pictures["plain.jpg"])


@pytest.mark.parametrize(("name", "limit"), [("cmyk.jpg", 0.5), ("progressive.jpg", 0.5)])
def test_other_codings_look_like_the_plain_one(pictures: dict[str, UInt8Array], name: str, limit: float) -> None:
    assert difference(pictures[name], pictures["plain.jpg"]) < limit


def test_a_mirrored_picture_is_mirrored_back(pictures: dict[str, UInt8Array]) -> None:
    plain, mirrored = pictures["plain.jpg"], pictures["exif_mirror2.jpg"]
    assert difference(mirrored[:, ::-1], plain) < 0.5
    assert difference(mirrored, plain) > 4


def test_a_rotated_picture_stands_upright(shared: Path, pictures: dict[str, UInt8Array]) -> None:
    with Image.open(shared / "messy" / "exif_rotate6.jpg") as stored:
        pixels = np.asarray(stored.convert("RGB"))
    # Orientation 6: the stored picture has to be turned by 90° clockwise.
    assert np.array_equal(pictures["exif_rotate6.jpg"], np.rot90(pixels, -1))


def test_sixteen_bits_and_floats_follow_one_rule(shared: Path, pictures: dict[str, UInt8Array]) -> None:
    gray16, full = pictures["gray16.png"], pictures["gray16_full.png"]
    assert (gray16.min(), gray16.max()) == (0, 255)
    assert np.abs(gray16.astype(int) - full).max() <= 1
    with Image.open(shared / "messy" / "gray16.png") as image:
        values = np.asarray(image)
    # The other two are every second and every fourth pixel of the same slice.
    assert np.array_equal(pictures["pgm16.pgm"][..., 0], to_eight_bits(values[::4, ::4]))
    assert np.array_equal(pictures["float32.tif"][..., 0], to_eight_bits(values[::2, ::2]))


def test_gray_pictures_have_three_equal_channels(pictures: dict[str, UInt8Array]) -> None:
    for name in ("gray.jpg", "la.png", "bilevel.png", "gray16.png", "strip.png", "pgm16.pgm"):
        picture = pictures[name]
        assert np.array_equal(picture[..., 0], picture[..., 1])
        assert np.array_equal(picture[..., 0], picture[..., 2])
    assert set(np.unique(pictures["bilevel.png"])) == {0, 255}
    assert pictures["one_pixel.png"].tolist() == [[[128, 128, 128]]]


def test_transparent_parts_become_black(shared: Path, pictures: dict[str, UInt8Array]) -> None:
    for name in ("rgba.png", "palette_transparent.png"):
        with Image.open(shared / "messy" / name) as image:
            rgba = np.asarray(image.convert("RGBA"))
        picture = pictures[name]
        assert not picture[rgba[..., 3] == 0].any()
        opaque = rgba[..., 3] == 255
        assert np.array_equal(picture[opaque], rgba[opaque][:, :3])
        assert (rgba[..., 3] < 255).any()


def test_interlaced_and_misnamed_files_are_read_by_their_content(pictures: dict[str, UInt8Array]) -> None:
    assert difference(pictures["interlaced.png"], pictures["gray.jpg"]) < 2
    assert pictures["png_inside.jpg"].max() == 186
    assert content_hash(pictures["röntgen.jpg"]) == content_hash(pictures["same_stem.jpg"])
    assert pictures["same_stem.png"].shape != pictures["same_stem.jpg"].shape


def test_a_damaged_jpeg_is_taken_as_libjpeg_paints_it(pictures: dict[str, UInt8Array]) -> None:
    """Not detectable through Pillow: sound above the damage, wrong from there on."""
    damaged, plain = pictures["damaged.jpg"], pictures["plain.jpg"]
    assert np.array_equal(damaged[:104], plain[:104])
    assert difference(damaged[112:], plain[112:]) > 10
