"""Labels of a DICOM series → a DICOM Segmentation object, as PACS and viewers read it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iris_core import __version__
from iris_core.case import InputError
from iris_core.checkpoint import write_atomically
from nnunet_adapters.images import series_files

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
LONGEST_NAME = 64  # characters of a segment's label (LO)
SERIES_NUMBER = 1000  # is added to the scan's, so that the result is listed after the scans of its study


def dicom_seg(series: Path, labels: np.ndarray, values: Sequence[int], names: Sequence[str], output: Path) -> None:
    """Write labels as DICOM-SEG (binary), one segment a class that occurs, each frame on the slice it belongs to.

    series: folder of the DICOM files of the query. labels: (x, y, z) integers on the grid of ``read_scan(series)``.
    values, names: label value and name of each class, in the order of the segments. Written atomically.

    Raises InputError, and leaves no file, if no class occurs, if the labels are not the series's or if a file of it
    lacks what the standard asks for.
    """
    found = [(int(v), n) for v, n in zip(values, names, strict=True) if (labels == v).any()]
    if not found:
        raise InputError(f"{series}: no structure was found in it, so there is nothing to write to {output.name}")
    slices = _slices(series)
    shape = (slices[0].Columns, slices[0].Rows, len(slices))
    if labels.shape != shape:
        raise InputError(f"{series}: labels must lie on its grid of {shape} voxels, got {labels.shape}")
    segments = np.zeros(shape[::-1], np.min_scalar_type(len(found)))  # frame, row, column
    for number, (value, _) in enumerate(found, 1):
        segments[labels.transpose(2, 1, 0) == value] = number
    try:
        seg = _segmentation(slices, segments, [name for _, name in found])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{series}: no DICOM-SEG can be made of it ({error}); use the mask as .nii.gz, or correct the headers"
        ) from error
    write_atomically(output, lambda temporary: seg.save_as(temporary))


def _slices(series: Path) -> list:
    """The series's headers, one a slice, in the order of the last axis of its volume."""
    from pydicom import dcmread

    # force: old files begin without the preamble; GDCM has read them as DICOM
    slices = [dcmread(file, stop_before_pixels=True, force=True) for file in series_files(series)]
    for part in slices:
        lacking = [keyword for keyword in MUST_BE_THERE if not part.get(keyword)]
        if lacking or int(part.get("NumberOfFrames") or 1) > 1:
            found = f"none of {', '.join(lacking)}" if lacking else f"{part.NumberOfFrames} slices in it"
            raise InputError(
                f"{part.filename}: to be the source of a DICOM-SEG a file must hold one slice and say where it lies,"
                f" found {found}; use the mask as .nii.gz"
            )
        for keyword in MAY_BE_EMPTY:
            if keyword not in part:
                setattr(part, keyword, "")
    rows, columns = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    places = [np.array(part.ImagePositionPatient, float) @ np.cross(rows, columns) for part in slices]
    if (np.diff(places) <= 0).any():  # else a mask would lie on wrong slices
        raise InputError(f"{series}: the slices must be read by rising position, found {np.round(places, 2)[:8]} mm")
    return slices


def _segmentation(slices: list, segments: np.ndarray, names: list[str]):
    """highdicom's object. segments: (frame, row, column), 0 is background, i the i-th of ``names``."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="Iris", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name.replace("\\", "/")[:LONGEST_NAME],  # a backslash would end the value
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(names, 1)
    ]
    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=segments,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=max(1, int(slices[0].get("SeriesNumber") or 0) + SERIES_NUMBER),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Iris (research only)",
        manufacturer_model_name="Iris",
        software_versions=__version__,
        device_serial_number="none",
        content_label="IRIS",
        series_description="Iris: segmentation (research only)",
        specific_character_set="ISO_IR 192",  # UTF-8: class names are what people type
    )
