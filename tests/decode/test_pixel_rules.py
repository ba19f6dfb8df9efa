"""The rules by which other pixels become height × width × 3 of 8 bits, and what is refused."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from vecstore.decode import content_hash, frames, thumbnail
from vecstore.decode.quiet import quiet
from vecstore.decode.scaling import to_eight_bits
from vecstore.errors import PictureError
from vecstore.records import DecodeRule, UInt8Array

Decode = Callable[..., UInt8Array]
RULE = DecodeRule()


def tiff(values: Any, **options: Any) -> bytes:
    """A TIFF with these values, by tifffile."""
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: Any) -> bytes:
    """A PNG of any depth and colour type; Pillow does not write 16-bit colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + np.asarray(row, ">u2").tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# ---- scaling


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4", "f8"])
def test_scaling_is_linear_from_smallest_to_largest_and_rounds(dtype: str) -> None:
    values = np.array([[10, 20, 110]], dtype=dtype)
    assert to_eight_bits(values).tolist() == [[0, 26, 255]]  # 25.5 rounds to the even 26


def test_scaling_of_wide_integers_equals_that_of_floats() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(-(2**31), 2**31 - 1, size=(50, 50), dtype=np.int32)
    assert np.array_equal(to_eight_bits(values), to_eight_bits(values.astype(np.float64)))


def test_constant_and_not_finite_values_become_black() -> None:
    assert to_eight_bits(np.full((2, 2), 7, np.uint16)).tolist() == [[0, 0], [0, 0]]
    assert to_eight_bits(np.full((1, 2), np.nan)).tolist() == [[0, 0]]
    odd = np.array([[np.nan, np.inf, -np.inf, 1.0, 3.0]])
    assert to_eight_bits(odd).tolist() == [[0, 0, 0, 0, 255]]


def test_values_whose_span_is_beyond_a_double_are_scaled() -> None:
    assert to_eight_bits(np.array([-1.7e308, 0.0, 1.7e308])).tolist() == [0, 128, 255]


# ---- arrays


def test_arrays_become_pictures(picture: Decode) -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(picture(gray), np.repeat(gray[:, :, None], 3, axis=2))
    colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert np.array_equal(picture(colour), colour)
    assert picture(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    assert picture(np.array([[0, 500, 1000]], np.uint16))[0, :, 0].tolist() == [0, 128, 255]
    assert picture(np.array([[0.0, 0.25, 1.0]]))[0, :, 0].tolist() == [0, 64, 255]


def test_the_picture_is_not_the_array_itself(picture: Decode) -> None:
    colour = np.zeros((2, 2, 3), np.uint8)
    picture(colour)[:] = 9
    assert not colour.any()


@pytest.mark.parametrize(
    "values",
    [np.zeros(4, np.uint8), np.zeros((2, 2, 5), np.uint8), np.zeros((2, 2, 2, 3)), np.array([["a"]])],
)
def test_arrays_of_other_shapes_are_refused(values: Any) -> None:
    with pytest.raises(PictureError, match=r"height × width"):
        list(frames(values, RULE))


def test_an_empty_array_is_refused() -> None:
    with pytest.raises(PictureError, match=r"5 × 0 pixels; expected at least one pixel"):
        list(frames(np.zeros((0, 5), np.uint8), RULE))


# ---- files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_in_every_format(
    picture: Decode, gradient: Image.Image, kind: str, orientation: int
) -> None:
    upright = np.asarray(gradient)
    # How the pixels have to lie in the file so that the orientation turns them upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 98} if kind == "JPEG" else {}
    if kind == "WEBP":
        options["lossless"] = True
    if kind == "TIFF":
        options = {"tiffinfo": {0x0112: orientation}}
    else:
        options["exif"] = exif
    got = picture(Image.fromarray(np.ascontiguousarray(stored)), kind, **options)
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).mean() < 3


def test_damaged_exif_does_not_cost_the_picture(picture: Decode, gradient: Image.Image) -> None:
    got = picture(gradient, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=98)
    assert np.abs(got.astype(int) - np.asarray(gradient)).mean() < 3


def test_lossless_files_keep_every_pixel(picture: Decode, gradient: Image.Image) -> None:
    expected = np.asarray(gradient)
    for kind in ("PNG", "BMP", "TIFF", "PPM", "TGA", "SGI", "GIF"):
        got = picture(gradient.quantize(64) if kind == "GIF" else gradient, kind)
        limit = 8 if kind == "GIF" else 0
        assert np.abs(got.astype(int) - expected).mean() <= limit, kind


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_half_transparent_pixels_are_half_as_bright(picture: Decode, mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (200, 200, 200, 255))
    image.putalpha(Image.fromarray(np.array([[0, 128, 255]], np.uint8)))
    got = picture(image.convert(mode), "PNG")
    assert got[0, :, 0].tolist() == [0, 100, 200]


def test_alpha_that_is_multiplied_in_already_is_not_applied_twice(picture: Decode) -> None:
    values = np.array([[[200, 255], [100, 128]]], np.uint8)
    data = tiff(values, photometric="minisblack", extrasamples=["assocalpha"], planarconfig="contig")
    assert picture(data)[0, :, 0].tolist() == [200, 100]


def test_a_transparent_colour_of_a_png_without_alpha_becomes_black(picture: Decode) -> None:
    image = Image.fromarray(np.array([[10, 200]], np.uint8))
    assert picture(image, "PNG", transparency=200)[0, :, 0].tolist() == [10, 0]


def test_colour_tiff_of_16_bits_keeps_its_low_values(picture: Decode) -> None:
    values = np.arange(4 * 5 * 3, dtype=np.uint16).reshape(4, 5, 3)
    got = picture(tiff(values, photometric="rgb"))
    assert np.array_equal(got, to_eight_bits(values))
    planes = np.ascontiguousarray(np.moveaxis(values, 2, 0))
    assert np.array_equal(picture(tiff(planes, photometric="rgb", planarconfig="separate")), got)


def test_alpha_of_a_16_bit_tiff_is_composited_on_black(picture: Decode) -> None:
    values = np.zeros((1, 3, 4), np.uint16)
    values[0, :, 0] = [0, 1000, 1000]
    values[0, :, 3] = [65535, 65535, 0]
    got = picture(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))
    assert got[0, :, 0].tolist() == [0, 255, 0]


def test_tiffs_that_only_tifffile_reads_are_scaled_too(picture: Decode) -> None:
    values = np.linspace(-3, 7, 20).reshape(4, 5)
    assert np.array_equal(picture(tiff(values)), np.repeat(to_eight_bits(values)[:, :, None], 3, 2))
    unsigned = (np.arange(20, dtype=np.uint32) * 200_000_000).reshape(4, 5)
    assert picture(tiff(unsigned))[0, 0].tolist() == [0, 0, 0]
    assert picture(tiff(unsigned))[3, 4].tolist() == [255, 255, 255]


def test_a_tiff_whose_white_is_zero_is_inverted(picture: Decode) -> None:
    values = np.array([[0, 100, 1000]], np.uint16)
    assert picture(tiff(values, photometric="miniswhite"))[0, :, 0].tolist() == [255, 229, 0]
    floats = values.astype(np.float64)
    assert picture(tiff(floats, photometric="miniswhite"))[0, :, 0].tolist() == [255, 229, 0]


def test_pages_are_decoded_one_at_a_time() -> None:
    pages = (np.arange(3 * 8 * 8) % 251).astype(np.uint8).reshape(3, 8, 8)
    good = tiff(pages, photometric="minisblack")
    found = frames(good, DecodeRule(frames="all"))
    first = next(found)
    assert first.number == 1
    assert [frame.number for frame in found] == [2, 3]


def test_a_16_bit_colour_png_that_would_turn_black_is_refused(picture: Decode) -> None:
    with pytest.raises(PictureError, match=r"16-bit colour PNG that uses only the lowest bits"):
        picture(png(4, 4, 16, 2, np.full((4, 12), 4095)))  # 12-bit values: Pillow keeps 15 of them
    assert picture(png(4, 4, 16, 2, np.full((4, 12), 65535))).min() == 255


# ---- what is refused


def test_a_picture_beyond_max_pixels_is_refused_by_its_header(picture: Decode, gradient: Image.Image) -> None:
    for kind in ("PNG", "JPEG", "TIFF", "GIF"):
        with pytest.raises(PictureError, match=r"48 × 32 pixels.*at most 1,535 pixels"):
            picture(gradient, kind, rule=DecodeRule(max_pixels=1535))
    assert picture(gradient, "PNG", rule=DecodeRule(max_pixels=1536)).shape == (32, 48, 3)
    with pytest.raises(PictureError, match="more than a picture may have"):
        picture(np.zeros((40, 40), np.uint8), rule=DecodeRule(max_pixels=1599))


def test_a_header_that_announces_a_bomb_is_refused_at_once(picture: Decode) -> None:
    for side in (12_000, 60_000):  # below and above what Pillow itself opens
        data = png(side, side, 8, 0, [])
        with pytest.raises(PictureError, match=r"more pixels than Pillow opens|pixels, more than"):
            picture(data, rule=DecodeRule(max_pixels=100_000_000))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04" + b"\0" * 40, "zip content, not a picture"),
        (b"\x1f\x8b" + b"\0" * 40, "gzip content, not a picture"),
        (b"<?xml version='1.0'?><svg/>", "XML or SVG"),
        (b"\xef\xbb\xbf<HTML><body>", "an HTML page"),
        ("Überschrift\n".encode() * 100, "text, not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "begins like PNG, but its header is damaged"),
        (bytes(range(130, 250)), "not a known picture format (first bytes: 82 83 84"),
        (b"II*\x00" + b"\xff" * 40, "a TIFF without any page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\xff\xfe", "not a known picture format"),
    ],
)
def test_other_content_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError) as refused:
        list(frames(data, RULE))
    assert reason in str(refused.value)


def test_a_cut_file_of_every_format_is_a_failure(gradient: Image.Image) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000"):
        out = io.BytesIO()
        noise.save(out, kind)
        with pytest.raises(PictureError):
            list(frames(out.getvalue()[: len(out.getvalue()) // 2], RULE))


# ---- identity and thumbnails


def test_content_is_pixels_and_shape_and_nothing_else() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert len(content_hash(picture)) == 16
    assert content_hash(picture) == content_hash(picture.copy())
    assert content_hash(picture) != content_hash(picture.reshape(4, 2, 3))
    assert content_hash(picture[:, ::-1]) == content_hash(np.ascontiguousarray(picture[:, ::-1]))
    assert content_hash(picture[:, ::-1]) != content_hash(picture)


def test_a_thumbnail_is_a_jpeg_that_is_never_enlarged() -> None:
    def size(height: int, width: int, side: int = 160) -> tuple[int, int]:
        data = thumbnail(np.full((height, width, 3), 90, np.uint8), side)
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            assert abs(float(np.asarray(image).mean()) - 90) < 2
            return image.size

    assert size(320, 640) == (160, 80)
    assert size(50, 40) == (40, 50)
    assert size(4, 512) == (160, 1)
    assert size(100, 100, side=32) == (32, 32)


# ---- silence


def test_remarks_of_the_libraries_do_not_leak_and_others_warnings_do() -> None:
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", stacklevel=1)
    with quiet():
        warnings.warn("theirs", stacklevel=1)
    with pytest.raises(UserWarning, match="ours again"):
        warnings.warn("ours again", stacklevel=1)


def test_silence_holds_in_the_decoding_thread_only() -> None:
    inside, done = threading.Event(), threading.Event()

    def decode() -> None:
        with quiet():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=decode)
    thread.start()
    assert inside.wait(10)
    try:
        with pytest.raises(UserWarning, match="from the other"):
            warnings.warn("from the other", stacklevel=1)
    finally:
        done.set()
        thread.join()


def test_the_caller_is_not_silenced_between_two_frames() -> None:
    pages = np.zeros((2, 4, 4), np.uint8)
    for _ in frames(tiff(pages, photometric="minisblack"), DecodeRule(frames="all")):
        with pytest.raises(UserWarning, match="between"):
            warnings.warn("between", stacklevel=1)
