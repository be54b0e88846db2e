"""Image files ↔ cases: NIfTI through nibabel; NRRD, MHA, MHD and DICOM folders through SimpleITK.

A file's header is checked (headers.py) before memory is taken for its voxels.
"""

from pathlib import Path

import nibabel
import numpy as np

from iris_core.case import Case, InputError, plain_classes
from iris_core.checkpoint import write_atomically
from nnunet_adapters.headers import MAX_VOXELS, NIFTI, check_header, ending, itk_affine


def stem(path: Path) -> str:
    """A scan's name without its ending."""
    return path.name if path.is_dir() else path.name[: -len(ending(path))]


def ras_affine(properties: dict) -> np.ndarray:
    """Voxel (x, y, z) → RAS+ mm from the properties that nnunetv2's readers return."""
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        return np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), float)
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        return itk_affine(stuff["direction"], stuff["spacing"], stuff["origin"])
    return np.diag([*properties["spacing"][::-1], 1.0])


def check_same_grid(mask_path, mask_shape, mask_affine, path, shape, affine) -> None:
    """Raise InputError unless a mask lies on its image's grid (affines equal to a hundredth of a voxel)."""
    if tuple(mask_shape) != tuple(shape):
        raise InputError(
            f"{mask_path}: a mask must lie on its image's grid; {path} has {tuple(shape)} voxels, it has"
            f" {tuple(mask_shape)}; resample it"
        )
    tolerance = 0.01 * np.linalg.norm(affine[:3, :3], axis=0).min()
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])]).T
    if np.abs((mask_affine - affine) @ corners).max() > max(tolerance, 1e-3):
        raise InputError(
            f"{mask_path}: a mask must lie on its image's grid; its affine\n{mask_affine}\n"
            f"is not that of {path}\n{affine}"
        )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) in file order and the RAS+ affine."""
    if path.is_dir():
        image = _read_dicom(path)
    else:
        ending(path)
        check_header(path)
        if path.name.lower().endswith(NIFTI):
            nifti = nibabel.load(path)
            try:
                return np.asanyarray(nifti.dataobj), nifti.affine
            except Exception as error:
                raise InputError(f"{path}: the voxels cannot be read ({error}); the file is damaged") from error
        import SimpleITK as sitk

        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            raise InputError(f"{path}: the voxels cannot be read; the file is damaged") from error
    import SimpleITK as sitk

    affine = itk_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin())
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine


def series_files(folder: Path) -> tuple[str, ...]:
    """The files of a folder's one DICOM series, in the order in which ``read_scan`` stacks them along its last axis.

    GDCM sorts them by their place along the slices' normal. Raises InputError if there is not exactly one series.
    """
    import SimpleITK as sitk

    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(f"{folder}: must hold one DICOM series, found {len(series)}: {list(series)[:5]}")
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])


def _read_dicom(folder: Path):
    """The one series of a folder as a SimpleITK image; its slices must be parallel, distinct and evenly spaced."""
    import SimpleITK as sitk

    files = series_files(folder)
    try:
        slices = [_slice_place(file) for file in files]
        size, normal = slices[0][2], slices[0][1]
        if len(files) * int(np.prod(size, dtype=object)) > MAX_VOXELS:
            raise InputError(f"{folder}: {len(files)} slices of {size} are more than the limit of {MAX_VOXELS} voxels")
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
        raise InputError(f"{folder}: the DICOM series cannot be read as a volume ({error})") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{folder}: the DICOM series must be one 3D volume of numbers, got {image.GetSize()}")
    return image


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


def read_scan(path: Path) -> Case:
    """Read an image without labels. Raises InputError naming the file."""
    image, affine = _read(path)
    return Case(image.astype(np.float32), affine, name=str(path))


def read_reference(path: Path, mask_path: Path, names: dict[int, str] | None = None) -> Case:
    """Read an image with its mask: integers, 0 background, on the image's grid, not empty. names: value → name."""
    scan = read_scan(path)
    mask, mask_affine = _read(mask_path)
    check_same_grid(mask_path, mask.shape, mask_affine, path, scan.image.shape, scan.affine)
    if not np.isfinite(mask).all() or (mask != np.round(mask)).any() or np.abs(mask).max() > 2**31 - 1:
        raise InputError(f"{mask_path}: a mask must hold whole numbers (labels), found others; is it an image?")
    if not mask.any():
        raise InputError(f"{mask_path}: the mask must mark at least one voxel, it is empty")
    labels = mask.astype(np.int32)
    return Case(scan.image, scan.affine, labels, plain_classes(labels, names), name=str(path))


def write_mask(labels: np.ndarray, like: Path, output: Path) -> None:
    """Write labels (x, y, z) in the file order of the scan ``like``, with its affine and header, atomically."""
    low, high = int(labels.min()), int(labels.max())
    dtype = np.uint8 if low >= 0 and high < 256 else np.int16 if abs(low) < 2**15 > high else np.int32
    labels = np.ascontiguousarray(labels.astype(dtype))
    if not like.is_dir() and like.name.lower().endswith(NIFTI):
        scan = nibabel.load(like)
        header = scan.header.copy()
        header.set_data_dtype(dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        mask = type(scan)(labels, scan.affine, header)
        write_atomically(output, lambda temporary: nibabel.save(mask, temporary))
        return
    import SimpleITK as sitk

    mask = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    scan = _read_dicom(like) if like.is_dir() else sitk.ReadImage(str(like))
    mask.CopyInformation(scan)
    for key in scan.GetMetaDataKeys():
        value = scan.GetMetaData(key)
        if value and not like.is_dir() and not key.startswith("ITK_"):
            mask.SetMetaData(key, value)
    write_atomically(output, lambda temporary: sitk.WriteImage(mask, str(temporary), True))
