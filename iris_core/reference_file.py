"""References to register queries to, as tensors of bytes and plain values: the part of a task file that shows scans."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from iris_core.registration.describe import CHANNELS, Described
from iris_core.registration.labelled import MOST as MOST_LABELS
from iris_core.registration.labelled import Labelled, kind_of
from iris_core.registration.lattice import Lattice
from iris_core.registration.reference import SCALES, Reference

MOST = 256  # references of a task; an edge's cells
MOST_IN_ALL = 64 * MOST_LABELS  # cells of all references' labels
SMALLEST_MM, LARGEST_MM = 1e-4, 1e5


def to_tensors(references: tuple[Reference, ...]) -> tuple[dict[str, Tensor], list[dict]]:
    """Tensors by name, and for each reference where its lattices lie, for JSON."""
    tensors, about = {}, []
    for i, one in enumerate(references):
        described = dict(_names(one.scales), **({} if one.near is one.scales[0] else {"near": one.near}))
        parts = {name: d.values for name, d in described.items()}
        parts |= {"sets": one.masks.sets.to(torch.uint8), "present": one.present.to(torch.uint8), "around": one.around}
        parts["labels"] = _squeezed(one.masks.labels)
        tensors |= {f"reference{i}/{name}": part.cpu().contiguous() for name, part in parts.items()}
        lattices = {name: d.lattice for name, d in described.items()} | {"masks": one.masks.lattice}
        about.append(
            {name: [lattice.cell_mm, *lattice.centre_mm] for name, lattice in lattices.items()}
            | {"view_mm": one.scales[0].view.tolist(), "labels": list(one.masks.labels.shape)}
        )
    return tensors, about


def from_tensors(tensors: dict[str, Tensor], about: list[dict], k: int) -> tuple[Reference, ...]:
    """The references of a task of k classes; takes their tensors out of ``tensors``. Raises ValueError, KeyError or
    TypeError where they are not what ``to_tensors`` makes."""
    if not isinstance(about, list) or len(about) > MOST:
        raise ValueError(f"a task must have a list of at most {MOST} references")
    cells = [math.prod(map(int, where["labels"])) for where in about]
    if any(n < 1 for n in cells) or sum(cells) > MOST_IN_ALL:
        raise ValueError(f"references must have {MOST_IN_ALL} labelled cells at most, all together, got {sum(cells)}")
    return tuple(_reference(tensors, f"reference{i}/", where, k) for i, where in enumerate(about))


def _reference(tensors: dict[str, Tensor], at: str, where: dict, k: int) -> Reference:
    view = torch.tensor(where["view_mm"], dtype=torch.float32)
    if view.shape != (2, 3) or not (view.abs() < LARGEST_MM).all() or (view[0] >= view[1]).any():
        raise ValueError(f"{at}view_mm must be two corners in order, got {where['view_mm']}")

    def part(name: str, shape: tuple[int | None, ...], *kinds: torch.dtype) -> Tensor:
        tensor = tensors.pop(at + name)
        fits = tensor.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
        if tensor.dtype not in kinds or not fits or not 0 < min(tensor.shape) <= max(tensor.shape) <= MOST * MOST:
            raise ValueError(f"{at}{name} must be {shape} of {kinds}, got {tuple(tensor.shape)} of {tensor.dtype}")
        return tensor

    def lattice(name: str, shape: torch.Size) -> Lattice:
        cell, *centre = map(float, where[name])
        if not SMALLEST_MM < cell < LARGEST_MM or len(centre) != 3 or not all(abs(c) < LARGEST_MM for c in centre):
            raise ValueError(f"{at}{name} must have a cell and a centre in mm, got {where[name]}")
        return Lattice(tuple(shape), cell, tuple(centre))

    def described(name: str) -> Described:
        values = part(name, (1, CHANNELS + 1, None, None, None), torch.uint8)
        return Described(values, lattice(name, values.shape[2:]), view)

    scales = tuple(described(name) for name in _names(range(SCALES)))
    sets = part("sets", (None, k), torch.uint8)
    labels = _filled(tensors.pop(at + "labels"), where["labels"], len(sets))
    around = part("around", (1, 1, *scales[0].lattice.shape), torch.uint8)
    present = part("present", (k,), torch.uint8)
    if labels.min() < 0 or int(labels.max()) >= len(sets):
        raise ValueError(f"{at}labels must lie between 0 and {len(sets) - 1}")
    near = described("near") if "near" in where else scales[0]
    masks = Labelled(labels, lattice("masks", labels.shape), sets.bool())
    return Reference(scales, near, around, masks, present.bool())


def _squeezed(labels: Tensor) -> Tensor:
    """Small integers in long runs, as bytes of zlib: a fiftieth of their size."""
    return torch.from_numpy(np.frombuffer(zlib.compress(labels.cpu().numpy().tobytes()), np.uint8).copy())


def _filled(squeezed: Tensor, shape: list[int], n: int) -> Tensor:
    """The labels of n sets again. Raises ValueError where they are not of this shape."""
    if len(shape) != 3 or not all(isinstance(m, int) and m > 0 for m in shape) or math.prod(shape) > 2 * MOST_LABELS:
        raise ValueError(f"labels must fill three edges, {2 * MOST_LABELS} cells at most, got {shape}")
    if squeezed.dtype != torch.uint8 or squeezed.ndim != 1 or not n:
        raise ValueError(f"labels must be bytes, got {squeezed.dtype}")
    kind = kind_of(n)
    wanted = math.prod(shape) * kind.itemsize
    try:
        values = zlib.decompressobj().decompress(squeezed.numpy().tobytes(), wanted + 1)
    except zlib.error as error:
        raise ValueError(f"labels are damaged: {error}") from error
    if len(values) != wanted:
        raise ValueError(f"labels must be {wanted} bytes for {shape}, got another number")
    return torch.frombuffer(bytearray(values), dtype=kind).reshape(shape)


def _names(scales) -> dict:
    return {f"scale{i}": scale for i, scale in enumerate(scales)}
