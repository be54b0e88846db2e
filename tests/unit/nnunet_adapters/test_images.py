"""Reading and writing: every format, the query's own grid and header."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from bad_files import META, NRRD
from conftest import ball, write_nifti

from iris_core.case import InputError
from nnunet_adapters.images import read_reference, read_scan, write_mask

OBLIQUE = np.array([[0.9, -0.3, 0, 5], [0.3, 0.9, 0.1, -7], [0, -0.1, 2.0, 3], [0, 0, 0, 1]])


@pytest.mark.parametrize("cls", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_mask_keeps_the_nifti_header_of_its_scan(tmp_path, cls):
    image = cls(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6), OBLIQUE)
    image.set_qform(np.diag([1, 1, 2, 1.0]), code=1)
    image.set_sform(OBLIQUE, code=4)
    image.header["descrip"] = b"a scanner"
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2.0, 5.0)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    labels = np.zeros((4, 5, 6), np.int32)
    labels[1, 2, 3] = 300
    write_mask(labels, tmp_path / "scan.nii.gz", tmp_path / "out" / "mask.nii.gz")
    scan, mask = nibabel.load(tmp_path / "scan.nii.gz"), nibabel.load(tmp_path / "out" / "mask.nii.gz")
    assert type(mask) is type(scan)
    assert (np.asarray(mask.dataobj) == labels).all()
    assert (mask.affine == scan.affine).all()
    for name in (
        "dim",
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "qoffset_x",
        "srow_x",
        "descrip",
        "xyzt_units",
    ):
        assert (mask.header[name] == scan.header[name]).all(), name
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mask.nii.gz"]


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_itk_formats_give_the_same_case_as_nifti(tmp_path, ending):
    rotation, _ = np.linalg.qr(OBLIQUE[:3, :3])
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32))
    image.SetSpacing((1.0, 1.5, 3.0))
    image.SetOrigin((10, -20, 30))
    image.SetDirection(rotation.ravel().tolist())
    for name in (f"scan{ending}", "scan.nii.gz"):
        sitk.WriteImage(image, str(tmp_path / name))
    other, nifti = read_scan(tmp_path / f"scan{ending}"), read_scan(tmp_path / "scan.nii.gz")
    assert np.allclose(other.image, nifti.image)
    assert np.allclose(other.affine, nifti.affine, atol=1e-4)
    labels = (other.image > 0).astype(np.int32)
    with pytest.raises(InputError, match=r"mask.mhd: a mask is written as one file, .* choose .mha"):
        write_mask(labels, tmp_path / f"scan{ending}", tmp_path / "mask.mhd")
    write_mask(labels, tmp_path / f"scan{ending}", tmp_path / "mask.mha")
    mask = sitk.ReadImage(str(tmp_path / "mask.mha"))
    assert np.allclose(mask.GetDirection(), image.GetDirection())
    assert (sitk.GetArrayFromImage(mask).transpose(2, 1, 0) == labels).all()


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("edge", [64, 200])
@pytest.mark.parametrize("value", [0, 10])  # no line break at all, nothing but line breaks
def test_ordinary_sizes_are_read_whatever_the_voxels_spell(tmp_path, ending, edge, value):
    voxels = np.full((edge, edge, edge), value, np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / f"mask{ending}"))
    assert (read_scan(tmp_path / f"mask{ending}").image == value).all()


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_a_header_with_windows_line_ends_is_read(tmp_path, ending):
    voxels = np.arange(14, 14 + 4 * 5 * 6, dtype=np.uint8).reshape(6, 5, 4)
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    header, data = path.read_bytes(), b""
    if ending != ".mhd":
        header, data = header[: -voxels.size], voxels.tobytes()
    path.write_bytes(header.replace(b"\n", b"\r\n") + data)
    assert (read_scan(path).image == voxels.transpose(2, 1, 0)).all()


def test_voxels_that_name_a_data_file_are_refused_clearly(tmp_path):
    voxels = np.frombuffer(b"ElementDataFile = x\n" * 10, np.uint8).reshape(10, 10, 2)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "mask.mha"))
    with pytest.raises(InputError, match=r"mask\.mha: .* again at byte \d+; .*save the scan as \.nii\.gz"):
        read_scan(tmp_path / "mask.mha")


DEADLY = [("scan.mha", META.replace("3", number)) for number in ("-1", "-3", "99999999999", "1e300", "\n-3")]
DEADLY += [("scan.mha", META + "NDims = -3\n"), ("scan.mhd", META + "Comment = x\rNDims = 93\n")]
DEADLY += [("scan.nrrd", NRRD + f"{field}{'x' * 2000}\n") for field in ("", "sizes: ", "kinds: (", "kinds: k:=", ": ")]
DEADLY += [("scan.nrrd", "NRRD0004" + "x" * 2000 + ":=\n" + NRRD), ("scan.nrrd", NRRD + "\r" + "x" * 2000 + "\n")]


@pytest.mark.parametrize("name, header", DEADLY)
def test_headers_that_kill_itks_parsers_do_not_reach_them(tmp_path, name, header):
    header += "\n" if name == "scan.nrrd" else "ElementDataFile = LOCAL\n"
    (tmp_path / name).write_bytes(header.encode() + bytes(512))
    with pytest.raises(InputError, match=rf"{name}: .*(NDims = 3|512 bytes at most).*save the scan again"):
        read_scan(tmp_path / name)


def test_a_nrrd_with_long_comments_and_values_of_its_own_is_read(tmp_path):
    own = f"# {'c' * 5000}\nSegmentation_Parameters:={'a: b|' * 5000}\n"  # as 3D Slicer writes them
    (tmp_path / "scan.nrrd").write_bytes((NRRD + own + "\n").encode() + bytes(512))
    assert read_scan(tmp_path / "scan.nrrd").image.shape == (8, 8, 8)


def write_dicom(folder, positions_mm) -> None:
    """A series of 8 × 7 slices at these places along z."""
    folder.mkdir()
    volume = np.arange(len(positions_mm) * 8 * 7, dtype=np.int16).reshape(-1, 8, 7)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for i, z in enumerate(positions_mm):
        image = sitk.GetImageFromArray(volume[i : i + 1])
        image.SetSpacing((0.5, 0.5, 4.0))
        tags = {
            "0008|0060": "MR", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0008|0018": f"1.2.3.4.{i + 1}",
            "0020|0032": f"0\\0\\{z}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(i), "0018|0050": "4",
        }  # fmt: skip
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{i}.dcm"))
        writer.Execute(image)


def test_a_dicom_folder_is_one_volume(tmp_path):
    write_dicom(tmp_path / "series", (0, 4, 8))
    case = read_scan(tmp_path / "series")
    assert case.image.shape == (7, 8, 3)
    assert np.allclose(case.spacing_mm, (0.5, 0.5, 4.0))
    write_mask((case.image > 50).astype(np.int32), tmp_path / "series", tmp_path / "mask.nii.gz")
    assert np.allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, case.affine, atol=1e-5)


@pytest.mark.parametrize("positions", [(0, 4, 12, 16), (0, 4, 8, 0, 4, 8)])
def test_a_dicom_series_with_a_missing_slice_or_two_phases_is_refused(tmp_path, positions):
    write_dicom(tmp_path / "series", positions)
    with pytest.raises(InputError, match="evenly spaced"):
        read_scan(tmp_path / "series")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="one DICOM series"):
        read_scan(tmp_path / "nothing")


def test_labels_may_have_gaps_and_negative_values(tmp_path, scan):
    labels = ball().astype(np.int32) * 1000
    labels[0, 0, 0] = -3
    mask = write_nifti(tmp_path / "labels.nii.gz", labels)
    case = read_reference(scan[0], mask, {1000: "ball"})
    assert [(c.value, c.name) for c in case.present()] == [(-3, "class -3"), (1000, "ball")]


def test_big_endian_nifti_is_read(tmp_path):
    image = nibabel.Nifti1Image(
        np.arange(60, dtype=">f4").reshape(3, 4, 5), np.eye(4), nibabel.Nifti1Header(endianness=">")
    )
    nibabel.save(image, tmp_path / "scan.nii")
    assert read_scan(tmp_path / "scan.nii").image[2, 3, 4] == 59


@pytest.mark.parametrize("name, line", [("scan.mha", b"Comm\xffnt = a\n"), ("scan.mha", b"Comment = \xff\n")])
def test_a_header_with_text_that_is_no_utf_8_is_read_and_its_mask_written(tmp_path, name, line):
    header = META.replace("\n", "\n", 1).encode()
    (tmp_path / name).write_bytes(header + line + b"ElementDataFile = LOCAL\n" + bytes(512))
    labels = np.ones(read_scan(tmp_path / name).image.shape, np.int32)
    write_mask(labels, tmp_path / name, tmp_path / "mask.mha")
    assert (read_scan(tmp_path / "mask.mha").image == 1).all()
