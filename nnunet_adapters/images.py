"""Image files ↔ cases: NIfTI through nibabel; NRRD, MHA, MHD and DICOM folders through SimpleITK.

Files come from strangers: a header is checked, against the size of the file too, before memory is taken for voxels.
"""

import gzip
import mmap
import re
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.openers import ImageOpener

from iris_core.case import Case, InputError, plain_classes
from iris_core.checkpoint import write_atomically

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".mha", ".mhd")
ENDINGS = (*NIFTI, *ITK)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_VOXELS = 2**31  # 8 GiB as float32
MAX_HEADER_BYTES = 2**24
MAX_DEFLATE = 1032  # no deflate stream expands further, so a header that promises more is untrue


def is_scan(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def ending(path: Path) -> str:
    """The file ending, '.nii.gz' whole. Raises InputError if no reader takes it."""
    if not is_scan(path):
        raise InputError(f"{path}: a scan must be a {', '.join(ENDINGS)} file or a folder of DICOM files")
    return next(e for e in sorted(ENDINGS, key=len, reverse=True) if path.name.lower().endswith(e))


def stem(path: Path) -> str:
    """A scan's name without its ending."""
    return path.name if path.is_dir() else path.name[: -len(ending(path))]


def check_header(path: Path) -> None:
    """Raise InputError unless the file's header says one 3D scalar volume that the file can really hold.

    Formats that only nnunetv2 reads (TIFF) are left to it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.name.lower().endswith(NIFTI):
        _check_nifti(path)
    elif path.name.lower().endswith(ITK):
        _check_itk(path)


def _check_nifti(path: Path) -> None:
    raw = _raw_nifti_header(path)
    offset = max(int(raw["vox_offset"]), raw.single_vox_offset)
    if offset > MAX_HEADER_BYTES:
        raise InputError(f"{path}: a header must end within {MAX_HEADER_BYTES} bytes, this one claims {offset}")
    item = raw.get_data_dtype()
    if item.kind not in "iuf" or item.fields:
        raise InputError(f"{path}: a voxel must be one number, got {item}")
    try:
        shape = raw.get_data_shape()
        affine = nibabel.load(path).affine
    except Exception as error:  # nibabel, gzip and zlib each raise their own
        raise InputError(f"{path}: not a readable NIfTI file ({error}); was it renamed or cut off?") from error
    _check_geometry(path, shape, np.array(raw["pixdim"][1 : 1 + min(3, len(shape))], float), affine)
    voxels = int(np.prod(shape, dtype=object))
    need = offset + voxels * item.itemsize
    if path.name.lower().endswith(".gz"):
        _check_size(path, voxels, need, path.stat().st_size * MAX_DEFLATE)
        _check_size(path, voxels, need, _unpacked_size(path, need))
    else:
        _check_size(path, voxels, need, path.stat().st_size)


def _raw_nifti_header(path: Path):
    """The header as it is: nibabel.load mends a zero or negative voxel size silently, and loads extensions unasked."""
    try:
        with ImageOpener(path) as file:
            start = file.read(nibabel.Nifti2Header.template_dtype.itemsize)
        for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
            if kind.may_contain_header(start):
                return kind(start[: kind.template_dtype.itemsize], check=False)
    except Exception as error:  # gzip and zlib each raise their own
        raise InputError(f"{path}: not a readable NIfTI file ({error}); was it renamed or cut off?") from error
    raise InputError(f"{path}: not a readable NIfTI file (no NIfTI header); was it renamed or cut off?")


def _unpacked_size(path: Path, need: int) -> int:
    """Bytes that a gzip file unpacks to. Its trailer says so where it holds one stream; else count up to ``need``."""
    with open(path, "rb") as file:
        file.seek(-4, 2)
        (claimed,) = struct.unpack("<I", file.read(4))
    if claimed == need % 2**32:
        return need
    total = 0
    try:
        with gzip.open(path) as file:
            while total < need and (chunk := file.read(2**16)):
                total += len(chunk)
    except (EOFError, OSError, zlib.error):
        pass
    return total


def _check_itk(path: Path) -> None:
    import SimpleITK as sitk

    data, start, packed = _itk_data(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable {ending(path)} file; was it renamed or cut off?") from error
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path}: a voxel must be one number, got {reader.GetNumberOfComponents()} components")
    size, dimension = reader.GetSize(), reader.GetDimension()
    if dimension != 3:
        raise InputError(f"{path}: a scan must have 3 dimensions, got {dimension}: {size}")
    _check_geometry(path, size, np.array(reader.GetSpacing()), _affine(reader))
    voxels = int(np.prod(size, dtype=object))
    item = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).itemsize
    _check_size(path, voxels, voxels * item, (data.stat().st_size - start) * (MAX_DEFLATE if packed else 1))


def _itk_data(path: Path) -> tuple[Path, int, bool]:
    """Where a MetaImage's or NRRD's voxels are: file, first byte, compressed or not.

    ITK would follow a header to any file of the machine. Its parser forgives much, so the whole file is searched and
    only one plain form is let through: voxels in the file itself, or (.mhd) in a file beside it.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if ending(path) == ".nrrd":
            if re.search(rb"(?i)[\r\n]\s*data ?file\s*:", text):
                raise InputError(f"{path}: must hold its voxels itself, its header names another file")
            end = re.search(rb"\r?\n\r?\n", text)
            if end is None:
                raise InputError(f"{path}: not a readable .nrrd file; was it renamed or cut off?")
            return path, end.end(), bool(re.search(rb"(?i)encoding: *(gz|bz)", text[: end.end()]))
        lines = list(re.finditer(rb"[^\r\n]*ElementDataFile[^\r\n]*", text))
        plain = re.fullmatch(rb"ElementDataFile *= *(\S+) *", lines[0][0]) if len(lines) == 1 else None
        if plain is None:
            raise InputError(f"{path}: must have one line 'ElementDataFile = …', found {len(lines)} or another form")
        name, end = plain[1].decode("latin-1"), text.find(b"\n", lines[0].start()) + 1
        packed = bool(re.search(rb"(?i)CompressedData *= *true", text[: lines[0].start()]))
    if name == "LOCAL":
        return path, end, packed
    data = path.parent / name
    if ending(path) != ".mhd" or Path(name).name != name or not data.is_file() or data.is_symlink():
        raise InputError(f"{path}: its voxels must lie in it or (.mhd) in a file beside it, got {name!r}")
    return data, 0, packed


def _check_geometry(path: Path, shape: tuple[int, ...], spacing: np.ndarray, affine: np.ndarray) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path}: a scan must have 3 dimensions, got {len(shape)}: {tuple(shape)}")
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise InputError(f"{path}: every voxel size must be positive, got {spacing.tolist()} mm; correct the header")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: the affine must be invertible, got\n{affine}; correct the header")


def _check_size(path: Path, voxels: int, need: int, held: int) -> None:
    if need > held:
        raise InputError(f"{path}: the header promises {need} bytes, the file holds at most {held}; it is cut off")
    if voxels > MAX_VOXELS:
        raise InputError(f"{path}: {voxels} voxels are more than the limit of {MAX_VOXELS}; crop the scan")


def _affine(image) -> np.ndarray:
    """Voxel → RAS+ mm of a SimpleITK image (or reader), which itself thinks in LPS+."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def ras_affine(properties: dict) -> np.ndarray:
    """Voxel (x, y, z) → RAS+ mm from the properties that nnunetv2's readers return."""
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        return np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), float)
    if "sitk_stuff" in properties:
        stuff, affine = properties["sitk_stuff"], np.eye(4)
        affine[:3, :3] = np.array(stuff["direction"]).reshape(3, 3) * np.array(stuff["spacing"])
        affine[:3, 3] = stuff["origin"]
        return LPS_TO_RAS @ affine
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

    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), _affine(image)


def _read_dicom(folder: Path):
    """The one series of a folder as a SimpleITK image; its slices must be parallel, distinct and evenly spaced."""
    import SimpleITK as sitk

    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(f"{folder}: must hold one DICOM series, found {len(series)}: {list(series)[:5]}")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
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
        raise InputError(f"{folder}: the DICOM series {series[0]} cannot be read as a volume ({error})") from error
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
