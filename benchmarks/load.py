"""The page under load: visitors on loopback who upload, segment, look, draw, cancel, send slowly, and vanish.

    python benchmarks/load.py [--visitors 50] [--minutes 10]

Starts `iris app`, and prints how often each thing was done, the seconds that it took (p50, p95), what the server
refused and in which words, its peak memory, and what is left of its visitors once all have gone. Each visitor's scan
lies at a place of its own, in mm: a mask that lies elsewhere is of somebody else. In the middle of it one visitor has a
large scan, and what the others wait for meanwhile is printed apart.

A place is kept for 15 s after its visitor left, so the server is begun with room for twice as many. Visitors speak the
protocol of gradio's own page, event by event, through its queue.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import nibabel
import numpy as np

SAMPLE = Path(__file__).parents[1] / "app" / "samples" / "hippocampus"
MIX = {"segment": 10, "cancel": 3, "draw": 3, "vanish": 2, "slow upload": 2}  # how often a visitor does what
SLOW_S = 8.0  # that a slow upload takes
LEAVE_S = 40.0  # after the last visitor, until all must be deleted
LARGE = 6  # times as many voxels along each axis as the sample has
PATIENCE = httpx.Timeout(30, read=900)
PAGE = re.compile(r"iris-.*-page-.*")


class Refused(Exception):  # noqa: N818 (an answer of the server, in words)
    """What the server said to a visitor instead of doing what they wanted."""


class Record:
    """seconds: of each thing that was done, and when it began. told: refusals. wrong: what must not be."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.told, self.wrong = Counter(), []

    @asynccontextmanager
    async def timed(self, what: str):
        begun = time.monotonic()
        yield
        self.seconds[what].append((begun, time.monotonic() - begun))


class Visitor:
    """One browser's page. number: theirs alone."""

    def __init__(self, address: str, number: int, record: Record) -> None:
        self.http = httpx.AsyncClient(base_url=address, timeout=PATIENCE)
        self.number, self.record, self.session = number, record, secrets.token_hex(8)
        self.values: dict[int, object] = {}
        self.random = random.Random(number)

    async def open(self) -> None:
        """Load the page; from now on the server knows that somebody looks at it."""
        async with self.record.timed("open the page"):
            await self.http.get("/")
            config = (await self.http.get("/config")).json()
        self.events = {event["api_name"]: event for event in config["dependencies"]}
        self.ids = {c["props"].get("elem_id"): c["id"] for c in config["components"] if c["props"].get("elem_id")}
        self.values = {c["id"]: c["props"].get("value") for c in config["components"]}
        self.watching = asyncio.create_task(self._watch())
        await self.call("arrive", [secrets.token_hex(16)])

    async def _watch(self) -> None:
        with suppress(httpx.HTTPError):
            async with self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}") as beats:
                async for _ in beats.aiter_raw():
                    pass

    async def leave(self) -> None:
        self.watching.cancel()
        await self.http.aclose()

    async def upload(self, name: str, content: bytes, slow_s: float = 0) -> dict:
        """A file, as gradio's components hold it."""
        request = self.http.build_request("POST", "/gradio_api/upload", files={"files": (name, content)})
        body = request.read()

        async def pieces():
            for i in range(0, len(body), 1 + len(body) // 20):
                yield body[i : i + 1 + len(body) // 20]
                await asyncio.sleep(slow_s / 20)

        headers = {"Content-Type": request.headers["Content-Type"], "Content-Length": str(len(body))}
        answer = await self.http.post("/gradio_api/upload", content=pieces(), headers=headers)
        if answer.status_code != 200:
            raise Refused(answer.text[:200])
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    async def call(
        self, name: str, data: list | None = None, told: dict | None = None, begun: asyncio.Event | None = None
    ) -> list:
        """An event of the page, through its queue, with what its components hold. told: by the viewer. begun: set when
        its turn has come."""
        event = self.events[name]
        held = [self.values.get(i) for i in event["inputs"]] if data is None else data
        body = {"data": held, "fn_index": event["id"], "session_hash": self.session, "event_data": told}
        if not event["queue"]:
            answer = await self.http.post("/gradio_api/run/predict", json=body)
            return answer.json().get("data", [])
        answer = await self.http.post("/gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            raise Refused(str(answer.json().get("detail", answer.text))[:200])
        return self._held(event, await self._outcome(answer.json()["event_id"], begun))

    async def _outcome(self, event_id: str, begun: asyncio.Event | None) -> list:
        address = f"/gradio_api/queue/data?session_hash={self.session}"
        async with self.http.stream("GET", address) as messages:
            async for line in messages.aiter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if begun and message.get("msg") == "process_starts" and message.get("event_id") == event_id:
                    begun.set()
                if message.get("msg") == "process_completed" and message.get("event_id") == event_id:
                    if not message["success"]:
                        raise Refused(re.sub("<[^>]+>", "", str(message["output"].get("error")))[:200])
                    return message["output"]["data"]
        raise Refused("the stream of answers ended")

    def _held(self, event: dict, outputs: list) -> list:
        for component, output in zip(event["outputs"], outputs, strict=False):
            update = isinstance(output, dict) and output.get("__type__") == "update"
            if not update or "value" in output:
                self.values[component] = output["value"] if update else output
        return outputs

    async def show(self, scan: bytes, mask: bytes, query: bytes, slow_s: float = 0) -> None:
        """Upload a reference, its mask, a query, and see them."""
        files = {"references": ("scan", scan), "masks": ("scan_mask", mask), "queries": ("query", query)}
        for field, (name, content) in files.items():
            async with self.record.timed("slow upload" if slow_s else "upload"):
                file = await self.upload(f"{name}{self.number}.nii.gz", content, slow_s)
            self.values[self.ids[field]] = [file]
        async with self.record.timed("see the uploads"):
            await self.call("preview")

    async def segment(self, what: str = "segment") -> list[dict]:
        """Press the button, wait, look at it. Returns the masks' files."""
        async with self.record.timed(what):
            await self.call("begin")
            outputs = await self.call("run")
        async with self.record.timed("look at it"):
            self.viewer = (await self.call("show_1"))[0]
        return next(o for o in outputs if isinstance(o, list) and o and "path" in o[0])

    async def cancelled(self) -> None:
        """Change one's mind while the run is under way, and wait for its end."""
        await self.call("begin")
        begun = asyncio.Event()
        running = asyncio.create_task(self.call("run", begun=begun))
        await asyncio.wait({asyncio.create_task(begun.wait()), running}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(self.random.uniform(0, 2))
        if not running.done():
            async with self.record.timed("cancel until it ends"):
                await self.call("cancel")
                with suppress(Refused):
                    await running
        with suppress(Refused):
            await running

    async def draw(self, mask: bytes) -> None:
        """A drawing on the scan that is looked at."""
        shown = self.viewer.get("value", self.viewer) if isinstance(self.viewer, dict) else {}
        async with self.record.timed("draw"):
            file = await self.upload("drawing.nii.gz", mask)
            structures = [{"name": s["name"], "colour": s.get("colour", "#fff")} for s in shown["structures"]]
            await self.call("drew", told={"id": shown["id"], "path": file["path"], "structures": structures})

    async def fetched(self, file: dict) -> bytes:
        answer = await self.http.get(f"/gradio_api/file={file['path']}")
        if answer.status_code != 200:
            raise Refused(f"a mask cannot be fetched: {answer.status_code}")
        return answer.content


def placed(name: str, number: int, large: int = 1) -> bytes:
    """A file of the sample that lies at a place of its own; large: times as many voxels along each axis."""
    image = nibabel.load(SAMPLE / f"{name}.nii.gz")
    voxels, affine = np.asarray(image.dataobj), image.affine.copy()
    for axis in range(3):
        voxels = voxels.repeat(large, axis)
    affine[:3, :3] /= large
    affine[0, 3] += number
    return gzip.compress(nibabel.Nifti1Image(voxels, affine, image.header).to_bytes(), 1)


def place(mask: bytes) -> float:
    return float(nibabel.Nifti1Image.from_bytes(gzip.decompress(mask)).affine[0, 3])


async def visits(address: str, number: int, record: Record, until: float) -> None:
    """One visitor after another on one chair, until the time is over."""
    files = {name: placed(name, number) for name in ("reference", "reference_mask", "query", "query_mask")}
    own = place(files["query"])
    chance = random.Random(number)
    await asyncio.sleep(chance.uniform(0, 10))
    while time.monotonic() < until:
        visitor, what = Visitor(address, number, record), chance.choices(list(MIX), list(MIX.values()))[0]
        try:
            await visitor.open()
            slow = SLOW_S if what == "slow upload" else 0
            await visitor.show(files["reference"], files["reference_mask"], files["query"], slow)
            if what == "cancel":
                await visitor.cancelled()
            elif what == "vanish":
                await visitor.call("begin")
                lost = asyncio.create_task(visitor.call("run"))
                await asyncio.sleep(chance.uniform(0, 2))
                lost.cancel()
                record.seconds["vanish"].append((time.monotonic(), 0.0))
            else:
                masks = await visitor.segment()
                found = [place(await visitor.fetched(mask)) for mask in masks]
                if found != [own]:
                    record.wrong.append(f"visitor {number}, at {own} mm, got masks at {found}")
                if what == "draw":
                    await visitor.draw(gzip.compress(drawing(files["query_mask"])))
        except Refused as refusal:
            record.told[str(refusal)] += 1
            await asyncio.sleep(5)
        except (httpx.HTTPError, KeyError, StopIteration) as error:
            record.wrong.append(f"visitor {number}, {what}: {error!r}")
        finally:
            await visitor.leave()


def drawing(mask: bytes) -> bytes:
    """The mask as the viewer sends it: uint8 in RAS+ order."""
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(gzip.decompress(mask)))
    return nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.uint8), image.affine).to_bytes()


async def large(address: str, record: Record, after_s: float) -> tuple[float, float]:
    """One visitor with a large scan. Returns when their run began and ended."""
    files = [placed(name, 500, LARGE) for name in ("reference", "reference_mask", "query")]
    await asyncio.sleep(after_s)
    visitor = Visitor(address, 500, record)
    await visitor.open()
    await visitor.show(*files)
    begun = time.monotonic()
    await visitor.segment("segment a large scan")
    await visitor.leave()
    return begun, time.monotonic()


async def load(address: str, visitors: int, minutes: float, record: Record) -> tuple[float, float]:
    until = time.monotonic() + 60 * minutes
    chairs = [visits(address, number, record, until) for number in range(visitors)]
    beside, *_ = await asyncio.gather(large(address, record, 20 * minutes), *chairs)
    return beside


def table(record: Record, beside: tuple[float, float]) -> None:
    begun, ended = beside
    print(f"{'':24s} {'number':>7s} {'p50 s':>7s} {'p95 s':>7s}   beside the large scan: number, p50, p95")
    for what, times in record.seconds.items():
        taken = np.array([seconds for _, seconds in times])
        meanwhile = np.array([seconds for at, seconds in times if begun <= at <= ended])
        p50, p95 = np.percentile(taken, (50, 95))
        line = f"{what:24s} {len(taken):7d} {p50:7.2f} {p95:7.2f}"
        if len(meanwhile):
            line += "   {:5d} {:7.2f} {:7.2f}".format(len(meanwhile), *np.percentile(meanwhile, (50, 95)))
        print(line)
    print(f"refused: {dict(record.told) or 'nothing'}")
    print(f"wrong: {len(record.wrong)} {record.wrong[:5]}")


def peak_gib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20


def left(folder: Path) -> list[str]:
    """Files of visitors that are still there."""
    return [
        str(path) for root in folder.iterdir() if PAGE.match(root.name) for path in root.rglob("*") if path.is_file()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, record = f"http://127.0.0.1:{port}", Record()
    with tempfile.TemporaryDirectory(prefix="iris-load-") as folder:
        log = Path(folder, "log.txt")
        with log.open("w") as output:
            places = ["--limits.visitors", str(2 * arguments.visitors + 1)]
            command = [sys.executable, "-m", "app.cli", "app", "--port", str(port), *places]
            server = subprocess.Popen(command, env=os.environ | {"TMPDIR": folder}, stdout=output, stderr=output)
        try:
            while True:
                with suppress(httpx.HTTPError):
                    if httpx.get(f"{address}/config").status_code == 200:
                        break
                time.sleep(0.5)
            began = peak_gib(server.pid)
            beside = asyncio.run(load(address, arguments.visitors, arguments.minutes, record))
            time.sleep(LEAVE_S)
            table(record, beside)
            files = left(Path(folder))
            print(f"peak memory of the server: {peak_gib(server.pid):.2f} GiB, {began:.2f} before the first visitor")
            print(f"files left: {len(files)} {files[:5]}")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        print(f"tracebacks of the server: {log.read_text().count('Traceback')}")


if __name__ == "__main__":
    main()
