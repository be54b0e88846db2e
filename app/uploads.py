"""What visitors upload: which files belong together, and how DICOM becomes series in folders."""

import errno
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from iris_core.case import InputError
from nnunet_adapters.dicom_lengths import check_lengths
from nnunet_adapters.images import stem

WORDS = re.compile(r"([-_. ]?(masks?|rtstruct|seg|segmentation|labels?|gt|truth|corrected))+$", re.IGNORECASE)
CHANNEL = re.compile(r"_\d{4}$")  # nnU-Net's
LOOSE = (".dcm", ".ima")
MAX_FILES, MAX_BYTES = 5000, 4 * 2**30  # of a zip, unpacked


def key(path: Path) -> str:
    """A name without ending and words like _mask."""
    name = path.stem if path.suffix.lower() in LOOSE else stem(path)
    return WORDS.sub("", name).lower()


def _short(path: Path) -> str:
    """The same without a channel: of several images of a patient, or a patient's number that looks like one."""
    return CHANNEL.sub("", key(path))


def scan_of(mask: Path, scans: Sequence[Path]) -> Path | None:
    """The one scan that a mask is called after; None where there is none, or more than one."""
    for of_scan, of_mask in ((key, key), (_short, key), (_short, _short)):
        if found := [scan for scan in scans if of_scan(scan) == of_mask(mask)]:
            return found[0] if len(found) == 1 else None
    return None


def pairs(scans: Sequence[Path], masks: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each reference with its mask: by their names where all match (a.nii.gz, a_mask.nii.gz), else in their order.

    scans: files, or folders of DICOM series (see ``gather``).
    """
    if len(scans) != len(masks):
        raise InputError(
            f"Every reference scan needs one mask, got {len(scans)} scans and {len(masks)} masks; add or remove files"
        )
    named = {scan_of(mask, scans): mask for mask in masks}
    if set(named) == set(scans):
        return [(scan, named[scan]) for scan in scans]
    return list(zip(scans, masks, strict=True))


def truths_of(queries: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    """Query → its true mask, by their names; one of each belong together whatever they are called."""
    if len(queries) == len(masks) == 1:
        return {queries[0]: masks[0]}
    truths: dict[Path, Path] = {}
    for mask in masks:
        query = scan_of(mask, queries)
        if query is None:
            raise InputError(f"{mask.name}: no query has this name; call a true mask like its query, query_mask.nii.gz")
        if query in truths:
            raise InputError(f"{mask.name}: {query.name} has a true mask already, {truths[query].name}; remove one")
        truths[query] = mask
    return truths


def gather(paths: Sequence[Path], folder: Path) -> dict[Path, tuple[Path, ...]]:
    """Scan → the uploads that it is made of. A zip and loose .dcm files become one folder below ``folder`` each."""
    groups: dict[object, list[Path]] = {}
    for path in paths:
        groups.setdefault(_series(path) if path.suffix.lower() in LOOSE else path, []).append(path)
    return {_scan(group, folder): tuple(group) for group in groups.values()}


def _scan(group: list[Path], folder: Path) -> Path:
    """A scan's own file, or a new folder with the files of one series, numbered."""
    first = group[0]
    if first.suffix.lower() == ".zip":
        return _unpack(first, folder)
    if first.suffix.lower() not in LOOSE:
        return first
    series = _new_folder(folder, "series")
    for index, file in enumerate(group):
        (series / f"{index:05d}.dcm").hardlink_to(file)
    return series


def _unpack(archive: Path, folder: Path) -> Path:
    """The files of a zip, numbered: names inside it lead nowhere."""
    series = _new_folder(folder, re.sub(r"[^\w -]", "_", archive.stem) or "series")
    try:
        with zipfile.ZipFile(archive) as content:
            files = [entry for entry in content.infolist() if not entry.is_dir()]
            size = sum(entry.file_size for entry in files)
            if len(files) > MAX_FILES or size > MAX_BYTES:
                raise InputError(
                    f"{archive.name}: a zip may hold {MAX_FILES} files and {MAX_BYTES / 2**30:.0f} GiB, got"
                    f" {len(files)} files and {size / 2**30:.1f} GiB; split it"
                )
            for index, entry in enumerate(files):
                with content.open(entry) as packed, open(series / f"{index:05d}.dcm", "wb") as file:
                    shutil.copyfileobj(packed, file)
    except Exception as error:  # zipfile and its decompressors each raise their own
        full = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)  # our disk's fault, not the zip's
        if full or isinstance(error, InputError):
            raise
        raise InputError(
            f"{archive.name}: must be a zip of one DICOM series, it is damaged or another kind ({error}); zip it again"
        ) from error
    return series


def _series(path: Path) -> str:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    check_lengths(path)
    try:
        reader.ReadImageInformation()
        return reader.GetMetaData("0020|000e")
    except RuntimeError as error:
        raise InputError(f"{path.name}: is no DICOM file that can be read") from error


def _new_folder(folder: Path, name: str) -> Path:
    series, number = folder / name, 2
    while series.exists():
        series, number = folder / f"{name} {number}", number + 1
    series.mkdir(parents=True)
    return series
