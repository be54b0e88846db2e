"""RTSTRUCT: structures as closed contours in the planes of a DICOM scan.

Of a structure's contours in one slice those voxels are inside whose centres an odd number of them encloses, so that a
contour in another one is a hole, as treatment planning systems and 3D Slicer have it. The libraries that read these
files (rt-utils, dicompyler-core, dcmrtstruct2nii) have had no release for years, or fill a contour's border too.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from iris_core import __version__
from iris_core.case import Case, InputError
from iris_core.files import write_atomically
from iris_core.geometry import extent
from nnunet_adapters.headers import LPS_TO_RAS
from nnunet_adapters.masks.dicom_files import (
    MAY_BE_EMPTY,
    SERIES_NUMBER,
    check_frame,
    opened,
    plain_name,
    source_slices,
)
from nnunet_adapters.masks.mask import Colour, Mask, Structure, check_names, found, refuse_overlap
from nnunet_adapters.voxels import grid_of

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
BETWEEN = 0.1  # of a slice: how far a contour may lie from its slice's plane
MAX_STRUCTURES = 2**15 - 1
MAX_WORK = 256  # pixels to fill, and crossings of contours with rows, for each voxel of the scan
CHUNK = 2**14  # edges at once


def read(path: Path, scan: Case) -> Mask:
    """Contours filled on the scan's grid. Label values are the ROI numbers, or 1, 2, … where one of them is below 1.

    Points and open lines mark nothing. Raises InputError where structures overlap or a contour lies between slices.
    """
    dataset = opened(path)
    try:
        rois = _rois(dataset)
        frames = {str(roi.get("ReferencedFrameOfReferenceUID", "")) for roi in dataset.StructureSetROISequence}
    except Exception as error:  # pydicom converts values only now, and raises many kinds
        raise InputError(f"{path}: is no RTSTRUCT that can be read ({error!r})") from error
    for frame in frames:
        check_frame(path, frame, Path(scan.name))
    if not rois or len(rois) > MAX_STRUCTURES:
        raise InputError(f"{path}: must hold 1 to {MAX_STRUCTURES} structures with closed contours, found {len(rois)}")
    numbers = [number for number, *_ in rois]
    usable = min(numbers) > 0 and max(numbers) < 2**31 and len(set(numbers)) == len(numbers)
    values = numbers if usable else range(1, len(rois) + 1)
    names = check_names(path, {value: name for value, (_, name, *_) in zip(values, rois, strict=True)})
    colours = {value: colour for value, (*_, colour, _) in zip(values, rois, strict=True) if colour}
    indices = np.zeros(scan.image.shape, np.int16)
    work = [MAX_WORK * scan.image.size]
    for index, (_, name, _, contours) in enumerate(rois, 1):
        for k, part, inside in _filled(path, name, contours, scan, work):
            target = indices[(*part, k)]
            if (both := inside & (target > 0)).any():
                refuse_overlap(path, rois[int(target[both][0]) - 1][1], name, int(both.sum()))
            target[inside] = index
    labels = np.array([0, *values], np.int32)[indices]
    return Mask(labels, scan.affine, names, colours)


def _rois(dataset) -> list[tuple[int, str, Colour | None, list[np.ndarray]]]:
    """Number, name, colour and closed contours (points, LPS mm) of every structure that has any."""
    names = {int(roi.ROINumber): str(roi.ROIName).strip() for roi in dataset.StructureSetROISequence}
    rois = []
    for entry in dataset.ROIContourSequence:
        contours = [
            np.array(contour.ContourData, float).reshape(-1, 3)
            for contour in entry.get("ContourSequence") or ()
            if contour.get("ContourGeometricType") in CLOSED and contour.get("ContourData")
        ]
        colour = tuple(int(c) for c in entry.get("ROIDisplayColor") or ())
        usable = len(colour) == 3 and min(colour) >= 0 and max(colour) < 256
        if contours:
            number = int(entry.ReferencedROINumber)
            rois.append((number, names[number], colour if usable else None, contours))
    return rois


def _filled(
    path: Path, name: str, contours: list[np.ndarray], scan: Case, work: list[int]
) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Slice, part of it (x, y) and what is inside there, of a structure. work: what may yet be done, counted down."""
    inverse = np.linalg.inv(scan.affine) @ LPS_TO_RAS
    by_slice: dict[int, list[np.ndarray]] = {}
    for points in contours:
        voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
        if not np.isfinite(voxels).all() or np.abs(voxels).max() > 1e6:
            raise InputError(f"{path}: the contours of {name!r} must lie in {scan.name}, found others")
        k = round(float(voxels[:, 2].mean()))
        if np.abs(voxels[:, 2] - k).max() > BETWEEN:
            raise InputError(
                f"{path}: the contours of {name!r} must lie in slices of {scan.name}, found one from slice"
                f" {voxels[:, 2].min():.2f} to {voxels[:, 2].max():.2f}; was it drawn on another series?"
            )
        low, high = voxels[:, :2].min(0), voxels[:, :2].max(0)
        if not 0 <= k < scan.image.shape[2] or (low < -1).any() or (high > scan.image.shape[:2]).any():
            raise InputError(
                f"{path}: the contours of {name!r} must lie in {scan.name}, found one outside, in slice {k}"
            )
        by_slice.setdefault(k, []).append(voxels[:, :2])
    for k, polygons in by_slice.items():
        ends = np.array([[p.min(0), p.max(0)] for p in polygons])
        low = np.maximum(np.ceil(ends[:, 0].min(0)), 0).astype(int)
        high = np.minimum(np.floor(ends[:, 1].max(0)) + 1, scan.image.shape[:2]).astype(int)
        if (high <= low).any():
            continue
        inside = _odd(path, polygons, low, high, work)
        yield k, (slice(low[0], high[0]), slice(low[1], high[1])), inside


def _odd(path: Path, polygons: list[np.ndarray], low: np.ndarray, high: np.ndarray, work: list[int]) -> np.ndarray:
    """Whether an odd number of polygons encloses each voxel's centre from ``low`` up to ``high``, (x, y) bool.

    Every edge turns, in the lines of voxels that it crosses, all voxels behind it from outside to inside or back.
    """
    size = high - low
    _spend(path, work, int(np.prod(size)))
    turned = np.zeros((size[0], size[1] + 1), np.uint8)
    start = np.concatenate(polygons) - low
    end = np.concatenate([np.roll(p, -1, 0) for p in polygons]) - low
    for at in range(0, len(start), CHUNK):
        a, b = start[at : at + CHUNK], end[at : at + CHUNK]
        first = np.ceil(np.minimum(a[:, 0], b[:, 0])).clip(0).astype(int)  # lines x with a ≤ x < b or b ≤ x < a
        after = np.ceil(np.maximum(a[:, 0], b[:, 0])).clip(None, size[0]).astype(int)
        count = (after - first).clip(0)
        _spend(path, work, int(count.sum()))
        edge = np.repeat(np.arange(len(a)), count)
        x = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        with np.errstate(invalid="ignore"):
            share = (x - a[edge, 0]) / (b[edge, 0] - a[edge, 0])
        y = np.ceil(a[edge, 1] + share * (b[edge, 1] - a[edge, 1])).clip(0, size[1]).astype(int)
        hits = np.bincount(x * turned.shape[1] + y, minlength=turned.size).reshape(turned.shape)
        turned ^= (hits & 1).astype(np.uint8)
    return np.bitwise_xor.accumulate(turned, 1)[:, :-1].astype(bool)


def _spend(path: Path, work: list[int], amount: int) -> None:
    work[0] -= amount
    if work[0] < 0:
        raise InputError(f"{path}: its contours are too many for the scan; take structures out, or draw them simpler")


def write(labels: np.ndarray, like: Path, structures: Sequence[Structure], output: Path) -> None:
    """Write labels (x, y, z) as contours half-way between voxels' centres, a structure a class that occurs; atomically.

    like: folder of the DICOM files of the query. Reading the contours gives the same labels. Raises InputError, and
    leaves no file, as DICOM-SEG does.
    """
    there = found(labels, structures)
    if not there:
        raise InputError(f"{like}: no structure was found in it, so there is nothing to write to {output.name}")
    slices = source_slices(like, "an RTSTRUCT", labels.shape)
    to_lps = LPS_TO_RAS @ grid_of(like)[1]
    try:
        dataset = _empty(slices)
        for structure in there:
            _add(dataset, structure, _contours(labels == structure.value, to_lps, slices), slices[0])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{like}: no RTSTRUCT can be made of it ({error}); use the mask as .nii.gz, or correct the headers"
        ) from error
    write_atomically(output, lambda temporary: dataset.save_as(temporary, enforce_file_format=True))


def _contours(mask: np.ndarray, to_lps: np.ndarray, slices: list) -> list:
    """Closed contours of a mask (x, y, z) as DICOM has them, each with the slice that it lies in."""
    from pydicom.dataset import Dataset
    from skimage.measure import find_contours

    low, high = extent(mask)
    box = np.pad(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], ((1, 1), (1, 1), (0, 0)))
    contours = []
    for k in range(box.shape[2]):
        for line in find_contours(box[..., k].astype(np.float32), 0.5):
            voxels = np.c_[line[:-1] + low[:2] - 1, np.full(len(line) - 1, low[2] + k)]
            points = voxels @ to_lps[:3, :3].T + to_lps[:3, 3]
            contour = Dataset()
            contour.ContourImageSequence = [_referenced(slices[low[2] + k])]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
            contours.append(contour)
    return contours


def _referenced(part):
    from pydicom.dataset import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = part.SOPClassUID, part.SOPInstanceUID
    return image


def _empty(slices: list):
    """An RTSTRUCT of a series without structures."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    first = slices[0]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit, a value ends at 64 kB
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    for keyword in (*MAY_BE_EMPTY, "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, first[keyword].value)
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: class names are what people type
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    dataset.SeriesNumber = max(1, int(first.get("SeriesNumber") or 0) + SERIES_NUMBER)
    dataset.SeriesDescription = "Iris: segmentation (research only)"
    dataset.Manufacturer, dataset.SoftwareVersions = "Iris (research only)", __version__
    dataset.OperatorsName = dataset.PositionReferenceIndicator = ""
    dataset.StructureSetLabel = "IRIS"
    now = datetime.now()
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_referenced(part) for part in slices]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # detached study management, as the standard asks
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    return dataset


def _add(dataset, structure: Structure, contours: list, first) -> None:
    """Put a structure into an RTSTRUCT: its name, its contours and what it is."""
    from pydicom.dataset import Dataset

    roi, drawn, observed = Dataset(), Dataset(), Dataset()
    roi.ROINumber = drawn.ReferencedROINumber = observed.ReferencedROINumber = structure.value
    roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    roi.ROIName, roi.ROIGenerationAlgorithm = plain_name(structure.name), "AUTOMATIC"
    drawn.ROIDisplayColor, drawn.ContourSequence = list(structure.colour), contours
    observed.ObservationNumber, observed.RTROIInterpretedType, observed.ROIInterpreter = structure.value, "", ""
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(drawn)
    dataset.RTROIObservationsSequence.append(observed)
