"""What people touch: the command line and the page."""

import contextlib
import ctypes
import os

# OpenMP's threads spin while they wait for each other, and so take the cores from the very thread they wait for where
# other work runs on the machine. Alone, spinning is a tenth faster; beside three busy loops a query took twice as long
# or more with it (benchmarks/one_shot.py --beside 3). Read when torch is loaded, so this stands before its import.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

# glibc gives every large block back to the system, which clears it again for the next tensor: with 15 classes that took
# a fifth of a query's time. So what was in blocks below LARGEST stays with the process, KEPT of it at most.
LARGEST, KEPT = 2**28, 2**28  # bytes. Ours
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
with contextlib.suppress(OSError, AttributeError):  # another C library
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT)
