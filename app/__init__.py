"""What people touch: the command line and the page."""

import os

# OpenMP's threads spin while they wait for each other, and so take the cores from the very thread they wait for where
# other work runs on the machine. Alone, spinning is a tenth faster; beside three busy loops a query took twice as long
# or more with it (benchmarks/one_shot.py --beside 3). Read when torch is loaded, so this stands before its import.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
