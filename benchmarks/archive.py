"""An archive on S3 through a Ray cluster of two nodes, with kills on the way: the same masks, once each; and its cost.

    python benchmarks/archive.py --raw-data FOLDER [--queries 300] [--rows 1000000]

Needs pip install '.[test,scale]' psutil. The scans of Dataset004_Hippocampus lie on a loopback S3 (moto).
Prints what is there after a worker, then the driver, then the whole cluster is killed with SIGKILL and the same command
is started again; seconds a scan here and on Ray; and the driver's memory for a manifest of --rows rows.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

DATASET = "Dataset004_Hippocampus"


def serve() -> object:
    """An S3 server on the loopback, which processes that begin after it find by their environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
    }
    return server


class Cluster:
    """Two nodes of one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self.nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
        self.nodes.add_node(num_cpus=1)
        self.engine = f"ray:{self.nodes.address}"

    def kill(self) -> None:
        """All at once, workers too, without a word."""
        for child in psutil.Process().children(recursive=True):
            if "ray" in " ".join(child.cmdline()):
                child.kill()
        self.nodes.shutdown()


def store() -> object:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()


def masks(prefix: str) -> dict[str, tuple[str, object]]:
    """Name → hash and time of each mask."""
    files = store().ls(prefix, detail=True) if store().exists(prefix) else []
    return {f["name"].rsplit("/", 1)[1]: (f["ETag"], f["LastModified"]) for f in files if f["name"].endswith(".gz")}


def segment(shown: list[str], output: str, engine: str, manifest: str) -> list[str]:
    run = "--manifest", manifest, "--output", output, "--engine", engine, "--no-confidence"
    return [sys.executable, "-m", "app.cli", "segment", *shown, *run]


def table(output: str) -> list[dict]:
    from pyarrow import parquet

    with store().open(f"{output}/results.parquet") as file:
        return parquet.read_table(file).to_pylist()


def wait(driver: subprocess.Popen, prefix: str, number: int) -> int:
    while (done := len(masks(prefix))) < number and driver.poll() is None:
        time.sleep(0.5)
    return done


def kills(shown: list[str], manifest: str, number: int) -> None:
    """Local, then Ray with three kills; prints what is there."""
    started = time.monotonic()
    subprocess.run(segment(shown, "s3://scans/here", "local", manifest), check=True, stderr=subprocess.DEVNULL)
    print(f"local: {number} scans, {(time.monotonic() - started) / number:.2f} s a scan, one thread", flush=True)
    cluster, written = Cluster(), {}

    def begin() -> subprocess.Popen:
        command = segment(shown, "s3://scans/there", cluster.engine, manifest)
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def note(what: str) -> None:
        now = masks("scans/there")
        again = sum(now[name][1] != at for name, (_, at) in written.items() if name in now)
        written.update(now)
        print(f"{what}: {len(now)} masks, {again} of those before written again", flush=True)

    started, driver = time.monotonic(), begin()
    wait(driver, "scans/there", number // 5)
    workers = [p for p in psutil.Process().children(recursive=True) if "ray::Actor" in " ".join(p.cmdline())]
    workers[0].send_signal(signal.SIGKILL)
    note("a worker killed")
    wait(driver, "scans/there", number // 2)
    driver.kill()
    driver.wait()
    note("the driver killed")
    driver = begin()
    wait(driver, "scans/there", 3 * number // 4)
    cluster.kill()
    driver.kill()
    driver.wait()
    note("the whole cluster killed")
    cluster = Cluster()
    code = begin().wait()
    note(f"at the end (exit code {code}, {(time.monotonic() - started) / number:.2f} s a scan, two threads)")
    here, there, rows = masks("scans/here"), masks("scans/there"), table("scans/there")
    same = sum(there.get(name, ("",))[0] == tag for name, (tag, _) in here.items())
    double = len(rows) - len({row["output"] for row in rows})
    kept = sum(row["status"] == "kept" for row in rows)
    print(f"{len(here)} masks here, {same} the same bytes there, {len(here) - len(there)} lost, {double} rows double")
    print(f"of the last run's rows {kept} were kept, {len(rows) - kept} made")
    cluster.kill()


def empty_rows(shown: list[str], folder: Path, number: int, engine: str) -> tuple[float, float]:
    """Seconds and peak MiB of a driver whose rows name no scan: what an engine costs without the scans."""
    manifest = folder / f"{number}.csv"
    with open(manifest, "w") as file:
        file.write("query,output\n")
        for i in range(number):
            file.write(f"/archive/patient{i:07}/scan.nii.gz,patient{i:07}/scan.nii.gz\n")
    started = time.monotonic()
    command = segment(shown, str(folder / f"{engine[:3]}{number}"), engine, str(manifest))
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(driver.pid, 0)
    return time.monotonic() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw-data", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=300, help="0 leaves the kills out")
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--rows-engine", default="local", choices=["local", "ray"])
    arguments = parser.parse_args()
    server = serve()
    images = sorted((arguments.raw_data / DATASET / "imagesTr").glob("*.nii.gz"))
    label = arguments.raw_data / DATASET / "labelsTr" / images[0].name.replace("_0000", "")
    shown = ["--reference", str(images[0]), "--mask", str(label)]
    with tempfile.TemporaryDirectory() as temporary:
        if number := arguments.queries:
            store().mkdir("scans")
            lines = ["query"]
            for i in range(number):
                lines.append(f"s3://scans/in/q{i:04}.nii.gz")
                store().put_file(str(images[1 + i % (len(images) - 1)]), lines[-1])
            store().pipe_file("scans/queries.csv", "\n".join(lines).encode())
            kills(shown, "s3://scans/queries.csv", number)
        print("rows without a scan   engine     seconds   ms a row   driver's peak MiB")
        engines = [("local", 1000), ("ray", 1000), ("local", 20_000), ("ray", 20_000)]
        for engine, rows in [*engines, (arguments.rows_engine, arguments.rows)]:
            seconds, mib = empty_rows(shown, Path(temporary), rows, engine)
            print(f"{rows:19d}   {engine:6} {seconds:11.1f} {1000 * seconds / rows:10.2f} {mib:19.0f}", flush=True)
    server.stop()


if __name__ == "__main__":
    main()
