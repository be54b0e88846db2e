"""Every kind of bad input, as makers of files: kind → (maker, what the message must say)."""

import gzip
import struct

import nibabel
import numpy as np
import SimpleITK as sitk
from conftest import ball, write_nifti


def header_with(path, **fields):
    """A NIfTI file whose header says something else than its voxels."""
    raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    offsets = {
        "dim": (40, "<8h"),
        "datatype": (70, "<h"),
        "vox_offset": (108, "<f"),
        "pixdim": (76, "<8f"),
        "srow": (280, "<12f"),
        "sform_code": (254, "<h"),
    }
    for name, values in fields.items():
        offset, form = offsets[name]
        struct.pack_into(form, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path


def zeros(path, shape=(8, 8, 8), value=0.0):
    return write_nifti(path, np.full(shape, value, np.float32))


def truncated_gz(p):
    write_nifti(p, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    p.write_bytes(p.read_bytes()[:-2000])
    return p


def truncated_nii(p):
    p = p.with_suffix("").with_suffix(".nii")
    zeros(p)
    p.write_bytes(p.read_bytes()[:-100])
    return p


def bomb(p):
    """A small file whose header promises 32767³ voxels of 8 bytes."""
    write_nifti(p, np.zeros((4, 4, 4)))
    return header_with(p, dim=(3, 32767, 32767, 32767, 1, 1, 1, 1))


def truncated_mha(p):
    p = p.parent / "scan.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 8), np.float32)), str(p))
    p.write_bytes(p.read_bytes()[:-100])
    return p


def outside_mhd(p):
    p = p.parent / "scan.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 8), np.float32)), str(p))
    p.write_text(p.read_text("utf-8").replace("scan.raw", "../../../etc/passwd"))
    return p


def crafted(name, header, beside=()):
    """A MetaImage or NRRD whose header leads to another file of the machine, in a form ITK's parser follows.

    beside: names of files that lie in its folder, as where a visitor unpacked an archive.
    """

    def make(p):
        p = p.parent / name
        secret = p.parent.parent / "secret.bin"
        secret.write_bytes(bytes(512))
        for decoy in beside:
            (p.parent / decoy).write_bytes(bytes(512))
        p.write_bytes(header.replace("SECRET", str(secret)).encode("latin-1"))
        return p

    return make


META = "ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 8 8 8\nencoding: raw\n"
CRAFTED = {
    "mha to another file": crafted("scan.mha", META + "ElementDataFile = SECRET\n"),
    "mha after a blank line": crafted("scan.mha", META + "\nElementDataFile = SECRET\n"),
    "mha after a decoy": crafted("scan.mha", META + "data file: LOCAL\nElementDataFile = SECRET\n"),
    "mha after 80 kB": crafted("scan.mha", META + "Foo = x\n" * 10000 + "ElementDataFile = SECRET\n"),
    "mha with a space": crafted("scan.mha", META + " ElementDataFile = SECRET\n"),
    "mha with a colon": crafted("scan.mha", META + "ElementDataFile: SECRET\n"),
    "mha twice": crafted("scan.mha", META + "Foo\nElementDataFile = LOCAL\nElementDataFile = SECRET\n"),
    "mha after another line end": crafted("scan.mha", META + "Foo = x\rElementDataFile = SECRET\n"),
    "mha after a carriage return": crafted("scan.mha", META + "ElementDataFile = LOCAL\rSECRET\n"),
    "mha with CRLF": crafted("scan.mha", META.replace("\n", "\r\n") + "ElementDataFile = SECRET\r\n"),
    "mha in a long line": crafted("scan.mha", META + "Foo = " + "x" * 499 + "ElementDataFile = SECRET\n"),
    "mha with a zero byte": crafted("scan.mha", META + "ElementDataFile\0 = SECRET\nElementDataFile = LOCAL\n"),
    "mha with a name cut off": crafted("scan.mha", META + "ElementDataFile = SECRET\0LOCAL\n"),
    "mha with voxels that say so": crafted("scan.mha", META + "ElementDataFile = LOCAL\n\0ElementDataFile = SECRET\n"),
    "mhd with a list": crafted("scan.mhd", META + "ElementDataFile = LIST\nSECRET\n", ["LIST"]),
    "mhd with a pattern": crafted("scan.mhd", META + "ElementDataFile = s%s%n.raw\n", ["s%s%n.raw"]),
    "mhd with a backslash": crafted("scan.mhd", META + "ElementDataFile = ..\\secret.bin\n", ["..\\secret.bin"]),
    "nrrd to another file": crafted("scan.nrrd", NRRD + "data file: SECRET\n\n"),
    "nrrd after 80 kB": crafted("scan.nrrd", NRRD + "# x\n" * 20000 + "data file: SECRET\n\n"),
    "nrrd in one word": crafted("scan.nrrd", NRRD + "datafile: SECRET\n\n"),
    "nrrd in capitals": crafted("scan.nrrd", NRRD + "DATA FILE: SECRET\r\n\r\n"),
    "nrrd indented": crafted("scan.nrrd", NRRD + "\n\n \tData File: SECRET\n\n"),
}


def hdf5(p):
    """ITK's HDF5 reader knows a file by its content; HDF5 may lead to other files too."""
    inner, p = p.parent / "scan.hdf5", p.parent / "scan.mha"
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkUInt8), str(inner))
    head = (META + "ElementDataFile = LOCAL\n").encode()
    p.write_bytes(head.ljust(512, b"\0") + inner.read_bytes())
    return p


def long_header(p):
    p = p.parent / "scan.mha"
    p.write_bytes((META + "Foo = x\n" * 2**17 + "ElementDataFile = LOCAL\n").encode() + bytes(512))
    return p


def empty_file(p):
    p = p.parent / "scan.mha"
    p.write_bytes(b"")
    return p


def renamed_png(p):
    p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2000))
    return p


def not_a_scan(p):
    p = p.parent / "scan.txt"
    p.write_text("hello")
    return p


def colour(p):
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), dtype), np.eye(4)), p)
    return p


BAD_SCANS = {
    "2D": (lambda p: write_nifti(p, np.zeros((8, 8), np.float32)), "3 dimensions, got 2"),
    "4D": (lambda p: write_nifti(p, np.zeros((8, 8, 8, 2), np.float32)), "3 dimensions, got 4"),
    "NaN": (lambda p: zeros(p, value=np.nan), "NaN or infinite"),
    "infinity": (lambda p: zeros(p, value=np.inf), "NaN or infinite"),
    "zero spacing": (lambda p: header_with(zeros(p), pixdim=(1, 0, 1, 1, 0, 0, 0, 0)), "voxel size must be positive"),
    "negative spacing": (
        lambda p: header_with(zeros(p), pixdim=(1, 1, -2, 1, 0, 0, 0, 0)),
        "voxel size must be positive",
    ),
    "voxels of no size": (lambda p: header_with(zeros(p), pixdim=(1, 1e-30, 1, 1, 0, 0, 0, 0)), "0.0001 to 100000 mm"),
    "voxels beyond size": (lambda p: header_with(zeros(p), pixdim=(1, 1, 1e30, 1, 0, 0, 0, 0)), "0.0001 to 100000 mm"),
    "sheared beyond size": (
        lambda p: header_with(zeros(p), sform_code=(1,), srow=(1, 1e30, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)),
        "0.0001 to 100000 mm",
    ),
    "singular affine": (
        lambda p: header_with(zeros(p), sform_code=(1,), srow=(1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)),
        "affine must be invertible",
    ),
    "truncated .nii.gz": (truncated_gz, "cut off|damaged"),
    "truncated .nii": (truncated_nii, "cut off"),
    "truncated .mha": (truncated_mha, "cut off"),
    "header promises more": (bomb, "cut off"),
    "data file elsewhere": (outside_mhd, "in a file beside it"),
    **{kind: (make, "must hold its voxels|must lie in it|must have one line") for kind, make in CRAFTED.items()},
    "HDF5 as .mha": (hdf5, "not a readable .mha"),
    "long header": (long_header, "a header must end within"),
    "empty .mha": (empty_file, "is empty"),
    "large extension": (lambda p: header_with(zeros(p), vox_offset=(2.0**28,)), "a header must end within"),
    "extension of no size": (lambda p: header_with(zeros(p), vox_offset=(np.nan,)), "a header must end within"),
    "unknown datatype": (lambda p: header_with(zeros(p), datatype=(12345,)), "datatype must be .* got 12345"),
    "renamed PNG": (renamed_png, "not a readable NIfTI"),
    "text file": (not_a_scan, "must be a .nii"),
    "colour": (colour, "one number"),
    "missing": (lambda p: p.parent / "nowhere.nii.gz", "no such file"),
}


BAD_MASKS = {
    "other shape": (lambda p: write_nifti(p, np.ones((5, 5, 5), np.uint8)), "image's grid"),
    "other affine": (lambda p: write_nifti(p, ball().astype(np.uint8), np.diag([1, 1, 2, 1])), "image's grid"),
    "empty": (lambda p: write_nifti(p, np.zeros_like(ball(), np.uint8)), "at least one voxel"),
    "not whole numbers": (lambda p: write_nifti(p, ball() * 0.5), "whole numbers"),
}
