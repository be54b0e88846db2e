"""What a file claims to be, checked before memory is taken: formats, sizes, geometry, where the voxels lie.

Files come from strangers. A header is believed only as far as the file's size bears it out.
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

from iris_core.case import LARGEST_MM, SMALLEST_MM, InputError, usable_sizes

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".mha", ".mhd")
ENDINGS = (*NIFTI, *ITK)
MAX_VOXELS = 2**31  # 8 GiB as float32; see limit_voxels
MAX_HEADER_BYTES = 2**24
MAX_ITK_HEADER_BYTES = 2**20  # ITK's parsers take the square of a header's lines: 97 s of 8 MB, 2 s of this
_most_voxels = MAX_VOXELS
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_DEFLATE = 1032  # no deflate stream expands further, so a header that promises more is untrue
# Patterns run over whole files of strangers: each byte is looked at a bounded number of times.
META_FIELD = b"ElementDataFile"
META_LINE = re.compile(rb"ElementDataFile *= *(\S{1,999}) *\r?(?:\n|\Z)")
NRRD_FIELD = re.compile(rb"(?i)[\r\n][ \t\v\f]*data ?file\s*:")
# ITK's parsers write beyond their buffers, and the process dies, at a number of dimensions that is none (MetaImage) and
# where a message repeats a field of 900 bytes or more (NRRD); comments and values under keys of one's own may be long.
META_DIMENSIONS = re.compile(rb"NDims(?! *= *[1-9] *(?:[\r\n]|\Z))")
NRRD_LONG = re.compile(rb"(?<![^\r\n])(?!#|(?!NRRD)[^:\r\n]*:=)[^\r\n]{513}")


def limit_voxels(voxels: int) -> None:
    """From now on no file of more voxels is read in this process, by whichever reader: a server's limit."""
    global _most_voxels
    _most_voxels = voxels


def most_voxels() -> int:
    return _most_voxels


def is_scan(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def ending(path: Path) -> str:
    """The file ending, '.nii.gz' whole. Raises InputError if no reader takes it."""
    if not is_scan(path):
        raise InputError(f"{path}: a scan must be a {', '.join(ENDINGS)} file or a folder of DICOM files")
    return next(e for e in sorted(ENDINGS, key=len, reverse=True) if path.name.lower().endswith(e))


def check_header(path: Path, layers: int = 1) -> None:
    """Raise InputError unless the file's header says one 3D volume that the file can really hold.

    layers: how many numbers a voxel may have, of a NRRD; Slicer's overlapping segments lie in several.
    Formats that only nnunetv2 reads (TIFF) are left to it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.name.lower().endswith(NIFTI):
        _check_nifti(path)
    elif path.name.lower().endswith(ITK):
        _check_itk(path, layers)


def _check_nifti(path: Path) -> None:
    raw = _raw_nifti_header(path)
    if not abs(raw["vox_offset"]) <= MAX_HEADER_BYTES:  # NaN neither
        claimed = raw["vox_offset"]
        raise InputError(f"{path}: a header must end within {MAX_HEADER_BYTES} bytes, this one claims {claimed}")
    offset = max(int(raw["vox_offset"]), raw.single_vox_offset)
    try:
        item = raw.get_data_dtype()
    except KeyError as error:
        raise InputError(
            f"{path}: the header's datatype must be one of NIfTI's codes, got {error}; save the scan again"
        ) from error
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


def _check_itk(path: Path, layers: int) -> None:
    import SimpleITK as sitk

    data, start, packed = _itk_data(path)
    # Some of ITK's readers look at the content alone: HDF5, which may name other files too, in a file called .mha.
    if sitk.ImageFileReader.GetImageIOFromFileName(str(path)) not in ("MetaImageIO", "NrrdImageIO"):
        raise InputError(f"{path}: not a readable {ending(path)} file; was it renamed or cut off?")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable {ending(path)} file; was it renamed or cut off?") from error
    components = reader.GetNumberOfComponents()
    if components > layers:
        most = "one number" if layers == 1 else f"{layers} numbers at most"
        raise InputError(f"{path}: a voxel must be {most}, got {components} components")
    size, dimension = reader.GetSize(), reader.GetDimension()
    if dimension != 3:
        raise InputError(f"{path}: a scan must have 3 dimensions, got {dimension}: {size}")
    affine = itk_affine(reader.GetDirection(), reader.GetSpacing(), reader.GetOrigin())
    _check_geometry(path, size, np.array(reader.GetSpacing()), affine)
    voxels = int(np.prod(size, dtype=object)) * components
    item = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).itemsize
    _check_size(path, voxels, voxels * item, (data.stat().st_size - start) * (MAX_DEFLATE if packed else 1))


def _itk_data(path: Path) -> tuple[Path, int, bool]:
    """Where a MetaImage's or NRRD's voxels are: file, first byte, compressed or not.

    ITK would follow a header to any file of the machine. Its parser forgives much, but a field's name must be there
    letter by letter: so the whole file is searched for it and only one plain form is let through, voxels in the file
    itself, or (.mhd) in a file beside it.
    """
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if ending(path) == ".nrrd":
            if NRRD_FIELD.search(text):
                raise InputError(f"{path}: must hold its voxels itself, its header names another file")
            blank = re.search(rb"\r?\n\r?\n", text)
            if blank is None:
                raise InputError(f"{path}: not a readable .nrrd file; was it renamed or cut off?")
            name, end, compression = "LOCAL", blank.end(), rb"(?i)encoding: *(gz|bz)"
            fatal, rule = NRRD_LONG, "a field of a NRRD must have 512 bytes at most"
        else:
            at = text.find(META_FIELD)
            line = META_LINE.match(text, at) if at >= 0 and text[at - 1 : at] in (b"", b"\n") else None
            if line is None:
                raise InputError(f"{path}: must have one line 'ElementDataFile = …', found none or another form of it")
            if (again := text.find(META_FIELD, line.end())) >= 0:
                raise InputError(
                    f"{path}: must have one line 'ElementDataFile = …', found the word again at byte {again}; if it is"
                    " among the voxels by chance, save the scan as .nii.gz"
                )
            name, end, compression = line[1].decode("latin-1"), line.end(), rb"(?i)CompressedData *= *true"
            fatal, rule = META_DIMENSIONS, "the number of dimensions must be one line 'NDims = 3'"
        if end > MAX_ITK_HEADER_BYTES:
            raise InputError(f"{path}: a header must end within {MAX_ITK_HEADER_BYTES} bytes, this one has {end}")
        if wrong := fatal.search(text[:end]):
            got = text[wrong.start() : wrong.start() + 20].decode("latin-1")
            raise InputError(f"{path}: {rule}, got {got!r}; save the scan again")
        packed = bool(re.search(compression, text[:end]))
    if name == "LOCAL":
        return path, end, packed
    data = path.parent / name
    plain = name.upper() not in ("LOCAL", "LIST") and not set(name) & set("/\\%:=")  # ITK reads more into these
    if ending(path) != ".mhd" or not plain or not data.is_file() or data.is_symlink():
        raise InputError(f"{path}: its voxels must lie in it or (.mhd) in a file beside it, got {name!r}")
    return data, 0, packed


def _check_geometry(path: Path, shape: tuple[int, ...], spacing: np.ndarray, affine: np.ndarray) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path}: a scan must have 3 dimensions, got {len(shape)}: {tuple(shape)}")
    if not usable_sizes(spacing):
        raise InputError(
            f"{path}: every voxel size must be positive, {SMALLEST_MM} to {LARGEST_MM:g} mm, got {spacing.tolist()} mm;"
            " correct the header"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: the affine must be invertible, got\n{affine}; correct the header")


def _check_size(path: Path, voxels: int, need: int, held: int) -> None:
    if need > held:
        raise InputError(f"{path}: the header promises {need} bytes, the file holds at most {held}; it is cut off")
    if voxels > most_voxels():
        raise InputError(f"{path}: {voxels} voxels are more than the limit of {most_voxels()}; crop the scan")


def itk_affine(direction, spacing_mm, origin_mm) -> np.ndarray:
    """Voxel → RAS+ mm from SimpleITK's description of a 3D image, which is in LPS+."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(direction).reshape(3, 3) * np.array(spacing_mm)
    affine[:3, 3] = origin_mm
    return LPS_TO_RAS @ affine
