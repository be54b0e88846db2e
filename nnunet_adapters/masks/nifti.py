"""Masks as NIfTI. Names and colours lie in an extension of the header, as TotalSegmentator writes it.

The extension is XML, the label table of Caret: its code is 0, its text an element CaretExtension.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import nibabel
import numpy as np

from iris_core.case import InputError
from iris_core.files import write_atomically
from nnunet_adapters.headers import NIFTI
from nnunet_adapters.masks.mask import MAX_TEXT_BYTES, Described, Structure, check_names, smallest
from nnunet_adapters.voxels import grid_of

CARET = b"CaretExtension"
TABLE = """<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date>2013-07-14T05:45:09</Date>\
   <VolumeInformation Index="0">   <LabelTable>
{}
  </LabelTable>  <StudyMetaDataLinkSet>  </StudyMetaDataLinkSet>  <VolumeType>Label</VolumeType>\
   </VolumeInformation></CaretExtension>
"""
LABEL = '<Label Key="{}" Red="{}" Green="{}" Blue="{}" Alpha="1">{}</Label>'


def inside(path: Path) -> Described:
    """Names and colours in TotalSegmentator's extension of a NIfTI; none where there is no such extension."""
    names, colours = {}, {}
    for extension in nibabel.load(path).header.extensions:
        content = _content(extension)
        if CARET not in content:
            continue
        if len(content) > MAX_TEXT_BYTES or b"<!ENTITY" in content or b"<!DOCTYPE" in content:
            raise InputError(f"{path}: names in its header must be a plain table of {MAX_TEXT_BYTES} bytes at most")
        try:
            table = ElementTree.fromstring(content.rstrip(b"\0 \n").decode("utf-8")).iter("Label")
            for entry in table:
                value = int(entry.attrib["Key"])
                if value in names:
                    raise ValueError(f"label {value} twice")
                names[value] = (entry.text or "").strip()
                rgb = [float(entry.attrib[channel]) for channel in ("Red", "Green", "Blue")]
                colours[value] = tuple(round(255 * min(max(share, 0.0), 1.0)) for share in rgb)
        except (ElementTree.ParseError, KeyError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: the table of names in its header is damaged ({error}); save it again") from error
    names.pop(0, None)
    return check_names(path, names), colours


def _content(extension) -> bytes:
    content = extension.get_content()
    return content if isinstance(content, bytes) else str(content).encode("utf-8", "replace")


def write(labels: np.ndarray, like: Path, structures: Sequence[Structure], output: Path) -> None:
    """Write labels (x, y, z) in the file order of the scan ``like``, with its affine, atomically.

    Of a NIfTI the header is kept, in which viewers find what the affine is relative to.
    """
    nifti = image(smallest(labels), like)
    if structures:
        entries = [LABEL.format(s.value, *(c / 255 for c in s.colour), escape(s.name)) for s in structures]
        xml = TABLE.format("\n".join(entries)).encode()
        others = [e for e in nifti.header.extensions if CARET not in _content(e)]
        nifti.header.extensions[:] = [*others, nibabel.nifti1.Nifti1Extension(0, xml)]
    write_atomically(output, lambda temporary: nibabel.save(nifti, temporary))


def image(voxels: np.ndarray, like: Path) -> nibabel.Nifti1Image:
    """Voxels (x, y, z) as a NIfTI on the grid of the scan ``like``."""
    if not like.is_dir() and like.name.lower().endswith(NIFTI):
        scan = nibabel.load(like)
        header = scan.header.copy()
        header.set_data_dtype(voxels.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        return type(scan)(voxels, scan.affine, header)
    nifti = nibabel.Nifti1Image(voxels, grid_of(like)[1])
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(nifti.affine, 1)
    nifti.set_sform(nifti.affine, 1)
    return nifti
