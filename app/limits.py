"""What visitors may take of the machine: the same for the page, `iris serve` and a Space."""

import math
import os
from dataclasses import dataclass, fields

from iris_core.case import InputError

GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """Each is a positive number, else InputError is raised."""

    upload_gib: float = 2
    """GiB of one uploaded file."""
    voxels: int = 2**29
    """Voxels of one scan; a CT of 512 × 512 × 2048 has as many."""
    disk_gib: float = 20
    """GiB on disk of all visitors together: their uploads, their masks, what is shown of them."""
    visitors: int = 50
    """Visitors of whom something is kept at the same time."""
    queue: int = 100
    """Events that wait for their turn; a click is one to four."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"The limit {name} must be a positive number, got {value}")

    @classmethod
    def of_environment(cls) -> "Limits":
        """From IRIS_UPLOAD_GIB, IRIS_VOXELS, IRIS_DISK_GIB, IRIS_VISITORS and IRIS_QUEUE, as a Space sets them.

        Raises InputError naming the variable that is no positive number.
        """
        found = {}
        for field in fields(cls):
            variable = f"IRIS_{field.name.upper()}"
            if text := os.environ.get(variable):
                try:
                    found[field.name] = field.type(text)
                except ValueError as error:
                    raise InputError(f"{variable} must be a positive number, got {text!r}") from error
        return cls(**found)
