"""Every bad input: a message that names the file, exit code 2 (or 1 for a query), nothing left behind."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ball, write_nifti

from app.cli import main
from iris_core.case import InputError
from nnunet_adapters.images import read_reference, read_scan


def header_with(path, **fields):
    """A NIfTI file whose header says something else than its voxels."""
    raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    offsets = {"dim": (40, "<8h"), "pixdim": (76, "<8f"), "srow": (280, "<12f"), "sform_code": (254, "<h")}
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
    p.write_text(p.read_text().replace("scan.raw", "../../../etc/passwd"))
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
    "singular affine": (
        lambda p: header_with(zeros(p), sform_code=(1,), srow=(1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)),
        "affine must be invertible",
    ),
    "truncated .nii.gz": (truncated_gz, "cut off|damaged"),
    "truncated .nii": (truncated_nii, "cut off"),
    "truncated .mha": (truncated_mha, "cut off"),
    "header promises more": (bomb, "cut off"),
    "data file elsewhere": (outside_mhd, "must lie beside it"),
    "renamed PNG": (renamed_png, "not a readable NIfTI"),
    "text file": (not_a_scan, "must be a .nii"),
    "colour": (colour, "one number"),
    "missing": (lambda p: p.parent / "nowhere.nii.gz", "no such file"),
}


@pytest.fixture(params=BAD_SCANS)
def bad(request, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    make, message = BAD_SCANS[request.param]
    return make(folder / "scan.nii.gz"), message


def run(capsys, *arguments) -> tuple[int, str]:
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr().err


def test_a_bad_reference_is_refused_in_the_terminal(bad, scan, tmp_path, tiny_weights, capsys):
    path, message = bad
    out = tmp_path / "out"
    code, error = run(
        capsys,
        "segment",
        "--weights",
        tiny_weights,
        "--reference",
        path,
        "--mask",
        scan[1],
        "--query",
        scan[0],
        "--output",
        out,
    )
    assert code == 2
    assert path.name in error
    with pytest.raises(InputError, match=message):
        read_scan(path)
    assert not out.exists()


def test_a_bad_query_is_reported_and_the_others_are_done(bad, scan, tmp_path, tiny_weights, capsys):
    path, _ = bad
    out = tmp_path / "out"
    code, error = run(
        capsys, "segment", "--weights", tiny_weights, "--reference", scan[0], "--mask", scan[1],
        "--query", path, scan[1], "--output", out,
    )  # fmt: skip
    assert code == (2 if path.suffix == ".txt" else 1)
    assert path.name in error
    if code == 1:
        assert sorted(p.name for p in out.iterdir()) == ["mask.nii.gz", "run.json"]


BAD_MASKS = {
    "other shape": (lambda p: write_nifti(p, np.ones((5, 5, 5), np.uint8)), "image's grid"),
    "other affine": (lambda p: write_nifti(p, ball().astype(np.uint8), np.diag([1, 1, 2, 1])), "image's grid"),
    "empty": (lambda p: write_nifti(p, np.zeros_like(ball(), np.uint8)), "at least one voxel"),
    "not whole numbers": (lambda p: write_nifti(p, ball() * 0.5), "whole numbers"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_refused(kind, scan, tmp_path, tiny_weights, capsys):
    make, message = BAD_MASKS[kind]
    mask = make(tmp_path / "bad_mask.nii.gz")
    out = tmp_path / "out"
    code, error = run(
        capsys,
        "segment",
        "--weights",
        tiny_weights,
        "--reference",
        scan[0],
        "--mask",
        mask,
        "--query",
        scan[0],
        "--output",
        out,
    )
    assert code == 2
    assert "bad_mask.nii.gz" in error
    with pytest.raises(InputError, match=message):
        read_reference(scan[0], mask)
    assert not out.exists()


def test_a_hostile_header_takes_no_memory(tmp_path):
    import tracemalloc

    path = bomb(tmp_path / "scan.nii.gz")
    tracemalloc.start()
    with pytest.raises(InputError):
        read_scan(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("folder_content", ["nothing", "weights of another model", "text"])
def test_bad_weights_are_refused(folder_content, scan, tmp_path, tiny_weights, capsys):
    folder = tmp_path / "weights"
    folder.mkdir()
    if folder_content != "nothing":
        (folder / "config.json").write_bytes((tiny_weights / "config.json").read_bytes())
        (folder / "model.safetensors").write_bytes(b"not tensors" * 10)
    if folder_content == "weights of another model":
        from safetensors.torch import save_file
        from torch import zeros as tensor

        save_file({"a": tensor(3)}, folder / "model.safetensors")
    code, error = run(
        capsys, "segment", "--weights", folder, "--reference", scan[0], "--mask", scan[1], "--query", scan[0],
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert str(folder) in error
