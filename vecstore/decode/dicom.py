"""DICOM files: from stored values to a picture as a viewer shows it.

In this order: modality LUT or rescale; the first VOI LUT or window (of the frame, else shared by
all frames, else of the file), else the values' range without padding; MONOCHROME1 inverted.
Palettes are expanded, YBR becomes RGB. Grayscale that is 8-bit (or 1-bit) by itself, without
rescale and window, is shown as it is: as the same values in a PNG would be.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata as packages
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from vecstore.decode.dicom_metadata import metadata
from vecstore.decode.scaling import as_rgb, check_size, to_eight_bits
from vecstore.errors import PictureError
from vecstore.records import DecodeRule, Frame, UInt8Array

Values = npt.NDArray[Any]

# One order whatever else is installed, so that a file gives the same pixels everywhere. For lossy
# syntaxes the first is a package that vecstore requires; of the others all decode to equal values.
_ORDER = ("pylibjpeg", "pyjpegls", "gdcm", "pillow", "pydicom")
_ORDERS = {
    uid.JPEGBaseline8Bit: ("pillow", "pylibjpeg", "gdcm"),
    uid.JPEGExtended12Bit: ("pillow", "pylibjpeg", "gdcm"),
}
_PACKAGES = {"pillow": "pillow", "pyjpegls": "pyjpegls", "gdcm": "python-gdcm", "pydicom": "pydicom"}
_LIBJPEG = "pylibjpeg-libjpeg"
_DEFLATED = str(uid.DeflatedExplicitVRLittleEndian).encode()
_META_BYTES = 1 << 16
"""Within which the file meta information names the transfer syntax."""
_MAX_INFLATED = 1 << 30
_PIECE = 1 << 16
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def frames(data: bytes, kind: str, rule: DecodeRule) -> Iterator[Frame]:
    """Decode the first or all frames of a DICOM file.

    Parameters
    ----------
    data : bytes
    kind : str
        Always "dicom".
    rule : DecodeRule

    Yields
    ------
    Frame
        With the allowed keywords of the header as metadata.

    Raises
    ------
    PictureError
        No pixels, damaged, or compressed in a way that no installed package decodes; other
        exceptions of pydicom are turned into it by the caller.
    """
    _check_inflated(data, min(4 * rule.max_pixels, _MAX_INFLATED))
    dataset = _read(data)
    _check_pixels(dataset, rule)
    known = metadata(dataset)
    count = _number_of_frames(dataset)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    plugins = _plugins(decoder)
    for index in range(count if rule.frames == "all" else 1):
        values, photometric, by = _decoded(decoder, dataset, index, plugins)
        picture = _picture(values, photometric, dataset, index, rule)
        number = index + 1 if rule.frames == "all" and count > 1 else None
        yield Frame(number, picture, known, by)


def _check_inflated(data: bytes, limit: int) -> None:
    """Refuse a deflated file that becomes too large, before pydicom inflates it whole."""
    if data[128:132] != b"DICM" or _DEFLATED not in data[132:_META_BYTES]:
        return
    stream = io.BytesIO(data)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while (piece := stream.read(_PIECE)) and not inflater.eof:
        while piece and total <= limit:
            total += len(inflater.decompress(piece, _PIECE << 4))
            piece = inflater.unconsumed_tail
    if total > limit:
        raise PictureError(
            f"a deflated DICOM file that inflates beyond {limit:,} bytes", "a smaller one", "store it undeflated"
        )


def _read(data: bytes) -> Dataset:
    bare = data[128:132] != b"DICM"
    dataset = pydicom.dcmread(io.BytesIO(data), force=bare)
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        dataset.file_meta = meta = FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        if implicit:
            meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        else:
            meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    return cast(Dataset, dataset)


def _check_pixels(dataset: Dataset, rule: DecodeRule) -> None:
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not any(keyword in dataset for keyword in _PIXELS):
        modality = dataset.get("Modality") or "not given"
        if rows and columns:
            raise PictureError(
                f"no pixel data (Modality {modality}), though the header announces {columns} × {rows}",
                do="the file is probably cut short: copy it again",
            )
        if not len(dataset):
            raise PictureError("a DICOM file without any readable element", do="copy it again")
        raise PictureError(f"no pixel data (Modality {modality})")
    if not (isinstance(rows, int) and isinstance(columns, int)):
        raise PictureError("pixel data without Rows and Columns", "both in the header")
    check_size(columns, rows, rule.max_pixels)


def _number_of_frames(dataset: Dataset) -> int:
    try:
        count = dataset.get("NumberOfFrames")
        return max(1, int(count or 1))
    except (TypeError, ValueError, OverflowError) as error:
        raise PictureError(f"NumberOfFrames can't be read: {error}", "a whole number") from error


def _plugins(decoder: Decoder) -> tuple[str, ...]:
    """Decoders of this transfer syntax in our order; () for values that are not compressed."""
    if decoder.is_native:
        return ("",)
    order = _ORDERS.get(decoder.UID, _ORDER)
    usable = tuple(name for name in order if name in decoder.available_plugins)
    if not usable:
        raise _nothing_decodes(decoder.UID)
    return usable


def _nothing_decodes(syntax: uid.UID) -> PictureError:
    if "2000" in syntax.name:
        return PictureError(
            f"compressed as {syntax.name}", "the package pylibjpeg-openjpeg", "run: pip install pylibjpeg-openjpeg"
        )
    return PictureError(
        f"compressed as {syntax.name}, which needs a package that is not installed",
        f"{_LIBJPEG} (GPL-3.0)",
        "run: pip install 'vecstore[gpl]'",
    )


def _decoded(decoder: Decoder, dataset: Dataset, index: int, plugins: tuple[str, ...]) -> tuple[Values, str, str]:
    """Values of one frame, their photometric interpretation, and who decoded them."""
    reasons = []
    for plugin in plugins:
        try:
            values, properties = decoder.as_array(dataset, index=index, decoding_plugin=plugin)
            return values, str(properties["photometric_interpretation"]), _version(plugin, decoder.UID)
        except Exception as error:
            reasons.append(_reason(error))
    # What a plug-in says that can't do this kind at all is of no use beside what another found.
    about_the_file = [reason for reason in reasons if "does not support" not in reason]
    if not about_the_file and "pylibjpeg" not in decoder.available_plugins:
        raise _nothing_decodes(decoder.UID)
    text = "; ".join(dict.fromkeys(about_the_file or reasons))
    raise PictureError(f"pixel data can't be decoded: {text}", do="copy the file again, or decompress it elsewhere")


def _reason(error: Exception) -> str:
    """The sentence of pydicom that is about the file, without its preamble."""
    text = str(error)
    short = re.search(r"less than expected \((\d+) vs (\d+) bytes\)", text)
    if short:
        return f"the file is cut short ({short[1]} of {short[2]} bytes)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    detail = next((line for line in lines if re.match(r"\w+: ", line)), lines[0] if lines else type(error).__name__)
    return detail[:300]


@lru_cache(maxsize=32)
def _version(plugin: str, syntax: str) -> str:
    own = f"pydicom {pydicom.__version__}"
    if plugin in ("", "pydicom"):
        return own
    package = _PACKAGES.get(plugin) or _pylibjpeg_package(syntax)
    try:
        return f"{own}, {package} {packages.version(package)}"
    except packages.PackageNotFoundError:
        return f"{own}, {plugin}"  # not from a package registry, e.g. conda's gdcm


def _pylibjpeg_package(syntax: str) -> str:
    if syntax == uid.RLELossless:
        return "pylibjpeg-rle"
    return "pylibjpeg-openjpeg" if "2000" in uid.UID(syntax).name else _LIBJPEG


def _picture(values: Values, photometric: str, dataset: Dataset, index: int, rule: DecodeRule) -> UInt8Array:
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)
        if colours.dtype != np.uint8:
            # Entries are 16-bit by their type; some writers use only the low byte of them.
            colours = (colours >> 8 if int(colours.max()) > 255 else colours).astype(np.uint8)
        return as_rgb(colours[..., :3])
    if values.ndim == 3:
        if photometric != "RGB":
            raise PictureError(f"colour model {photometric}", "RGB, YBR or PALETTE COLOR")
        return as_rgb(values if values.dtype == np.uint8 else to_eight_bits(values))
    gray = _gray(values, dataset, index, rule)
    return as_rgb(255 - gray if photometric == "MONOCHROME1" else gray)


def _gray(values: Values, dataset: Dataset, index: int, rule: DecodeRule) -> UInt8Array:
    """Modality transformation, then VOI LUT, window or range: 0 to 255, not yet inverted."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    modality = _group(dataset, index, "PixelValueTransformationSequence", "RescaleSlope")
    meant = apply_modality_lut(values, _with_encoding(modality, dataset))
    if rule.window == "first":
        voi = _group(dataset, index, "FrameVOILUTSequence", "WindowCenter")
        shown = _by_voi_lut(meant, _with_encoding(voi, dataset))
        if shown is None:
            shown = _by_window(meant, voi)
        if shown is not None:
            return shown
    bits = dataset.get("BitsStored")
    if meant is values and bits in (1, 8) and not dataset.get("PixelRepresentation"):
        return to_eight_bits(values, 0.0, float(2**bits - 1))
    return _by_range(values, meant, dataset)


def _group(dataset: Dataset, index: int, sequence: str, keyword: str) -> Dataset:
    """Where a frame's transformation is: its own functional group, the shared one, or the file's top."""
    for name, item in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(name) or ()
        found = groups[item].get(sequence) if len(groups) > item else None
        if found and keyword in found[0]:
            return found[0]
    return dataset


def _with_encoding(group: Dataset, dataset: Dataset) -> Dataset:
    """The group, knowing the byte order of its file: what lookup tables are read by."""
    if group is not dataset and not hasattr(group, "file_meta"):
        group.file_meta = dataset.file_meta
    return group


def _by_voi_lut(values: Values, group: Dataset) -> UInt8Array | None:
    """The first VOI LUT, whose nominal range becomes 0 to 255; None where there is none."""
    tables = group.get("VOILUTSequence")
    if not tables or "LUTData" not in tables[0] or "LUTDescriptor" not in tables[0]:
        return None
    entries, first, bits = tables[0].LUTDescriptor
    # pydicom wraps what lies outside the table where it should take its ends.
    inside = np.clip(np.rint(values), first, first + (entries or 2**16) - 1).astype(np.int32)
    return to_eight_bits(apply_voi(inside, group), 0.0, float(2**bits - 1))


def _by_window(values: Values, group: Dataset) -> UInt8Array | None:
    """The first window by PS3.3 C.11.2.1.2; None where there is none, or none that makes sense."""
    center, width = _first(group.get("WindowCenter")), _first(group.get("WindowWidth"))
    function = str(group.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or not width > 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return to_eight_bits(1 / (1 + np.exp(-4 * (values.astype(np.float64) - center) / width)), 0.0, 1.0)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values > center, 255, 0).astype(np.uint8)
    return to_eight_bits(values, center - width / 2, center + width / 2)


def _first(value: Any) -> float | None:
    """The first of one or several numbers; None where that is no finite number."""
    try:
        number = float(value[0] if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _by_range(values: Values, meant: Values, dataset: Dataset) -> UInt8Array:
    """Smallest to largest value that is not padding; padding is clipped to the end it lies beyond."""
    padding = _first(dataset.get("PixelPaddingValue"))
    if padding is None:
        return to_eight_bits(meant)
    limit = _first(dataset.get("PixelPaddingRangeLimit"))
    other = padding if limit is None else limit
    kept = meant[(values < min(padding, other)) | (values > max(padding, other))]
    if kept.size == 0:
        return np.zeros(values.shape, np.uint8)
    return to_eight_bits(meant, float(kept.min()), float(kept.max()))
