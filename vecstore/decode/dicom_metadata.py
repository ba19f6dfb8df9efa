"""What a DICOM header may say in the store: an allow-list of keywords, each with one type.

Person names, birth dates, addresses, institutions and private elements are not on the list, and
whatever is not on the list is never read.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import Dataset

from vecstore.records import Value

KEYWORDS = tuple(
    "PatientID PatientSex PatientAge PatientPosition PatientIdentityRemoved StudyInstanceUID "
    "SeriesInstanceUID SOPInstanceUID SOPClassUID FrameOfReferenceUID StudyDate SeriesDate AcquisitionDate "
    "StudyTime Modality BodyPartExamined ViewPosition Laterality ImageLaterality Manufacturer "
    "ManufacturerModelName BurnedInAnnotation PhotometricInterpretation Rows Columns NumberOfFrames "
    "SeriesNumber AcquisitionNumber InstanceNumber SliceThickness SliceLocation KVP PixelSpacing "
    "ImagerPixelSpacing ImageType StudyDescription SeriesDescription ProtocolName ConvolutionKernel "
    "MagneticFieldStrength EchoTime RepetitionTime ContrastBolusAgent LossyImageCompression".split()
)
"""What is kept, besides TransferSyntaxUID of the file's meta information."""

_AGE = re.compile(r"(\d{1,3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_INTEGERS = frozenset({"IS", "US", "SS", "UL", "SL"})
_REALS = frozenset({"DS", "FD", "FL"})


def metadata(dataset: Dataset) -> dict[str, Value]:
    """The allowed keywords that have a value of their type.

    Parameters
    ----------
    dataset : pydicom.Dataset

    Returns
    -------
    dict of str to str, int or float
        Age in years; dates as "yyyy-mm-dd"; several values joined by a backslash, as text.
    """
    found: dict[str, Value] = {}
    for keyword in KEYWORDS:
        if keyword in dataset:
            value = _value(dataset, keyword)
            if value is not None:
                found[keyword] = value
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax:
        found["TransferSyntaxUID"] = str(syntax)
    return found


def _value(dataset: Dataset, keyword: str) -> Value:
    vr = dictionary_VR(keyword)
    try:
        # Parsing is put off until here, and a value that breaks the standard fails here.
        value = dataset[keyword].value
    except Exception:
        return None
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        several = dictionary_VM(keyword) != "1"
        return _text("\\".join(str(part) for part in value)) if several and len(value) else None
    return _converted(value, vr, several=dictionary_VM(keyword) != "1")


def _converted(value: Any, vr: str, *, several: bool) -> Value:
    """One value as its keyword's type, or None if it does not fit."""
    text = _text(str(value)) if value is not None else None
    if text is None or several:
        return text
    if vr in _INTEGERS:
        number = _number(value)
        return int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else None
    if vr in _REALS:
        return _number(value)
    if vr == "AS":
        return age_years(text)
    if vr == "DA":
        match = _DATE.fullmatch(text)
        return "-".join(match.groups()) if match else None
    return text


def _text(value: str) -> str | None:
    return value.replace("\0", "").encode("utf-8", "replace").decode().strip() or None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def age_years(age: str) -> float | None:
    """A DICOM age string (PS3.5, 6.2: nnnD, nnnW, nnnM, nnnY) in years.

    >>> age_years("034Y"), age_years("006M"), age_years("old")
    (34.0, 0.5, None)
    """
    match = _AGE.fullmatch(age.strip().upper())
    return round(int(match[1]) * _YEARS[match[2]], 4) if match else None
