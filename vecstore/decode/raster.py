"""PNG, JPEG, TIFF and the like: Pillow, and tifffile for what Pillow reads with loss or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageFile, UnidentifiedImageError, features

from vecstore.decode.scaling import as_rgb, check_size, to_eight_bits
from vecstore.errors import PictureError
from vecstore.records import DecodeRule, Frame, UInt8Array

# Only formats that may hold a picture of an archive; never EPS, which starts an interpreter.
_FORMATS = {
    "jpeg": ["JPEG"],
    "png": ["PNG"],
    "gif": ["GIF"],
    "tiff": ["TIFF"],
    "bmp": ["BMP"],
    "webp": ["WEBP"],
    "jp2": ["JPEG2000"],
    "avif": ["AVIF"],
    "pnm": ["PPM"],
    "other": ["ICO", "SGI", "SUN", "TGA"],
}
# Not MPO: what follows the first picture of a phone's JPEG is a preview or a gain map.
_WITH_FRAMES = frozenset({"GIF", "TIFF", "PNG", "WEBP", "AVIF"})
_SCALED_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339


def frames(data: bytes, kind: str, rule: DecodeRule) -> Iterator[Frame]:
    """Decode the first or all frames of a raster file.

    Parameters
    ----------
    data : bytes
    kind : str
        As `files.sniff` says, or "other".
    rule : DecodeRule

    Yields
    ------
    Frame

    Raises
    ------
    PictureError
        Not decodable; other exceptions of the libraries are turned into it by the caller.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS[kind])
    except UnidentifiedImageError:
        if kind == "tiff":
            yield from _by_tifffile(data, rule)
            return
        raise _unknown(data, kind) from None
    except Image.DecompressionBombError as error:
        raise PictureError(
            "more pixels than Pillow opens",
            f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,}",
            "reduce it, or convert it to a tiled format",
        ) from error
    with image:
        if kind == "tiff" and _deep_colour(image):
            yield from _by_tifffile(data, rule)
        else:
            yield from _by_pillow(image, data, kind, rule)


def _unknown(data: bytes, kind: str) -> PictureError:
    if kind == "other":
        return PictureError(
            f"not a known picture format (first bytes: {data[:8].hex(' ')})",
            "JPEG, PNG, TIFF, GIF, BMP, WebP, JPEG 2000, AVIF, PGM/PPM or DICOM",
        )
    return PictureError(f"begins like {kind.upper()}, but its header is damaged", do="copy it again")


def _by_pillow(image: ImageFile.ImageFile, data: bytes, kind: str, rule: DecodeRule) -> Iterator[Frame]:
    check_size(*image.size, rule.max_pixels)
    count = 1
    if rule.frames == "all" and image.format in _WITH_FRAMES:
        count = getattr(image, "n_frames", 1)
    for index in range(count):
        if index:
            image.seek(index)
            check_size(*image.size, rule.max_pixels)
        _load(image)
        picture = _picture(image)
        if kind == "png" and _deep_png(data) and int(picture.max()) < 16:
            raise PictureError(
                "a 16-bit colour PNG that uses only the lowest bits; the picture would be black",
                "values over the full 16 bits",
                "convert it to 8 bits or to TIFF",
            )
        yield Frame(index + 1 if count > 1 else None, picture, {}, _decoder(image.format or ""))


def _load(image: ImageFile.ImageFile) -> None:
    try:
        image.load()
    except OSError as error:
        text = str(error)
        if "truncated" in text or "unexpected end" in text.lower():
            raise PictureError(
                f"cut short: the {image.format} data end before the picture is complete", do="copy it again"
            ) from error
        raise PictureError(f"damaged {image.format} data: {text}", do="copy it again") from error


def _picture(image: Image.Image) -> UInt8Array:
    # Before the turn: `transpose` makes an image that knows nothing of its file.
    white_is_zero = image.mode in _SCALED_MODES and _tag(image, _PHOTOMETRIC) == 0
    # Pillow's only 32-bit integers are signed; it keeps the bits of others as they are.
    unsigned = image.mode == "I" and _tag(image, _BITS) == (32,) and _tag(image, _SAMPLE_FORMAT) in (None, (1,))
    turn = _TURN.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in _SCALED_MODES:
        values = np.asarray(image)
        gray = to_eight_bits(values.view(np.uint32) if unsigned else values)
        return as_rgb(255 - gray if white_is_zero else gray)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "La", "PA", "RGBa"):
        if image.mode == "La":
            image = image.convert("LA")  # Pillow has no direct way
        return as_rgb(np.asarray(image.convert("RGBA")))
    if image.mode in ("1", "L"):
        return as_rgb(np.asarray(image.convert("L")))
    return as_rgb(np.asarray(image.convert("RGB")))


def _tag(image: Image.Image, number: int) -> Any:
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(number)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; Pillow itself applies that of a TIFF and then removes it."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Damaged EXIF around a sound picture; its readers raise whatever they stumble over.
        return 1


def _deep_colour(image: Image.Image) -> bool:
    """Whether a TIFF has colour (or alpha) of more than 8 bits, of which Pillow keeps the high byte."""
    bits = _tag(image, _BITS) or (1,)
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _deep_png(data: bytes) -> bool:
    """Whether a PNG has 16-bit channels of which Pillow keeps the high byte: all but plain gray."""
    return data[24] == 16 and data[25] != 0


def _by_tifffile(data: bytes, rule: DecodeRule) -> Iterator[Frame]:
    import tifffile  # a third of a second; only TIFFs that Pillow can't read need it

    try:
        file = tifffile.TiffFile(io.BytesIO(data))
    except tifffile.TiffFileError as error:
        raise PictureError(f"damaged TIFF: {error}", do="copy it again") from error
    with file:
        if not len(file.pages):
            raise PictureError("a TIFF without any page", do="copy it again")
        count = len(file.pages) if rule.frames == "all" else 1
        for index in range(count):
            page = file.pages[index]
            check_size(page.imagewidth, page.imagelength, rule.max_pixels)
            picture = _tiff_page(page)
            yield Frame(index + 1 if count > 1 else None, picture, {}, f"tifffile {tifffile.__version__}")


def _tiff_page(page: Any) -> UInt8Array:
    try:
        values = page.asarray()
    except (ValueError, ImportError) as error:
        if "imagecodecs" in str(error):
            raise PictureError(
                f"TIFF with {page.compression.name} compression",
                "the package imagecodecs",
                "run: pip install imagecodecs",
            ) from error
        raise
    if page.planarconfig == 2 and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3):
        raise PictureError(f"TIFF with values of type {values.dtype} and shape {values.shape}")
    pixels = _scaled_channels(values)
    if page.photometric == 0:
        pixels = 255 - pixels
    return _turned(as_rgb(pixels), int(page.tags.valueof(_ORIENTATION, default=1)))


def _scaled_channels(values: npt.NDArray[Any]) -> UInt8Array:
    """8 bits by one scale for all colour channels; alpha by its type's range."""
    if values.dtype == np.uint8:
        return values
    if values.ndim == 2 or values.shape[2] != 4:
        return to_eight_bits(values)
    top = float(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else 1.0
    return np.concatenate([to_eight_bits(values[..., :3]), to_eight_bits(values[..., 3:], 0.0, top)], axis=2)


def _turned(picture: UInt8Array, orientation: int) -> UInt8Array:
    turn = _TURN.get(orientation)
    return picture if turn is None else np.array(Image.fromarray(picture).transpose(turn))


@lru_cache(maxsize=32)
def _decoder(name: str) -> str:
    library = {"JPEG": "libjpeg_turbo", "MPO": "libjpeg_turbo", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(name)
    version = features.version(library) if library else None
    return f"Pillow {PIL.__version__}" + (f", {library} {version}" if version else "")


def thumbnail(picture: UInt8Array, side: int) -> bytes:
    """A JPEG of quality 80 whose longest side is at most `side`; see `decode.thumbnail`."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
