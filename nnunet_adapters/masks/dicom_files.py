"""DICOM files of masks as pydicom reads them, checked before they are believed; and the slices of their scan."""

from pathlib import Path

import numpy as np

from iris_core.case import InputError
from nnunet_adapters.dicom_lengths import check_lengths
from nnunet_adapters.voxels import series_files

DICOM_ENDINGS = (".dcm", ".ima")
KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "dicom-seg",
    "1.2.840.10008.5.1.4.1.1.66.7": "dicom-seg",  # label map segmentation
    "1.2.840.10008.5.1.4.1.1.481.3": "rtstruct",
}
DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_FILE_BYTES = 2**31
# What the standard wants to be there, if empty (type 2); anonymised series often lack some.
MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
MUST_BE_THERE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID")
LONGEST_NAME = 64  # characters of a segment's or ROI's name (LO)
SERIES_NUMBER = 1000  # is added to the scan's, so that the result is listed after the scans of its study


def kind_of(path: Path) -> str:
    """'dicom-seg' or 'rtstruct'. Raises InputError for any other file."""
    kind = str(opened(path, headers_only=True).get("SOPClassUID", ""))
    if kind not in KINDS:
        raise InputError(
            f"{path}: a mask in DICOM must be a segmentation (SEG) or an RTSTRUCT, got {kind[:64] or 'neither'}"
        )
    return KINDS[kind]


def opened(path: Path, headers_only: bool = False):
    """A file as a pydicom data set. Raises InputError where it cannot be read, or would be unpacked unchecked."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path}: a mask in DICOM must have {MAX_FILE_BYTES / 2**30:.0f} GiB at most")
    check_lengths(path)
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
            raise InputError(f"{path}: must not be deflated as a whole; save it as Explicit VR Little Endian")
        only = ["SOPClassUID"] if headers_only else None
        return dcmread(path, stop_before_pixels=headers_only, specific_tags=only)
    except InputError:
        raise
    except Exception as error:  # pydicom raises many kinds
        raise InputError(f"{path}: is no DICOM file that can be read ({error})") from error


def check_frame(path: Path, frame: str, scan: Path) -> None:
    """Raise InputError where a mask's positions are of another frame of reference than the scan's."""
    if not scan.is_dir():
        return
    own = opened_slice(series_files(scan)[0]).get("FrameOfReferenceUID")
    if own and frame and own != frame:
        raise InputError(
            f"{path}: must have the frame of reference of {scan}, {own}, got {frame}; it belongs to another scan"
        )


def opened_slice(file: str):
    """The header of one file of a series. Old files begin without the preamble; GDCM has read them as DICOM."""
    from pydicom import dcmread

    return dcmread(file, stop_before_pixels=True, force=True)


def source_slices(series: Path, kind: str, shape: tuple[int, ...]) -> list:
    """The series's headers, one a slice, in the order of the last axis of its volume.

    kind: what is to be made of them. shape: of the labels, (x, y, z); raises InputError if it is not the series's.
    """
    if not series.is_dir():
        raise InputError(f"{series}: {kind} needs a scan that is a folder of DICOM files; choose another --format")
    slices = [opened_slice(file) for file in series_files(series)]
    for part in slices:
        lacking = [keyword for keyword in MUST_BE_THERE if not part.get(keyword)]
        if lacking or int(part.get("NumberOfFrames") or 1) > 1:
            found = f"none of {', '.join(lacking)}" if lacking else f"{part.NumberOfFrames} slices in it"
            raise InputError(
                f"{part.filename}: to be the source of {kind} a file must hold one slice and say where it lies,"
                f" found {found}; use the mask as .nii.gz"
            )
        for keyword in MAY_BE_EMPTY:
            if keyword not in part:
                setattr(part, keyword, "")
    rows, columns = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    places = [np.array(part.ImagePositionPatient, float) @ np.cross(rows, columns) for part in slices]
    if (np.diff(places) <= 0).any():  # else a mask would lie on wrong slices
        raise InputError(f"{series}: the slices must be read by rising position, found {np.round(places, 2)[:8]} mm")
    own = (slices[0].Columns, slices[0].Rows, len(slices))
    if shape != own:
        raise InputError(f"{series}: labels must lie on its grid of {own} voxels, got {shape}")
    return slices


def plain_name(name: str) -> str:
    """A name as the header of a file holds it: a backslash would end the value."""
    return " ".join(name.replace("\\", "/").split())[:LONGEST_NAME]
