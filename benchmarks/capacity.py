"""What an archive costs on how many machines, and what gives out first: a model, where nothing can be measured.

    python benchmarks/capacity.py --seconds 1.6 --mib 0.08 [--scans 100000 10000000] [--machines 1 10 100 1000]

--seconds and --mib are of a scan, as `iris segment` and the archive say: seconds of one actor, and what is fetched. All
else is assumed and printed. An actor works on one scan after the other; a run is as fast as the slowest of: the actors,
each machine's network, the store's reads and writes, and the driver, which gives out one row after the other. Scans
that wait on the store meanwhile are not modelled, nor are machines that differ.
"""

import argparse

READS, WRITES = 9, 2  # requests a scan, counted from the log of benchmarks/archive.py
START_S = 30  # of a cluster's actors: Ray, torch, the model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--mib", type=float, required=True)
    parser.add_argument("--scans", type=int, nargs="*", default=[10**5, 10**7])
    parser.add_argument("--machines", type=int, nargs="*", default=[1, 10, 100, 1000])
    parser.add_argument("--actors", type=int, default=16, help="of a machine")
    parser.add_argument("--gigabit", type=float, default=10, help="a second of a machine")
    parser.add_argument("--store-reads", type=float, default=5500, help="a second and prefix: what S3 promises")
    parser.add_argument("--store-writes", type=float, default=3500, help="the same")
    parser.add_argument("--driver-ms", type=float, default=11, help="a row: benchmarks/archive.py, on a busy machine")
    parser.add_argument("--price", type=float, default=0.68, help="dollars an hour of a machine")
    parser.add_argument("--request-price", type=float, default=0.4, help="dollars a million reads; writes are 12.5 ×")
    a = parser.parse_args()
    print(
        f"a scan: {a.seconds} s of an actor, {a.mib} MiB, {READS} reads, {WRITES} writes; a machine: {a.actors} actors,"
        f" {a.gigabit:g} Gbit/s, {a.price} $ an hour; a driver: {a.driver_ms} ms a row"
    )
    print("     scans  machines     hours  scans/s  dollars  as fast as")
    for scans in a.scans:
        for machines in a.machines:
            rates = {
                "the actors": machines * a.actors / a.seconds,
                "the network": machines * a.gigabit * 1e9 / 8 / (a.mib * 2**20),
                "the store's reads": a.store_reads / READS,
                "the store's writes": a.store_writes / WRITES,
                "the driver": 1000 / a.driver_ms,
            }
            slowest = min(rates, key=rates.get)
            hours = scans / rates[slowest] / 3600 + START_S / 3600
            requests = scans * (READS + 12.5 * WRITES) * a.request_price / 1e6
            dollars = hours * machines * a.price + requests
            print(f"{scans:10d} {machines:9d} {hours:9.2f} {rates[slowest]:8.1f} {dollars:8.0f}  {slowest}")


if __name__ == "__main__":
    main()
