"""A scan in memory, and the errors that bad input raises."""

from dataclasses import dataclass, field

import numpy as np

LONGEST_MESSAGE = 2000  # characters: what a message quotes may be as long as the file that it is about
SMALLEST_MM, LARGEST_MM = 1e-4, 1e5  # of a voxel: beyond, sizes are damaged, and products of them leave float32


class InputError(ValueError):
    """Input from a user that cannot be used. The message names it, says what was found and what to do."""

    def __str__(self) -> str:
        message = super().__str__()
        return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} …"


@dataclass(frozen=True)
class LabelClass:
    """One structure of a label map: the voxels whose value is among ``members``. It is written as ``value``.

    A plain class has one member, its value. A region (nnU-Net) has several, and regions may overlap.
    """

    name: str
    value: int
    members: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))  # JSON has lists

    def mask(self, labels: np.ndarray) -> np.ndarray:
        return labels == self.members[0] if len(self.members) == 1 else np.isin(labels, self.members)


def plain_classes(labels: np.ndarray, names: dict[int, str] | None = None) -> tuple[LabelClass, ...]:
    """One class a value that occurs in a label map, in rising order, background 0 left out.

    Raises InputError where two classes would have one name: 2 may not be called "class 1" beside an unnamed 1.
    """
    values = [int(v) for v in np.unique(labels) if v != 0]
    called = [(names or {}).get(v, f"class {v}") for v in values]
    if len(set(called)) != len(called):
        raise InputError(f"every class must have a name of its own, got {dict(zip(values, called, strict=True))}")
    return tuple(LabelClass(name, v, (v,)) for name, v in zip(called, values, strict=True))


def usable_sizes(spacing_mm: np.ndarray) -> bool:
    """Whether a voxel can have these sizes in mm."""
    return bool(((spacing_mm >= SMALLEST_MM) & (spacing_mm <= LARGEST_MM)).all())  # NaN neither


@dataclass(frozen=True)
class Case:
    """One volume on its own grid, with or without labels.

    image: (x, y, z) float32, in the file's own axis order.
    affine: 4×4, voxel index to RAS+ millimetres.
    labels: (x, y, z) integers on the image's grid, 0 is background; or None.
    classes: the structures of the labels; some may be absent from this case.
    ignore: a label value that says nothing (nnU-Net's ignore label), or None.
    name: how messages and outputs call this case.
    colours: class name → red, green, blue (0 to 255) as the labels' file has them; may lack classes.
    """

    image: np.ndarray
    affine: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[LabelClass, ...] = ()
    ignore: int | None = None
    name: str = "case"
    colours: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise InputError(f"{self.name}: an image must have 3 dimensions, got {self.image.ndim}")
        if not np.isfinite(self.image).all():
            raise InputError(
                f"{self.name}: the image holds NaN or infinite values; replace them (for example by 0) first"
            )
        if np.shape(self.affine) != (4, 4) or not np.isfinite(self.affine).all():
            raise InputError(f"{self.name}: the affine must be a finite 4×4 matrix, got\n{self.affine}")
        if not usable_sizes(self.spacing_mm) or abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise InputError(
                f"{self.name}: every voxel size must be positive, {SMALLEST_MM} to {LARGEST_MM:g} mm, got"
                f" {self.spacing_mm.tolist()} mm (or axes that are not independent); correct the header"
            )
        if self.labels is not None and self.labels.shape != self.image.shape:
            raise InputError(
                f"{self.name}: the labels must lie on the image's grid {self.image.shape}, got {self.labels.shape}"
            )

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size in mm along each axis of the array."""
        sizes: np.ndarray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return sizes

    @property
    def voxel_ml(self) -> float:
        """A voxel's volume in mL, the affine's determinant: axes need not be at right angles."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    def present(self) -> tuple[LabelClass, ...]:
        """The classes that occur in this case's labels."""
        values = set() if self.labels is None else {int(v) for v in np.unique(self.labels)}
        return tuple(c for c in self.classes if values.intersection(c.members))
