"""What must not change a mask: how the scan is stored, how it lies in its file, what else the machine does.

    PYTHONPATH=tests python benchmarks/invariance.py [--weights iris-small] [--samples hippocampus heart]

The samples that ship, one-shot. Every variant of a query is segmented and its mask brought back to the query's own
grid: voxels that differ from the plain query's mask (of all voxels of its structures), the least Dice between the two.
Cropping, padding and float32 change what the network sees, so that equality is not to be expected there.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import nibabel
import numpy as np
import SimpleITK
import torch
from dicom_files import write_series

from app.sample_scans import samples
from app.service import Service
from iris_core.case import Case
from iris_core.evaluation.metrics import dice
from nnunet_adapters.images import read_reference, read_scan

EDGE = 6  # voxels that are cut off or put on at each side
NOWHERE = -1  # what a label is where a variant has no voxel: not compared

Variant = tuple[str, Case, Callable[[np.ndarray], np.ndarray]]  # group, query, labels → labels on the plain grid


def turned(image: np.ndarray, affine: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, Callable]]:
    """The same scan in the 48 orders and directions of axes."""
    whole = nibabel.Nifti1Image(image, affine)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            transform = np.array([*zip(order, signs, strict=True)])
            other = whole.as_reoriented(transform)
            yield np.asarray(other.dataobj), other.affine, lambda labels, t=transform: undone(labels, t)


def undone(labels: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """What ``as_reoriented(transform)`` was done to, as it was."""
    axes = [int(a) for a in transform[:, 0]]
    for axis, sign in transform:
        if sign < 0:
            labels = np.flip(labels, int(axis))
    return labels.transpose(axes)


def stored(query: Case, folder: Path) -> Iterator[Variant]:
    """In every format, as whole numbers, which all of them hold exactly; and by slope and intercept."""
    whole = np.rint(query.image).astype(np.int16)
    nifti = nibabel.Nifti1Image(whole, query.affine)
    nibabel.save(nifti, folder / "scan.nii.gz")
    for end in (".nii", ".nrrd", ".mha", ".mhd"):
        path = folder / f"scan{end}"
        SimpleITK.WriteImage(SimpleITK.ReadImage(folder / "scan.nii.gz"), path)
        yield end, read_scan(path), np.asarray
    yield ".nii.gz", read_scan(folder / "scan.nii.gz"), np.asarray
    path = folder / "slope.nii"
    nibabel.save(nibabel.Nifti1Image(whole * 2 + 10, query.affine), path)
    header = bytearray(path.read_bytes())
    header[112:120] = np.array([0.5, -5], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(header)
    yield "slope and intercept", read_scan(path), np.asarray
    back = np.diag(np.sign(np.diag(query.affine)[:3])) @ np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]])
    if np.allclose(query.affine[:3, :3], np.diag(np.diag(query.affine)[:3])):  # axial slices
        flips = [axis for axis in range(3) if back[axis, axis] < 0]
        series = write_series(folder / "series", volume=np.flip(whole, flips), spacing_mm=query.spacing_mm)
        case = read_scan(series)
        yield "DICOM", case, lambda labels: np.flip(labels, flips)


def placed(query: Case) -> Iterator[Variant]:
    """Shifted in its intensities, cropped, padded."""
    yield "intensities × 3 + 40", replace(query, image=query.image * 3 + 40), np.asarray
    inner = tuple(slice(EDGE, -EDGE) if n > 4 * EDGE else slice(None) for n in query.image.shape)
    before = [s.start or 0 for s in inner]
    moved = query.affine.copy()
    moved[:3, 3] += query.affine[:3, :3] @ before
    whole = [(b, b) for b in before]
    yield (
        "cropped",
        replace(query, image=query.image[inner], affine=moved),
        lambda labels: np.pad(labels, whole, constant_values=NOWHERE),
    )
    moved = query.affine.copy()
    moved[:3, 3] -= query.affine[:3, :3] @ ([EDGE] * 3)
    middle = tuple(slice(EDGE, -EDGE) for _ in range(3))
    low = float(query.image.min())
    yield (
        "padded",
        replace(query, image=np.pad(query.image, EDGE, constant_values=low), affine=moved),
        lambda labels: labels[middle],
    )


@contextmanager
def threads(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def compare(plain: np.ndarray, other: np.ndarray) -> tuple[int, float]:
    """Voxels that differ, least Dice of a structure."""
    plain = np.where(other == NOWHERE, NOWHERE, plain)
    return int((plain != other).sum()), min(dice(plain == v, other == v) for v in np.unique(plain) if v > 0)


def measure(service: Service, sample: str) -> Iterator[tuple[str, int, float]]:
    """Variant, voxels that differ, least Dice."""
    about = samples()[sample]
    reference = read_reference(about.reference, about.mask, about.names)
    query = read_scan(about.query)
    query = replace(query, image=np.rint(query.image))
    task = service.encode(reference)
    plain = service.segment(task, query)
    print(f"{sample}: {int((plain > 0).sum())} voxels found")

    with tempfile.TemporaryDirectory() as folder:
        for group, case, back in itertools.chain(stored(query, Path(folder)), placed(query)):
            yield group, *compare(plain, back(service.segment(task, case)))
    for image, affine, back in turned(query.image, query.affine):
        yield "48 orientations", *compare(plain, back(service.segment(task, Case(image, affine))))
    for image, affine, _ in [*turned(reference.image, reference.affine)][1::7]:
        mask = nibabel.Nifti1Image(reference.labels, reference.affine)
        to = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(reference.affine), nibabel.io_orientation(affine)
        )
        case = replace(reference, image=image, affine=affine, labels=np.asarray(mask.as_reoriented(to).dataobj))
        yield "7 orientations of the reference", *compare(plain, service.segment(service.encode(case), query))

    service.segment(task, reference)
    yield "after another query", *compare(plain, service.segment(task, query))
    yield "encoded again", *compare(plain, service.segment(service.encode(reference), query))
    with threads(1):
        yield "one thread", *compare(plain, service.segment(service.encode(reference), query))
    with patch("torch.backends.mkldnn.is_available", return_value=False):
        yield "float32", *compare(plain, service.segment(service.encode(reference), query))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="iris-small")
    parser.add_argument("--samples", nargs="+", default=["hippocampus", "heart"])
    arguments = parser.parse_args()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    service = Service(arguments.weights, "cpu")
    for sample in arguments.samples:
        groups: dict[str, list[tuple[int, float]]] = {}
        for group, voxels, least in measure(service, sample):
            groups.setdefault(group, []).append((voxels, least))
        print(f"{'variant':32} {'runs':>4} {'voxels that differ, at most':>28} {'Dice, at least':>15}")
        for group, found in groups.items():
            print(f"{group:32} {len(found):4} {max(v for v, _ in found):28} {min(d for _, d in found):15.4f}")


if __name__ == "__main__":
    main()
