"""Where the rows of an archive are worked on: an engine takes rows as a stream, and yields records as they come."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.archive.manifest import Row
from app.archive.places import needed
from app.archive.worker import Worker, failed
from iris_core.case import InputError

if TYPE_CHECKING:
    from app.commands.segment import Segment

DEATHS = 3  # of processes in the middle of one scan, after which the scan is left out; or in a row before a scan
Engine = Callable[["Segment", Iterator[Row]], Iterator[dict]]


def local(command: "Segment", rows: Iterator[Row]) -> Iterator[dict]:
    """One after the other, here."""
    return map(Worker(command), rows)


def ray(command: "Segment", rows: Iterator[Row]) -> Iterator[dict]:
    """On a Ray cluster: an actor for each GPU, or where there are none each CPU, that holds the model once.

    A row is given to an actor when it is free, so none waits in memory. Where an actor dies, or its machine, another is
    started and its row is given to the next that is free.
    """
    ray = needed("ray", "--engine ray")
    if Path(command.weights).is_dir():  # an actor has another working folder
        command = replace(command, weights=str(Path(command.weights).absolute()))
    address = command.engine.partition(":")[2]
    ray.init(address or "local", log_to_driver=False, logging_level="error")
    try:
        there = ray.cluster_resources()
        kind = "GPU" if there.get("GPU") and command.device != "cpu" else "CPU"
        actor = ray.remote(**{f"num_{kind.lower()}s": 1})(Actor)
        yield from _shared(ray, lambda: actor.remote(command), int(there[kind]), rows)
    finally:
        ray.shutdown()


def _shared(ray, start: Callable, number: int, rows: Iterator[Row]) -> Iterator[dict]:
    """The records of rows that so many actors share."""
    again, deaths, unborn = deque(), Counter(), 0
    waiting = {}  # what an actor is to answer → the actor, its row; first, with no row, that it is there

    def employ() -> None:
        new = start()
        waiting[new.ready.remote()] = new, None

    def give(actor) -> bool:
        row = again.popleft() if again else next(rows, None)
        if row:
            waiting[actor.segment.remote(row)] = actor, row
        return bool(row)

    idle = []
    for _ in range(number):
        employ()
    while waiting:
        (answer,), _ = ray.wait(list(waiting), num_returns=1)
        actor, row = waiting.pop(answer)
        try:
            record, unborn = ray.get(answer), 0
        except ray.exceptions.RayError as error:  # it died, or is out of reach
            ray.kill(actor)
            unborn += row is None
            if unborn == DEATHS:
                raise InputError(f"--engine ray: no worker starts on the cluster: {error}") from error
            employ()
            if row:
                deaths[row] += 1
                if deaths[row] < DEATHS:
                    again.append(row)
                else:
                    yield failed(row, f"{row.query}: its process died {DEATHS} times in the middle of it")
        else:
            if record:
                yield record
            if not give(actor):
                idle.append(actor)
        while idle and again:
            give(idle.pop())
        if idle and not again and not any(row for _, row in waiting.values()):
            return  # those that have not started, since their machine is gone, are not waited for


class Actor:
    """A worker as Ray holds it."""

    def __init__(self, command: "Segment") -> None:
        self.worker = Worker(command)

    def ready(self) -> None:
        """Answers once the model is loaded."""

    def segment(self, row: Row) -> dict:
        return self.worker(row)


def engine(name: str) -> Engine:
    """Raises InputError for one that there is not."""
    kind, colon, address = name.partition(":")
    if name == "local":
        return local
    if kind != "ray" or (colon and not address):
        raise InputError(f"--engine must be local, ray, or ray:ADDRESS such as ray:10.0.0.1:6379, got {name}")
    return ray
