"""Files → voxels in file order: NIfTI through nibabel; NRRD, MHA, MHD and DICOM folders through SimpleITK.

A file's header is checked (headers.py) before memory is taken for its voxels.
"""

from pathlib import Path

import nibabel
import numpy as np

from iris_core.case import InputError
from nnunet_adapters.dicom_lengths import check_lengths
from nnunet_adapters.headers import LPS_TO_RAS, MAX_DEFLATE, NIFTI, check_header, ending, itk_affine, most_voxels


def read_voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) in file order and the RAS+ affine."""
    if path.is_dir():
        image = read_dicom(path)
    else:
        ending(path)
        check_header(path)
        if path.name.lower().endswith(NIFTI):
            nifti = nibabel.load(path)
            try:
                return np.asanyarray(nifti.dataobj), nifti.affine
            except Exception as error:
                raise InputError(f"{path}: the voxels cannot be read ({error}); the file is damaged") from error
        image = read_itk(path)
    import SimpleITK as sitk

    affine = itk_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin())
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine


def stamp(path: Path) -> list[tuple]:
    """Of a scan's file, or of each in its folder: name, inode, size and time. Another stamp is another scan."""
    files = sorted(path.iterdir()) if path.is_dir() else [path] * path.exists()
    return [(file.name, s.st_ino, s.st_size, s.st_mtime_ns) for file in files for s in [file.stat()]]


def read_itk(path: Path):
    """A file whose header was checked, as a SimpleITK image."""
    import SimpleITK as sitk

    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: the voxels cannot be read; the file is damaged") from error


def itk_fields(image) -> dict[str, str]:
    """What a SimpleITK image's header says beyond the grid; without what is not UTF-8, which cannot be passed on."""

    def plain(text: str) -> bool:
        return text.encode("utf-8", "ignore").decode() == text

    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if plain(key)}
    return {key: value for key, value in fields.items() if plain(value)}


def itk_image(voxels: np.ndarray, affine: np.ndarray):
    """Voxels (x, y, z) and their RAS+ affine as a SimpleITK image."""
    import SimpleITK as sitk

    lps = LPS_TO_RAS @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    image.SetSpacing(spacing_mm.tolist())
    image.SetDirection((lps[:3, :3] / spacing_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def grid_of(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape (x, y, z) and RAS+ affine of a scan that was read before."""
    import SimpleITK as sitk

    if path.is_dir():
        image = read_dicom(path)
    elif path.name.lower().endswith(NIFTI):
        nifti = nibabel.load(path)
        return nifti.shape, nifti.affine
    else:
        image = sitk.ImageFileReader()
        image.SetFileName(str(path))
        image.ReadImageInformation()
    return image.GetSize(), itk_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin())


def series_files(folder: Path) -> tuple[str, ...]:
    """The files of a folder's one DICOM series, in the order in which ``read_dicom`` stacks them along its last axis.

    GDCM sorts them by their place along the slices' normal. Raises InputError if there is not exactly one series.
    """
    return _series(folder)[0]


def _series(folder: Path) -> tuple[tuple[str, ...], set[str]]:
    """``series_files``, and the names of those whose pixels are compressed."""
    import SimpleITK as sitk

    compressed = {file.name for file in sorted(folder.iterdir()) if file.is_file() and check_lengths(file)}
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    except RuntimeError as error:
        raise InputError(f"{folder}: holds a damaged DICOM file, GDCM says {_last_line(error)}") from error
    if len(series) != 1:
        raise InputError(f"{folder}: must hold one DICOM series, found {len(series)}: {list(series)[:5]}")
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]), compressed


def read_dicom(folder: Path):
    """The one series of a folder as a SimpleITK image; its slices must be parallel, distinct and evenly spaced."""
    import SimpleITK as sitk

    files, compressed = _series(folder)
    try:
        slices = [_slice_place(file) for file in files]
        size, normal = slices[0][2], slices[0][1]
        voxels = len(files) * int(np.prod(size, dtype=object))
        held = sum(Path(file).stat().st_size * (MAX_DEFLATE if Path(file).name in compressed else 1) for file in files)
        if voxels > min(most_voxels(), 8 * held):  # a voxel has a bit at least
            raise InputError(
                f"{folder}: {len(files)} slices of {size} are more than the limit of {most_voxels()} voxels, or than"
                f" their {held} bytes can hold"
            )
        gaps = np.diff([position @ normal for position, _, _ in slices])
        even = len(gaps) == 0 or (np.abs(gaps).min() > 0 and np.ptp(gaps) <= 0.02 * np.abs(gaps).max())
        if not even or any(np.abs(n - normal).max() > 1e-3 or s != size for _, n, s in slices):
            steps = sorted({round(float(gap), 3) for gap in gaps})
            raise InputError(
                f"{folder}: the slices of a DICOM series must be parallel, distinct and evenly spaced, found steps of"
                f" {steps[:8]} mm; is a slice missing, or are there several phases in it?"
            )
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        image = reader.Execute()
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: the DICOM series cannot be read as a volume ({_last_line(error)})") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{folder}: the DICOM series must be one 3D volume of numbers, got {image.GetSize()}")
    return image


def _last_line(error: Exception) -> str:
    """What went wrong; the lines before say where in SimpleITK's sources."""
    return str(error).strip().rpartition("\n")[2]


def _slice_place(file: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Position (mm), normal and size of one DICOM slice, from its header. A multi-frame file says them otherwise."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    if not reader.HasMetaDataKey("0020|0032") or not reader.HasMetaDataKey("0020|0037"):
        direction = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)
        return np.array(reader.GetOrigin()), direction[:, -1], reader.GetSize()
    position = np.array(reader.GetMetaData("0020|0032").split("\\"), float)
    rows, columns = np.array(reader.GetMetaData("0020|0037").split("\\"), float).reshape(2, 3)
    return position, np.cross(rows, columns), reader.GetSize()
