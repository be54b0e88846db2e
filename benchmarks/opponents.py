"""Registrations that people use: each takes a reference with its mask and a query, both (x, y, z) in RAS+ order, and
gives the reference's labels on the query's grid. No command of its own. Needs `pip install '.[bench]'`.

A volume is (image, labels or None, spacing in mm). Full resolution, each with the settings of its own documentation;
but thick slices are resampled to cubes first, without which greedy has 0.07 on hearts where it has 0.8 with them.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

THICK = 2  # times as thick as fine, from here on
Volume = tuple[np.ndarray, np.ndarray | None, tuple[float, ...]]


def _itk(array: np.ndarray, spacing_mm: tuple[float, ...]) -> sitk.Image:
    """Centred on the world's origin, so that fields of view begin on one another."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing([float(s) for s in spacing_mm])
    image.SetOrigin([-(n - 1) * s / 2 for n, s in zip(array.shape, spacing_mm, strict=True)])
    return image


def syn(reference: Volume, query: Volume) -> np.ndarray:
    """ANTs: affine, then SyN on mutual information (antspyx's own default). Raises RuntimeError where it gives up."""
    import ants

    def volume(array, spacing_mm) -> "ants.ANTsImage":
        return ants.from_numpy(np.ascontiguousarray(array, np.float32), spacing=spacing_mm)

    # from 0 up: SyN begins with the centres of mass on one another
    fixed, moving = (volume(image - image.min(), spacing_mm) for image, _, spacing_mm in (query, reference))
    found = ants.registration(fixed, moving, type_of_transform="SyN")
    mask = volume(reference[1], reference[2])
    moved = ants.apply_transforms(fixed, mask, found["fwdtransforms"], interpolator="nearestNeighbor")
    for path in set(found["fwdtransforms"] + found["invtransforms"]):
        Path(path).unlink(missing_ok=True)
    return moved.numpy().astype(np.int32)


def greedy(reference: Volume, query: Volume) -> np.ndarray:
    """picsl-greedy: affine, then diffeomorphic, both by local correlation of 5³ voxels, 100 × 50 × 20 iterations."""
    from picsl_greedy import Greedy3D

    threads = f"-threads {os.environ.get('OMP_NUM_THREADS', 2)}"
    fixed, moving = (_itk(image.astype(np.float32), spacing_mm) for image, _, spacing_mm in (query, reference))
    mask = _itk(reference[1].astype(np.int32), reference[2])
    g = Greedy3D()
    start = "-ia-image-centers -m NCC 2x2x2 -n 100x50x20 -V 0"
    g.execute(f"-d 3 -a -dof 12 -i fixed moving {start} -o affine {threads}", fixed=fixed, moving=moving, affine=None)
    g.execute(
        f"-d 3 -i fixed moving -it affine -m NCC 2x2x2 -n 100x50x20 -s 2vox 1vox -V 0 -o warp {threads}", warp=None
    )
    with tempfile.TemporaryDirectory() as folder:  # what LABEL makes is not kept in memory
        moved = Path(folder) / "moved.nii"
        g.execute(f"-d 3 -rf fixed -ri LABEL 0.2vox -rm mask {moved} -r warp affine -V 0 {threads}", mask=mask)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(moved))).transpose(2, 1, 0).round().astype(np.int32)


def convexadam(reference: Volume, query: Volume) -> np.ndarray:
    """ConvexAdam on MIND-SSC with its default settings. It has no affine stage and takes one grid for both: the
    reference is brought to the query's, the centres of their fields of view on one another."""
    from convexAdam.convex_adam_MIND import convex_adam_pt
    from scipy.ndimage import map_coordinates

    fixed, moving = (_itk(image.astype(np.float32), spacing_mm) for image, _, spacing_mm in (query, reference))
    mask = _itk(reference[1].astype(np.int32), reference[2])
    moving = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, float(reference[0].min()))
    mask = sitk.Resample(mask, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    arrays = [sitk.GetArrayFromImage(image).transpose(2, 1, 0) for image in (fixed, moving, mask)]
    field = convex_adam_pt(arrays[0], arrays[1], dtype=torch.float32)
    there = np.stack(np.meshgrid(*map(np.arange, arrays[0].shape), indexing="ij")) + np.moveaxis(field, -1, 0)
    return map_coordinates(arrays[2], there, order=0).astype(np.int32)


def on_cubes(register: Callable[[Volume, Volume], np.ndarray]) -> Callable[[Volume, Volume], np.ndarray]:
    """The same registration, of volumes whose voxels are cubes of the same size where they are THICK."""

    def cubes(volume: Volume) -> Volume:
        image, labels, spacing_mm = volume
        if max(spacing_mm) < THICK * min(spacing_mm):
            return volume
        edge = float(np.prod(spacing_mm) ** (1 / 3))
        shape = [max(1, round(n * s / edge)) for n, s in zip(image.shape, spacing_mm, strict=True)]
        grid = _itk(np.zeros(shape, np.uint8), (edge,) * 3)
        image = _resampled(_itk(image.astype(np.float32), spacing_mm), grid, sitk.sitkLinear)
        if labels is not None:
            labels = _resampled(_itk(labels.astype(np.int32), spacing_mm), grid, sitk.sitkNearestNeighbor)
        return image, labels, (edge,) * 3

    def registered(reference: Volume, query: Volume) -> np.ndarray:
        asked = cubes(query)
        found = register(cubes(reference), asked)
        if found.shape == query[0].shape:
            return found
        grid = _itk(np.zeros(query[0].shape, np.uint8), query[2])
        return _resampled(_itk(found, asked[2]), grid, sitk.sitkNearestNeighbor)

    return registered


def _resampled(image: sitk.Image, grid: sitk.Image, interpolator: int) -> np.ndarray:
    lowest = float(sitk.GetArrayViewFromImage(image).min())
    moved = sitk.Resample(image, grid, sitk.Transform(), interpolator, lowest)
    return sitk.GetArrayFromImage(moved).transpose(2, 1, 0)


OPPONENTS = {name.__name__: on_cubes(name) for name in (syn, greedy, convexadam)}
