"""What people touch: the command line, the page, and from Python ``Service`` with what reads and writes files."""

import contextlib
import ctypes
import os
from importlib import import_module
from typing import TYPE_CHECKING

# OpenMP's threads spin while they wait for each other, and so take the cores from the very thread they wait for where
# other work runs on the machine: beside three busy loops a query takes eight times as long. Asleep at once they lose a
# third alone. After SPINS turns they do neither: 1.6 s alone and 4.7 s beside three, where spinning takes 1.5 and 13 s,
# sleeping 2.1 and 4.0 s (benchmarks/one_shot.py --beside 3). Read when torch is loaded: this stands before its import.
SPINS = 1000  # Ours
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)

# glibc gives every large block back to the system, which clears it again for the next tensor: with 15 classes that took
# a fifth of a query's time. So what was in blocks below LARGEST stays with the process, KEPT of it at most.
LARGEST, KEPT = 2**28, 2**28  # bytes. Ours
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
with contextlib.suppress(OSError, AttributeError):  # another C library
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT)

# What Apple's GPU has no operation for is done by the CPU, instead of an error. Read when torch is loaded, too.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

__all__ = ["Service", "read_reference", "read_scan", "write_mask"]

if TYPE_CHECKING:
    from app.service import Service
    from nnunet_adapters.images import read_reference, read_scan, write_mask
else:

    def __getattr__(name):  # at first use: `iris --help` need not wait for torch
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("app.service" if name == "Service" else "nnunet_adapters.images"), name)
