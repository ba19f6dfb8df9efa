"""DICOM: every file of the shared set, and the rules from stored values to a picture."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import sysconfig
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import vecstore
from vecstore.decode import content_hash, frames
from vecstore.decode.dicom_metadata import KEYWORDS, age_years
from vecstore.errors import PictureError
from vecstore.records import DecodeRule, Frame, UInt8Array

Files = Callable[[str, str], bytes]
Altered = Callable[..., bytes]

REASONS = {
    "MR_truncated.dcm": "the file is cut short (8130 of 8192 bytes)",
    "JPEG-lossy.dcm": "pixel data can't be decoded: pylibjpeg: libjpeg error code",
    "no_meta.dcm": "not a known picture format",
    "rtplan.dcm": "no pixel data (Modality RTPLAN)",
    "reportsi.dcm": "no pixel data (Modality SR)",
    "badVR.dcm": "NumberOfFrames can't be read",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "a DICOM file without any readable element",
}


def first(data: bytes, **rule: Any) -> Frame:
    """The first frame of a file."""
    return next(frames(data, DecodeRule(**rule)))


def gray(data: bytes, **rule: Any) -> UInt8Array:
    """The one channel of a gray picture."""
    picture = first(data, **rule).picture
    assert np.array_equal(picture[..., 0], picture[..., 1])
    assert np.array_equal(picture[..., 0], picture[..., 2])
    return picture[..., 0]


def test_every_file_has_all_its_frames_or_a_reason(shared: Path) -> None:
    refused = {}
    with (shared / "dicom" / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 104
    for row in rows:
        with zipfile.ZipFile(shared / "dicom" / row["zip"]) as archive:
            data = archive.read(row["file"])
        try:
            every = list(frames(data, DecodeRule(frames="all")))
        except PictureError as error:
            refused[row["file"]] = str(error)
            assert row["decoded_shape"] == "", row["file"]
            continue
        assert row["decoded_shape"], row["file"]
        count = int(row["frames"] or 1)
        assert [f.picture.shape for f in every] == [(int(row["rows"]), int(row["columns"]), 3)] * count
        assert [f.number for f in every] == (list(range(1, count + 1)) if count > 1 else [None])
        assert every[0].metadata["TransferSyntaxUID"] == row["transfer_syntax"]
        assert every[0].metadata["Modality"] == row["modality"]
    assert refused.keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert reason in refused[name]


def test_nine_transfer_syntaxes_give_one_content(dicom_file: Files) -> None:
    found = [first(dicom_file("mr_transfer_syntaxes.zip", f"{n}.dcm")) for n in range(1, 10)]
    assert len({content_hash(frame.picture) for frame in found}) == 1
    assert len({frame.metadata["TransferSyntaxUID"] for frame in found}) == 7
    assert {frame.decoder.split(", ")[-1].split()[0] for frame in found} == {
        "pydicom",
        "pylibjpeg-rle",
        "pylibjpeg-libjpeg",
        "pylibjpeg-openjpeg",
    }


def test_the_small_mr_has_one_content_in_all_its_encodings(dicom_file: Files) -> None:
    names = ["", "_RLE", "_bigendian", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded"]
    pictures = [first(dicom_file("samples.zip", f"MR_small{name}.dcm")).picture for name in names]
    assert len({content_hash(picture) for picture in pictures}) == 1


def test_frames_agree_between_encodings_and_with_the_first(dicom_file: Files) -> None:
    rule = DecodeRule(frames="all")
    plain = list(frames(dicom_file("samples.zip", "emri_small.dcm"), rule))
    packed = list(frames(dicom_file("samples.zip", "emri_small_RLE.dcm"), rule))
    assert len(plain) == 10
    for one, other in zip(plain, packed, strict=True):
        assert np.array_equal(one.picture, other.picture)
    assert len({content_hash(frame.picture) for frame in plain}) == 10
    alone = first(dicom_file("samples.zip", "emri_small.dcm"))
    assert alone.number is None
    assert np.array_equal(alone.picture, plain[0].picture)


def test_only_the_asked_for_frame_is_decoded(dicom_file: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import DecodeRunner

    decoded = []
    original = DecodeRunner._decode_frame

    def counted(self: Any, src: bytes) -> Any:
        decoded.append(1)
        return original(self, src)

    monkeypatch.setattr(DecodeRunner, "_decode_frame", counted)
    found = frames(dicom_file("samples.zip", "examples_ybr_color.dcm"), DecodeRule(frames="all"))
    next(found)
    assert len(decoded) == 1
    assert len(list(frames(dicom_file("samples.zip", "examples_ybr_color.dcm"), DecodeRule()))) == 1
    assert len(decoded) == 2
    assert len(list(found)) == 29


def test_colours_do_not_depend_on_how_they_are_stored(dicom_file: Files) -> None:
    rle = first(dicom_file("samples.zip", "SC_rgb_rle_2frame.dcm")).picture.astype(int)
    jpeg = first(dicom_file("samples.zip", "SC_rgb_jpeg_dcmtk.dcm")).picture
    assert np.abs(rle - jpeg).mean() < 2
    assert len(np.unique(rle.reshape(-1, 3), axis=0)) > 5


def test_ultrasound_in_ybr_is_gray_where_it_has_no_doppler(dicom_file: Files) -> None:
    picture = first(dicom_file("samples.zip", "examples_ybr_color.dcm")).picture.astype(int)
    # Left as YBR, black would be (0, 128, 128).
    assert np.median(picture, axis=(0, 1)).max() <= 1
    assert np.ptp(picture, axis=2).mean() < 10


def test_palettes_are_expanded(dicom_file: Files) -> None:
    data = dicom_file("samples.zip", "examples_palette.dcm")
    dataset = pydicom.dcmread(io.BytesIO(data))
    picture = first(data).picture
    # The palette of this file, by hand: 256 entries of 16 bits, of which the high byte counts.
    for channel, name in enumerate(("Red", "Green", "Blue")):
        table = np.frombuffer(dataset[f"{name}PaletteColorLookupTableData"].value, np.uint16)
        assert np.array_equal(picture[..., channel], (table >> 8)[dataset.pixel_array])
    assert (np.ptp(picture.astype(int), axis=2) > 0).any()
    two = list(frames(dicom_file("samples.zip", "OBXXXX1A_rle_2frame.dcm"), DecodeRule(frames="all")))
    assert [frame.number for frame in two] == [1, 2]


def test_one_bit_is_black_and_white(dicom_file: Files, altered: Altered) -> None:
    data = dicom_file("samples.zip", "liver_1frame.dcm")
    picture = gray(data)
    assert np.array_equal(picture, pydicom.dcmread(io.BytesIO(data)).pixel_array * np.uint8(255))
    assert set(np.unique(picture)) == {0, 255}


# ---- from values to gray levels


def test_a_window_maps_its_range_and_clips(altered: Altered) -> None:
    # Rescale intercept of this slice: -1024.
    values = np.array([[0, 1024 - 10, 1024 + 40, 1024 + 90, 4000]], np.int16)
    picture = gray(altered(values, WindowCenter="40.5", WindowWidth="101"))
    assert picture.tolist() == [[0, 0, 128, 255, 255]]
    exact = gray(altered(values, WindowCenter="40", WindowWidth="100", VOILUTFunction="LINEAR_EXACT"))
    assert exact.tolist() == [[0, 0, 128, 255, 255]]
    sigmoid = gray(altered(values, WindowCenter="40", WindowWidth="100", VOILUTFunction="SIGMOID"))
    assert sigmoid.tolist() == [[0, 30, 128, 225, 255]]


def test_the_first_of_several_windows_counts(altered: Altered, dicom_file: Files) -> None:
    values = np.array([[1024, 1124, 1224]], np.int16)
    several = gray(altered(values, WindowCenter=["100.5", "0"], WindowWidth=["201", "1"]))
    assert several.tolist() == [[0, 128, 255]]
    real = dicom_file("samples.zip", "J2K_pixelrep_mismatch.dcm")  # 40\40\40, 100\100\200
    stored = pydicom.dcmread(io.BytesIO(real)).pixel_array.astype(float)
    by_hand = np.clip((stored - 39.5) / 99 + 0.5, 0, 1) * 255
    assert np.abs(gray(real) - by_hand).max() <= 0.5


@pytest.mark.parametrize("width", ["0", "-5", "0.5"])
def test_a_window_that_makes_no_sense_is_no_window(altered: Altered, width: str) -> None:
    values = np.array([[0, 500, 1000]], np.int16)
    assert gray(altered(values, WindowCenter="0", WindowWidth=width)).tolist() == [[0, 128, 255]]


def test_a_window_of_one_is_a_threshold(altered: Altered) -> None:
    values = np.array([[1023, 1024, 1025]], np.int16)
    assert gray(altered(values, WindowCenter="0.5", WindowWidth="1")).tolist() == [[0, 0, 255]]


def test_without_window_the_range_counts_and_padding_does_not(altered: Altered) -> None:
    values = np.array([[-2000, 0, 500, 1000]], np.int16)  # PixelPaddingValue of this slice: -2000
    assert gray(altered(values)).tolist() == [[0, 0, 128, 255]]
    assert gray(altered(values, drop=("PixelPaddingValue",))).tolist() == [[0, 170, 212, 255]]
    ranged = altered(values, PixelPaddingRangeLimit=0)
    assert gray(ranged).tolist() == [[0, 0, 0, 255]]
    assert gray(altered(np.full((2, 2), -2000, np.int16))).tolist() == [[0, 0], [0, 0]]


def test_the_store_may_ask_for_no_window(altered: Altered) -> None:
    data = altered(np.array([[0, 500, 1000]], np.int16), WindowCenter="-1024", WindowWidth="3")
    assert gray(data).tolist() == [[191, 255, 255]]
    assert gray(data, window="none").tolist() == [[0, 128, 255]]


def test_monochrome1_is_inverted(altered: Altered, dicom_file: Files) -> None:
    values = np.array([[0, 500, 1000]], np.int16)
    plain = gray(altered(values))
    assert np.array_equal(gray(altered(values, PhotometricInterpretation="MONOCHROME1")), 255 - plain)
    real = dicom_file("samples.zip", "RG3_J2KI.dcm")
    stored = pydicom.dcmread(io.BytesIO(real)).pixel_array
    # In MONOCHROME1 the largest value is black.
    assert np.corrcoef(gray(real).ravel(), stored.ravel())[0, 1] < -0.99


def test_the_slope_is_applied_before_the_window(altered: Altered) -> None:
    data = altered(
        np.array([[0, 50, 100]], np.int16),
        RescaleSlope="2",
        RescaleIntercept="-100",
        WindowCenter="0.5",
        WindowWidth="201",
    )
    assert gray(data).tolist() == [[0, 128, 255]]


def test_a_negative_slope_turns_dark_and_bright(altered: Altered) -> None:
    data = altered(np.array([[0, 50, 100]], np.int16), RescaleSlope="-1", RescaleIntercept="0")
    assert gray(data).tolist() == [[255, 128, 0]]


def lut(table: list[int], first_value: int, bits: int) -> Sequence:
    """A lookup table as a sequence holds it."""
    item = Dataset()
    item.LUTDescriptor = [len(table), first_value, bits]
    item.LUTData = table
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return Sequence([item])


def test_a_voi_lut_is_applied_with_its_ends_beyond_it(altered: Altered) -> None:
    values = np.array([[0, 9, 10, 11, 12, 30000]], np.uint16)
    data = altered(
        values,
        drop=("RescaleSlope", "RescaleIntercept", "PixelPaddingValue"),
        VOILUTSequence=lut([0, 1000, 4095], 10, 12),
    )
    assert gray(data).tolist() == [[0, 0, 0, 62, 255, 255]]


def test_a_modality_lut_is_applied(altered: Altered) -> None:
    data = altered(
        np.array([[0, 1, 2]], np.uint16),
        drop=("RescaleSlope", "RescaleIntercept", "PixelPaddingValue"),
        ModalityLUTSequence=lut([0, 900, 1000], 0, 16),
    )
    assert gray(data).tolist() == [[0, 230, 255]]


def test_eight_bits_without_window_stay_as_they_are(altered: Altered) -> None:
    values = np.array([[10, 100, 200, 201]], np.uint8)
    drop = ("RescaleSlope", "RescaleIntercept", "PixelPaddingValue")
    assert np.array_equal(gray(altered(values, drop=drop)), values)
    windowed = altered(values, drop=drop, WindowCenter="105.5", WindowWidth="191")
    assert gray(windowed).tolist() == [[0, 121, 255, 255]]


def test_each_frame_has_the_window_of_its_own_group(altered: Altered) -> None:
    def group(center: float) -> Dataset:
        voi, item = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 201
        item.FrameVOILUTSequence = Sequence([voi])
        return item

    transform, shared_group = Dataset(), Dataset()
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, 0, "US"
    shared_group.PixelValueTransformationSequence = Sequence([transform])
    stack = np.array([[0, 100, 200]] * 2, np.int16)
    data = altered(
        stack,
        drop=("RescaleSlope", "RescaleIntercept"),
        Rows=1,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=Sequence([shared_group]),
        PerFrameFunctionalGroupsSequence=Sequence([group(100.5), group(200.5)]),
    )
    found = list(frames(data, DecodeRule(frames="all")))
    assert [frame.picture[0, :, 0].tolist() for frame in found] == [[0, 128, 255], [0, 0, 128]]


def test_float_pixels_are_scaled(altered: Altered) -> None:
    data = altered(
        np.zeros((1, 3), np.int16),
        drop=("PixelData", "PixelPaddingValue", "RescaleSlope", "RescaleIntercept"),
        FloatPixelData=np.array([-1.5, 0.0, 1.5], "<f4").tobytes(),
        BitsAllocated=32,
    )
    assert gray(data).tolist() == [[0, 128, 255]]


# ---- what is refused


def test_a_file_without_preamble_is_read(altered: Altered) -> None:
    data = altered(np.array([[0, 500, 1000]], np.int16))
    meta = pydicom.dcmread(io.BytesIO(data)).file_meta
    # Preamble and prefix, the element that gives the length of the meta information, and that.
    bare = data[132 + 12 + meta.FileMetaInformationGroupLength :]
    assert bare[128:132] != b"DICM"
    assert gray(bare).tolist() == [[0, 128, 255]]
    assert first(bare).metadata["TransferSyntaxUID"] == pydicom.uid.ExplicitVRLittleEndian


def test_max_pixels_is_checked_before_decoding(dicom_file: Files) -> None:
    data = dicom_file("samples.zip", "RG3_J2KI.dcm")
    with pytest.raises(PictureError, match=r"1760 × 1760 pixels.*at most 3,000,000 pixels"):
        first(data, max_pixels=3_000_000)


@pytest.mark.parametrize("size", [0, 1])
def test_no_rows_or_no_pixel_data_is_named(altered: Altered, size: int) -> None:
    if size:
        with pytest.raises(PictureError, match=r"no pixel data \(Modality CT\), though the header announces"):
            first(altered(drop=("PixelData",)))
    else:
        with pytest.raises(PictureError, match=r"pixel data without Rows and Columns"):
            first(altered(drop=("Rows",)))


def test_a_missing_decoder_is_named_with_what_to_install(shared: Path, dicom_file: Files, tmp_path: Path) -> None:
    """In a process that sees all packages but the one of the extra."""
    data = {"ls": dicom_file("mr_transfer_syntaxes.zip", "7.dcm")}
    data["12bit"] = dicom_file("samples.zip", "JPGExtended.dcm")
    data["baseline"] = dicom_file("samples.zip", "SC_rgb_jpeg_dcmtk.dcm")
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "libjpeg" not in entry.name.replace("pylibjpeg", "", 1):
            (packages / entry.name).symlink_to(entry)
    code = (
        "import sys, pathlib\n"
        "from vecstore.decode import frames, content_hash\n"
        "from vecstore.records import DecodeRule\n"
        "for name in ('ls', '12bit', 'baseline'):\n"
        "    try:\n"
        "        frame = next(frames((pathlib.Path(sys.argv[1]) / name).read_bytes(), DecodeRule()))\n"
        "        print(content_hash(frame.picture).hex())\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", code, str(tmp_path)],
        env={"PYTHONPATH": os.pathsep.join([str(packages), str(Path(vecstore.__file__).parents[1])])},
        capture_output=True,
        text=True,
        check=True,
    )
    lossless, twelve, baseline = run.stdout.splitlines()
    expected = "expected pylibjpeg-libjpeg (GPL-3.0); run: pip install 'vecstore[gpl]'"
    assert lossless.startswith("PictureError compressed as JPEG-LS Lossless")
    assert lossless.endswith(expected)
    assert twelve.endswith(expected)
    # What vecstore always has comes first: the same pixels with the extra and without.
    assert baseline == content_hash(first(data["baseline"]).picture).hex()
    assert run.stderr == ""


def test_nothing_is_printed_or_warned_about_a_bad_file(
    dicom_file: Files, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("badVR.dcm", "JPEG-lossy.dcm", "MR_small_padded.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"):
        try:
            list(frames(dicom_file("samples.zip", name), DecodeRule()))
        except PictureError:
            continue
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# ---- metadata


def test_metadata_have_the_types_of_their_keywords(dicom_file: Files) -> None:
    found = first(dicom_file("ct_ge_head.zip", "05.dcm")).metadata
    assert found["Modality"] == "CT"
    assert found["InstanceNumber"] == 5
    assert found["SliceThickness"] == 4.0
    assert isinstance(found["SliceThickness"], float)
    assert found["PixelSpacing"] == "0.4882812\\0.4882812"
    assert found["ImageType"] == "ORIGINAL\\PRIMARY\\AXIAL\\ADD"
    assert found["Rows"] == 512


def test_ages_become_years_and_dates_become_iso(altered: Altered) -> None:
    found = first(altered(PatientAge="018M", StudyDate="20240229", SeriesDate="2024-13")).metadata
    assert found["PatientAge"] == 1.5
    assert found["StudyDate"] == "2024-02-29"
    assert "SeriesDate" not in found
    assert [age_years(age) for age in ("090Y", "002W", "010D", "Y", "", "34")] == [
        90.0, 0.0383, 0.0274, None, None, None,
    ]  # fmt: skip


def test_nothing_outside_the_list_is_kept(altered: Altered) -> None:
    found = first(
        altered(
            PatientName="Doe^Jane",
            PatientBirthDate="19700101",
            InstitutionName="Hospital",
            ReferringPhysicianName="Roe^Richard",
            PatientAddress="1 Road",
            PatientID="P1",
        )
    ).metadata
    assert found.keys() <= {*KEYWORDS, "TransferSyntaxUID"}
    assert found["PatientID"] == "P1"
    assert not {"Doe", "Hospital", "Roe", "Road", "1970"} & {
        word for value in found.values() for word in ("Doe", "Hospital", "Roe", "Road", "1970") if word in str(value)
    }
    assert all(pydicom.datadict.dictionary_VR(keyword) != "PN" for keyword in KEYWORDS)


def test_values_that_do_not_fit_are_absent(altered: Altered) -> None:
    found = first(altered(PatientAge="adult", StudyDate="unknown", BodyPartExamined="")).metadata
    assert not {"PatientAge", "StudyDate", "BodyPartExamined"} & found.keys()
    assert "KVP" not in first(altered(KVP=["120", "130"])).metadata


def _deflated(plain: bytes, extra: bytes = b"") -> bytes:
    """A whole file as the deflated syntax has it; `extra` follows the last element."""
    dataset = pydicom.dcmread(io.BytesIO(plain))
    start = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflater.compress(plain[start:] + extra) + deflater.flush()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    head = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(head, dataset.file_meta)
    return plain[:132] + head.getvalue() + body


def test_a_deflated_file_shows_what_it_shows_undeflated(altered: Altered) -> None:
    plain = altered()
    assert np.array_equal(first(_deflated(plain)).picture, first(plain).picture)


def test_a_deflated_bomb_is_refused_before_it_is_inflated(altered: Altered) -> None:
    private = b"\xfe\x7f\x01\x00OB\0\0" + (8 << 20).to_bytes(4, "little") + bytes(8 << 20)
    data = _deflated(altered(), private)
    assert len(data) < 100_000
    with pytest.raises(PictureError, match=r"a deflated DICOM file that inflates beyond 4,000,000 bytes"):
        first(data, max_pixels=1_000_000)


def test_one_number_of_pixels_is_the_limit_whoever_opens_the_file() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert DecodeRule().max_pixels == 2 * Image.MAX_IMAGE_PIXELS
