"""A good file of every kind that is read, made of the real scans in app/samples: kind → folder.

A folder holds all that its reader needs; which of its files are spoilt is said in TARGETS.
"""

import gzip
import itertools
import json
import shutil
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # this tree, whichever is installed

import dicom_files
import nibabel
import numpy as np
import SimpleITK as sitk
import torch

from iris_core import checkpoint
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris
from iris_core.pool import open_pool
from iris_core.strategies.base import Context
from iris_core.strategies.references import encode_all, encode_at
from iris_core.task_file import save_task
from nnunet_adapters.images import read_reference
from nnunet_adapters.masks import WRITERS
from nnunet_adapters.masks.mask import Structure
from nnunet_adapters.voxels import itk_image

SAMPLE = Path(__file__).parents[2] / "app" / "samples" / "hippocampus"
STRUCTURES = [Structure(1, "anterior", (10, 200, 30)), Structure(2, "posterior", (200, 10, 30))]
SNAP = """################################################
# ITK-SnAP Label Description File
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "anterior"
    2     0  255    0        1  1  1    "posterior"
"""
# kind → patterns of the files that are spoilt; the reader of a kind is in reader.py
TARGETS = {
    "nifti": ("scan.nii",),
    "nifti gz": ("scan.nii.gz",),
    "nrrd": ("scan.nrrd",),
    "nrrd gz": ("scan.nrrd",),
    "mha": ("scan.mha",),
    "mha packed": ("scan.mha",),
    "mhd": ("scan.mhd", "scan.raw"),
    "mhd packed": ("scan.mhd", "scan.zraw"),
    "dicom file": ("scan.dcm",),
    "dicom series": ("series/*",),
    "dicom zip": ("series.zip",),
    "mask nifti": ("mask.nii.gz",),
    "mask mha": ("mask.mha",),
    "dicom-seg": ("mask.dcm",),
    "rtstruct": ("mask.dcm",),
    "seg.nrrd": ("mask.seg.nrrd",),
    "label description": ("mask.label",),
    "mask dataset.json": ("dataset.json",),
    "raw dataset": ("raw/Dataset901_Hippocampus/dataset.json", "raw/*/imagesTr/*", "raw/*/labelsTr/*"),
    "patients.json": ("raw/Dataset901_Hippocampus/patients.json",),
    "splits_final.json": ("splits/splits_final.json",),
    "names.json": ("maps/names.json",),
    "task file": ("hippocampus.task.safetensors",),
    "checkpoint": ("weights/*",),
    "pool": ("pool/pool.json", "pool/a.task.safetensors"),
    "drawing": ("drawing.nii.gz",),
}


def make(root: Path) -> dict[str, Path]:
    """Write every sample below ``root``."""
    folders = {kind: root / kind.replace(" ", "-") for kind in TARGETS}
    for folder in folders.values():
        folder.mkdir(parents=True)
    scan, labels = _voxels("reference"), _voxels("reference_mask").astype(np.uint8)
    _images(folders, scan, labels)
    _dicom(folders, scan, labels)
    _datasets(folders)
    _learnt(folders, root)
    return folders


def _voxels(name: str) -> np.ndarray:
    return np.asarray(nibabel.load(SAMPLE / f"{name}.nii.gz").dataobj)


def _images(folders: dict[str, Path], scan: np.ndarray, labels: np.ndarray) -> None:
    shutil.copy(SAMPLE / "reference.nii.gz", folders["nifti gz"] / "scan.nii.gz")
    (folders["nifti"] / "scan.nii").write_bytes(gzip.decompress((SAMPLE / "reference.nii.gz").read_bytes()))
    affine = nibabel.load(SAMPLE / "reference.nii.gz").affine
    image = itk_image(scan, affine)
    for kind in ("nrrd", "mha", "mhd"):
        sitk.WriteImage(image, str(folders[kind] / f"scan.{kind}"))
        packed = "nrrd gz" if kind == "nrrd" else f"{kind} packed"
        sitk.WriteImage(image, str(folders[packed] / f"scan.{kind}"), True)
    for kind in ("mask nifti", "mask mha", "seg.nrrd", "label description", "mask dataset.json"):
        shutil.copy(SAMPLE / "reference.nii.gz", folders[kind] / "scan.nii.gz")
    like = SAMPLE / "reference.nii.gz"
    WRITERS["nii.gz"](labels, like, STRUCTURES, folders["mask nifti"] / "mask.nii.gz")
    WRITERS["seg.nrrd"](labels, like, STRUCTURES, folders["seg.nrrd"] / "mask.seg.nrrd")
    sitk.WriteImage(itk_image(labels, affine), str(folders["mask mha"] / "mask.mha"), True)
    for kind in ("label description", "mask dataset.json"):
        shutil.copy(SAMPLE / "reference_mask.nii.gz", folders[kind] / "mask.nii.gz")
    (folders["label description"] / "mask.label").write_text(SNAP)
    named = {"labels": {"background": 0, "anterior": 1, "posterior": 2}}
    (folders["mask dataset.json"] / "dataset.json").write_text(json.dumps(named))
    # the page reads what a visitor drew in RAS+ order, as its viewer writes it
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folders["drawing"] / "drawing.nii.gz")


def _dicom(folders: dict[str, Path], scan: np.ndarray, labels: np.ndarray) -> None:
    numbers = itertools.count(10**30)
    dicom_files.generate_uid = lambda: f"2.25.{next(numbers)}"  # not random: a case can be made again
    series, voxels = folders["dicom series"] / "series", scan.astype(np.int16)
    dicom_files.write_series(series, volume=voxels, spacing_mm=(1, 1, 1))
    shutil.copy(min(series.iterdir()), folders["dicom file"] / "scan.dcm")
    with zipfile.ZipFile(folders["dicom zip"] / "series.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(series.iterdir()):
            packed.write(file, file.name)
    for kind in ("dicom-seg", "rtstruct"):
        shutil.copytree(series, folders[kind] / "series")
        WRITERS[kind](labels, folders[kind] / "series", STRUCTURES, folders[kind] / "mask.dcm")


def _datasets(folders: dict[str, Path]) -> None:
    for kind in ("raw dataset", "patients.json", "splits_final.json"):
        dataset = folders[kind] / "raw" / "Dataset901_Hippocampus"
        for case, of in (("a", "reference"), ("b", "query")):
            for sub, name, end in (("imagesTr", of, "_0000"), ("labelsTr", f"{of}_mask", "")):
                (dataset / sub).mkdir(parents=True, exist_ok=True)
                shutil.copy(SAMPLE / f"{name}.nii.gz", dataset / sub / f"{case}{end}.nii.gz")
        labels = {"background": 0, "anterior": 1, "posterior": 2}
        description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
        (dataset / "dataset.json").write_text(json.dumps(description))
        (dataset / "patients.json").write_text(json.dumps({"a": "1", "b": "2"}))
    folder = folders["splits_final.json"] / "splits"
    folder.mkdir()
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}] * 2))
    maps = folders["names.json"] / "maps"
    maps.mkdir()
    entry = {"labels": {"1": "VH_F_anterior", "2": "VH_F_posterior"}, "source": "woman", "spacing_mm": [1, 1, 1]}
    for name, of in (("a", "reference_mask"), ("b", "query_mask")):
        shutil.copy(SAMPLE / f"{of}.nii.gz", maps / f"{name}.nii.gz")
    (maps / "names.json").write_text(json.dumps({"a.nii.gz": entry, "b.nii.gz": entry | {"source": "man"}}))


def _learnt(folders: dict[str, Path], root: Path) -> None:
    torch.manual_seed(0)
    model = Iris(PRESETS["tiny"]).eval()
    case = read_reference(SAMPLE / "reference.nii.gz", SAMPLE / "reference_mask.nii.gz")
    bank, task = MemoryBank(), encode_at(model, case, 1.0, "percentile", levels=False).task
    bank.update([f"Dataset901_Hippocampus/{c.name}" for c in case.classes], task)
    seen = {"classes": {c.name: 1.0 for c in case.classes}, "scheme": "percentile", "train": ["a"], "val": ["b"]}
    training = {"datasets": {"Dataset901_Hippocampus": seen}}
    checkpoint.save(folders["checkpoint"] / "weights", model, bank, training)
    shutil.copytree(folders["checkpoint"] / "weights", root / "weights")
    loaded = checkpoint.load(root / "weights")
    (embedding,) = (encoded.embedding for encoded in encode_all(Context(loaded.model, [case])))
    save_task(folders["task file"] / "hippocampus.task.safetensors", embedding, loaded.sha256, ("reference.nii.gz",))
    open_pool(folders["pool"] / "pool", loaded, "Dataset901", {"a": "1"}, lambda _: case, "auto", "percentile")
