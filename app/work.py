"""What the page and its API do with files: the same as the command line, with what the viewers and downloads need."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from app import exports
from app.results import Result, Scan, keep_scan
from app.service import Service
from app.uploads import gather, pairs, truths_of
from app.viewers.colours import colour
from iris_core.case import Case, InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.strategies import Known, Options, Plan
from nnunet_adapters.folder import FAILURES, named_outputs, seg_name
from nnunet_adapters.images import read_reference, read_scan, write_mask
from nnunet_adapters.masks.mask import Structure
from nnunet_adapters.statistics import statistics, write_statistics

Progress = Callable[[str, float], None]  # what is being done, share of all
KEEPING = "auto", "one_shot", "ensemble"  # strategies that only want what is shown encoded


class Stopped(Exception):  # noqa: N818 (no error: the visitor pressed Cancel)
    """Raised by a progress callback to end a run; queries that are done stay."""


@dataclass(frozen=True)
class Asked:
    """Everything a visitor chose. truths: true masks of queries, for measuring. See Service.plan for the rest.

    corrected: a query's first upload → its mask, which a person corrected: it stays as it is, and shows the task too.
    trust: a query's first upload → its mean confidence in a former run.
    """

    references: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    tasks: tuple[Path, ...] = ()
    classes: tuple[str, ...] = ()
    queries: tuple[Path, ...] = ()
    truths: tuple[Path, ...] = ()
    names: dict[int, str] = field(default_factory=dict)
    strategy: str = "auto"
    grid: str = "auto"
    options: Options = field(default_factory=Options)
    confidence: bool = True
    corrected: dict[Path, Path] = field(default_factory=dict)
    trust: dict[Path, float] = field(default_factory=dict)

    def require_files(self) -> None:
        for path in (*self.references, *self.masks, *self.tasks, *self.queries, *self.truths):
            if not path.is_file():
                raise InputError(f"{path.name}: is no longer kept on the server; upload it again")


Encoded = dict[tuple, Known]  # what was encoded in former runs, by its files, names and grid


@dataclass(frozen=True)
class Reference:
    """A labelled scan, read. uploads: what the visitor gave."""

    case: Case
    source: Path
    uploads: tuple[Path, ...]
    mask: Path

    def key(self, asked: Asked) -> tuple:
        """What its encoding depends on."""
        return self.uploads, self.mask, self.mask.stat().st_mtime_ns, asked.grid, *sorted(asked.names.items())


@dataclass(frozen=True)
class Showing:
    """What shows the task, read. known: of task files. values: class name → label value."""

    shown: list[Reference]
    known: list[Known]
    classes: tuple[str, ...]
    values: dict[str, int]

    @classmethod
    def of(cls, service: Service, asked: Asked, folder: Path, queries: dict[Path, tuple[Path, ...]]) -> "Showing":
        """folder: where DICOM is unpacked. queries: those that a person corrected show the task too."""
        asked.require_files()
        scans = gather(asked.references, folder / "shown")
        together = [(scan, scans[scan], mask) for scan, mask in pairs(list(scans), asked.masks)]
        corrected = {scan: files for scan, files in queries.items() if files[0] in asked.corrected}
        together += [(scan, files, asked.corrected[files[0]]) for scan, files in corrected.items()]
        shown = [Reference(read_reference(s, mask, asked.names), s, files, mask) for s, files, mask in together]
        known = [service.read_task(path) for path in asked.tasks]
        values = {c.name: c.value for reference in shown for c in reference.case.present()}
        values |= {n: v for k in known for n, v in zip(k.embedding.names, k.embedding.values, strict=True)}
        values |= {name: i for i, name in enumerate(asked.classes, 1)}
        return cls(shown, known, asked.classes, dict(sorted(values.items(), key=lambda item: item[1])))

    @property
    def references(self) -> list[Case]:
        return [reference.case for reference in self.shown]

    def plan(
        self, service: Service, asked: Asked, progress=lambda done, of: None, encoded: Encoded | None = None
    ) -> Plan:
        """encoded: what need not be encoded again; gains what is new."""
        references, known = self.references, self.known
        if encoded is not None and asked.strategy in KEEPING and service.keeps and references:
            new = [reference for reference in self.shown if reference.key(asked) not in encoded]
            found = service.encode_each([reference.case for reference in new], asked.grid, progress)
            encoded |= {reference.key(asked): k for reference, k in zip(new, found, strict=True)}
            references, known = [], [*(encoded[reference.key(asked)] for reference in self.shown), *known]
        return service.plan(
            asked.strategy,
            references,
            known,
            classes=self.classes,
            grid=asked.grid,
            options=asked.options,
            progress=progress,
        )


def encode(service: Service, asked: Asked, folder: Path) -> Path:
    """Write the task file of what is shown."""
    if "retrieval" in asked.strategy:
        raise InputError(f"{asked.strategy} makes another task for every query: there is none to write")
    embedding = Showing.of(service, asked, folder, {}).plan(service, asked)(None).embedding
    return _write_task(service, asked, embedding, folder)


def run(service: Service, folder: Path, asked: Asked, progress: Progress, encoded: Encoded | None = None) -> Result:
    """Segment all queries into ``folder``, in the order of ``asked.trust``: the worst first.

    progress may raise Stopped. encoded: see Showing.plan. Raises InputError for what is shown and for two queries of
    one name; a query that cannot be segmented becomes a failure.
    """
    job = Job(service, folder, asked, progress, encoded)
    try:
        job.begin()
        for number, (name, query) in enumerate(job.targets.items()):
            try:
                job.segment(number, name, query)
            except InputError as error:
                job.failures.append(error)
            except FAILURES as error:
                reason = "not enough memory; crop the scan" if isinstance(error, MemoryError) else error
                job.failures.append(InputError(f"{query.name}: {reason}"))
    except Stopped:
        return replace(job.result(), stopped=True)
    return job.result()


class Job:
    """One run as it proceeds."""

    def __init__(
        self, service: Service, folder: Path, asked: Asked, progress: Progress, encoded: Encoded | None
    ) -> None:
        self.service, self.folder, self.asked, self.progress, self.encoded = service, folder, asked, progress, encoded
        self.scans: list[Scan] = []
        self.failures: list[InputError] = []
        self.rows: list[dict] = []
        self.segs: list[Path] = []
        self.embedding: TaskEmbedding | None = None
        self.targets: dict[str, Path] = {}

    def begin(self) -> None:
        """Read and encode what is shown."""
        asked = self.asked
        self.progress("reading what you showed", 0)
        uploads = gather(asked.queries, self.folder / "queries")
        self.uploads = dict(sorted(uploads.items(), key=lambda item: asked.trust.get(item[1][0], 2)))
        self.targets = named_outputs(list(self.uploads))
        self.truths = truths_of(list(self.uploads), asked.truths)
        self.shown = shown = Showing.of(self.service, asked, self.folder, self.uploads)
        self.plan = shown.plan(
            self.service,
            asked,
            lambda done, of: self.progress(f"preparing the task, step {done} of {of}", 0),
            self.encoded,
        )
        for known in shown.shown:
            if known.source not in self.uploads:
                more = {"reference": True, "mask": known.mask}
                self._keep(known.case, known.case.labels, None, known.source, known.uploads, **more)

    def segment(self, number: int, name: str, query: Path) -> None:
        count = len(self.targets)

        def at(what: str, share: float) -> None:
            self.progress(f"query {number + 1} of {count}: {query.name}, {what}", (number + share) / count)

        at("reading", 0)
        case, truth = self._read(query)
        values, names = tuple(self.shown.values.values()), tuple(self.shown.values)
        mask, corrected = self.folder / "masks" / name, self.asked.corrected.get(self.uploads[query][0])
        trust, more = {}, {}
        if corrected:
            labels = read_reference(query, corrected).labels
        else:
            chosen = self.plan(case)
            self.embedding = chosen.embedding
            decoding = 0.5 if self.asked.confidence and self.shown.references else 0.95
            labels = self.service.segment(
                chosen.embedding, case, lambda done, of: at(f"window {done} of {of}", decoding * done / of)
            )
            if self.asked.confidence and self.shown.references:
                at("estimating the confidence", decoding)
                trust = self.service.confidence(self.shown.references, case, labels, chosen.embedding)
            notes = {name: self._named(note) for name, note in chosen.notes.items()}
            more = {"notes": notes, "overlapping": chosen.embedding.overlapping, "task": chosen.embedding}
        structures = self._structures()
        write_mask(labels, query, mask, structures)
        more |= {"reference": False, "mask": mask, "confidence": trust, "corrected": bool(corrected)}
        scan = self._keep(case, labels, truth, query, self.uploads[query], **more)
        for row in statistics(case, labels, values, names, trust):
            score = asdict(scan.scores[row["name"]]) if scan.scores else {}
            self.rows.append({"scan": query.name} | row | score)
        if query.is_dir():
            try:
                seg = mask.with_name(seg_name(name))
                exports.dicom_seg(labels, query, structures, seg)
                self.segs.append(seg)
            except InputError as error:
                self.failures.append(error)

    def _structures(self) -> list[Structure]:
        """The classes with the colours of their mask's file, else the viewers'."""
        own = {name: rgb for case in self.shown.references for name, rgb in case.colours.items()}
        named = enumerate(self.shown.values.items())
        return [Structure(value, name, own.get(name, colour(index))) for index, (name, value) in named]

    def _read(self, query: Path):
        """The query without labels, and its truth or None; a bad truth is a failure, the query goes on."""
        if query in self.truths:
            try:
                case = read_reference(query, self.truths[query])
                return replace(case, labels=None, classes=()), with_values_of(case, self.shown.values)
            except InputError as error:
                self.failures.append(error)
        return read_scan(query), None

    def _named(self, note: str) -> str:
        """A note with the names of references instead of their places on the server."""
        for case in self.shown.references:
            note = note.replace(case.name, Path(case.name).name)
        return note

    def _keep(self, case: Case, labels, truth, source: Path, uploads: tuple[Path, ...], **more) -> Scan:
        stem = self.folder / str(len(self.scans))
        more |= {"source": source, "uploads": uploads}
        self.scans.append(keep_scan(case, labels, self.shown.values, truth, stem, **more))
        return self.scans[-1]

    def result(self) -> Result:
        """With statistics, the task, and everything as one zip."""
        masks = [scan.mask for scan in self.scans if not scan.reference]
        extras = list(self.segs)
        if masks:
            tables = self.folder / "statistics.csv", self.folder / "statistics.json"
            write_statistics(self.rows, *tables)
            extras += tables
            if self.embedding and "retrieval" not in self.asked.strategy:
                extras.append(_write_task(self.service, self.asked, self.embedding, self.folder))
            everything = self.folder / "everything.zip"
            exports.archive([*masks, *extras], everything)
            extras.insert(0, everything)
        return Result(
            self.folder,
            self.shown.values if self.scans else {},
            tuple(self.scans),
            tuple(self.failures),
            extras=tuple(extras),
            rows=tuple(self.rows),
            asked=len(self.targets),
        )


def with_values_of(truth: Case, values: dict[str, int]) -> np.ndarray:
    """The labels of a true mask with the values that a result gives its classes (name → value).

    Where its file names structures as the result does, they are matched by name, and others are none of the result's;
    else values mean the same in both.
    """
    if not any(c.name in values for c in truth.classes):
        return truth.labels
    labels = np.zeros(truth.labels.shape, np.int64)
    for c in truth.classes:
        if c.name in values:
            labels[truth.labels == c.value] = values[c.name]
    return labels


def _write_task(service: Service, asked: Asked, embedding: TaskEmbedding, folder: Path) -> Path:
    output = folder / "iris.task.safetensors"
    shown = (*asked.references, *asked.masks, *asked.tasks)
    service.write_task(output, embedding, tuple(path.name for path in shown) + asked.classes)
    return output
