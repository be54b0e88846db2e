"""DICOM Segmentation objects, as PACS and viewers have them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iris_core import __version__
from iris_core.case import Case, InputError
from iris_core.files import write_atomically
from nnunet_adapters.headers import LPS_TO_RAS, most_voxels
from nnunet_adapters.masks.dicom_files import SERIES_NUMBER, check_frame, opened, plain_name, source_slices
from nnunet_adapters.masks.mask import Mask, Structure, check_names, found
from nnunet_adapters.masks.snomed import Meaning, meaning_of

MAX_RATIO = 64  # voxels of a segmentation for each of its scan's: four times finer along each axis


def read(path: Path, scan: Case) -> Mask:
    """Label values are the numbers of the segments. Raises InputError where segments overlap."""
    import highdicom as hd

    dataset = opened(path)
    _check_size(path, dataset, scan)
    check_frame(path, dataset.get("FrameOfReferenceUID", ""), Path(scan.name))
    try:
        seg = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        about = {n: seg.get_segment_description(n) for n in seg.segment_numbers}
        geometry = seg.get_volume_geometry(rtol=0.02)
        if geometry is None:
            raise ValueError("its frames are not parallel and evenly spaced")
        _check_voxels(path, int(np.prod(geometry.spatial_shape, dtype=object)), scan)
        volume = seg.get_volume(combine_segments=True, rtol=0.02)
        names = {n: str(segment.segment_label) for n, segment in about.items()}
        colours = {n: _rgb(segment) for n, segment in about.items() if "RecommendedDisplayCIELabValue" in segment}
    except InputError:
        raise
    except Exception as error:  # highdicom, pydicom and its decoders each raise their own
        overlap = "overlap" in str(error).lower()
        advice = "segments must not overlap; take one out" if overlap else "is no segmentation that can be read"
        raise InputError(f"{path}: {advice} ({error})") from error
    # highdicom's axes are slice, row, column, in LPS
    affine = LPS_TO_RAS @ volume.affine[:, [2, 1, 0, 3]]
    return Mask(volume.array.transpose(2, 1, 0).astype(np.int32), affine, check_names(path, names), colours, True)


def _check_size(path: Path, dataset, scan: Case) -> None:
    """Raise InputError unless the file can hold the frames that it promises, and no more than its scan needs."""
    try:
        frames, rows, columns, bits = (
            int(dataset.get(keyword) or default)
            for keyword, default in (("NumberOfFrames", 1), ("Rows", 0), ("Columns", 0), ("BitsAllocated", 0))
        )
        held, listed = len(dataset.PixelData), len(dataset.PerFrameFunctionalGroupsSequence)
        packed = dataset.file_meta.TransferSyntaxUID.is_compressed
        described = {int(segment.SegmentNumber) for segment in dataset.SegmentSequence}
        which = [group.get("SegmentIdentificationSequence") for group in dataset.PerFrameFunctionalGroupsSequence]
        strange = {int(w[0].ReferencedSegmentNumber) for w in which if w} - described
    except Exception as error:  # pydicom converts values only now, and raises many kinds
        raise InputError(f"{path}: is no segmentation that can be read ({error})") from error
    if (
        frames != listed
        or min(frames, rows, columns, bits) < 1
        or (not packed and frames * rows * columns * bits > 8 * held)
    ):
        raise InputError(
            f"{path}: must hold its frames, promises {frames} of {rows} × {columns}, found {listed} and {held} bytes"
        )
    if strange:
        raise InputError(f"{path}: every frame must be of a segment that it describes, found {sorted(strange)[:5]}")
    _check_voxels(path, rows * columns, scan)
    if packed:
        _check_voxels(path, frames * rows * columns // MAX_RATIO, scan)


def _check_voxels(path: Path, voxels: int, scan: Case) -> None:
    limit = min(most_voxels(), MAX_RATIO * scan.image.size)
    if voxels > limit:
        raise InputError(f"{path}: spans {voxels} voxels, its scan {scan.name} has {scan.image.size}; is it another's?")


def _rgb(segment) -> tuple[int, int, int]:
    import highdicom as hd

    return hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()


def write(labels: np.ndarray, like: Path, structures: Sequence[Structure], output: Path) -> None:
    """Write labels as DICOM-SEG (binary), one segment a class that occurs, each frame on the slice it belongs to.

    labels: (x, y, z) integers on the grid of ``read_scan(like)``. like: folder of the DICOM files of the query.
    structures: in the order of the segments. Written atomically.

    Raises InputError, and leaves no file, if no class occurs, if the labels are not the series's or if a file of it
    lacks what the standard asks for.
    """
    there = found(labels, structures)
    if not there:
        raise InputError(f"{like}: no structure was found in it, so there is nothing to write to {output.name}")
    slices = source_slices(like, "a DICOM-SEG", labels.shape)
    segments = np.zeros(labels.shape[::-1], np.min_scalar_type(len(there)))  # frame, row, column
    for number, structure in enumerate(there, 1):
        segments[labels.transpose(2, 1, 0) == structure.value] = number
    try:
        seg = _segmentation(slices, segments, there)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{like}: no DICOM-SEG can be made of it ({error}); use the mask as .nii.gz, or correct the headers"
        ) from error
    write_atomically(output, lambda temporary: seg.save_as(temporary))


def _description(number: int, structure: Structure, algorithm):
    """highdicom's description of a segment, with what it shows as a code."""
    import highdicom as hd

    meaning: Meaning = meaning_of(structure.name)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=plain_name(structure.name),
        segmented_property_category=hd.sr.CodedConcept(meaning.category[0], "SCT", meaning.category[1]),
        segmented_property_type=hd.sr.CodedConcept(meaning.type[0], "SCT", meaning.type[1]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*structure.colour),
    )
    if meaning.side:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(meaning.side[0], "SCT", meaning.side[1])]
    return description


def _segmentation(slices: list, segments: np.ndarray, structures: list[Structure]):
    """highdicom's object. segments: (frame, row, column), 0 is background, i the i-th of ``structures``."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="Iris", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    return hd.seg.Segmentation(
        source_images=slices,
        pixel_array=segments,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(number, s, algorithm) for number, s in enumerate(structures, 1)],
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
