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
from iris_core.strategies import EncodedReference, Options, Plan
from nnunet_adapters.folder import FAILURES, named_outputs, seg_name
from nnunet_adapters.images import read_reference, read_scan, write_mask
from nnunet_adapters.masks.mask import Structure
from nnunet_adapters.statistics import statistics, write_statistics

Progress = Callable[[str, float], None]  # what is being done, share of all
KEEPING = "auto", "one_shot", "ensemble"  # strategies that need references only as encoded


class Stopped(Exception):  # noqa: N818 (no error: the visitor pressed Cancel)
    """Raised by a progress callback to end a run; queries that are done stay."""


@dataclass(frozen=True)
class Inputs:
    """What a visitor filled in: files and settings, see Service.plan. truths: true masks of queries, for measuring.

    corrected: a query's first upload → its mask, which a person corrected: it stays as it is, and is a reference too.
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


Cache = dict[tuple, EncodedReference]  # references encoded in former runs, by files, names and grid


@dataclass(frozen=True)
class LabelledScan:
    """A labelled scan, read. uploads: what the visitor gave."""

    case: Case
    source: Path
    uploads: tuple[Path, ...]
    mask: Path

    def key(self, inputs: Inputs) -> tuple:
        """What its encoding depends on."""
        return self.uploads, self.mask, self.mask.stat().st_mtime_ns, inputs.grid, *sorted(inputs.names.items())


@dataclass(frozen=True)
class References:
    """What defines the task, read: scans with masks, task files, or names of classes that the weights know.

    encoded: of task files. values: class name → label value.
    """

    labelled: list[LabelledScan]
    encoded: list[EncodedReference]
    classes: tuple[str, ...]
    values: dict[str, int]

    @classmethod
    def of(cls, service: Service, inputs: Inputs, folder: Path, queries: dict[Path, tuple[Path, ...]]) -> "References":
        """folder: where DICOM is unpacked. queries: those that a person corrected are references too."""
        inputs.require_files()
        scans = gather(inputs.references, folder / "references")
        together = [(scan, scans[scan], mask) for scan, mask in pairs(list(scans), inputs.masks)]
        corrected = {scan: files for scan, files in queries.items() if files[0] in inputs.corrected}
        together += [(scan, files, inputs.corrected[files[0]]) for scan, files in corrected.items()]
        labelled = [LabelledScan(read_reference(s, mask, inputs.names), s, files, mask) for s, files, mask in together]
        encoded = [service.read_task(path) for path in inputs.tasks]
        values = {c.name: c.value for scan in labelled for c in scan.case.present()}
        values |= {n: v for e in encoded for n, v in zip(e.embedding.names, e.embedding.values, strict=True)}
        values |= {name: i for i, name in enumerate(inputs.classes, 1)}
        return cls(labelled, encoded, inputs.classes, dict(sorted(values.items(), key=lambda item: item[1])))

    @property
    def cases(self) -> list[Case]:
        return [scan.case for scan in self.labelled]

    def plan(
        self, service: Service, inputs: Inputs, progress=lambda done, of: None, cache: Cache | None = None
    ) -> Plan:
        """T for every query. cache: references that need not be encoded again; gains what is new."""
        cases, encoded = self.cases, self.encoded
        if cache is not None and inputs.strategy in KEEPING and service.keeps and cases:
            new = [scan for scan in self.labelled if scan.key(inputs) not in cache]
            found = service.encode_each([scan.case for scan in new], inputs.grid, progress)
            cache |= {scan.key(inputs): one for scan, one in zip(new, found, strict=True)}
            cases, encoded = [], [*(cache[scan.key(inputs)] for scan in self.labelled), *encoded]
        return service.plan(
            inputs.strategy,
            cases,
            encoded,
            classes=self.classes,
            grid=inputs.grid,
            options=inputs.options,
            progress=progress,
        )


def encode(service: Service, inputs: Inputs, folder: Path) -> Path:
    """Write the task file of the references."""
    if "retrieval" in inputs.strategy:
        raise InputError(f"{inputs.strategy} makes another task for every query: there is none to write")
    embedding = References.of(service, inputs, folder, {}).plan(service, inputs)(None).embedding
    return _write_task(service, inputs, embedding, folder)


def run(service: Service, folder: Path, inputs: Inputs, progress: Progress, cache: Cache | None = None) -> Result:
    """Segment all queries into ``folder``, in the order of ``inputs.trust``: the worst first.

    progress may raise Stopped. cache: see References.plan. Raises InputError for references that cannot be used and for
    two queries of one name; a query that cannot be segmented becomes a failure.
    """
    job = Job(service, folder, inputs, progress, cache)
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

    def __init__(self, service: Service, folder: Path, inputs: Inputs, progress: Progress, cache: Cache | None) -> None:
        self.service, self.folder, self.inputs, self.progress, self.cache = service, folder, inputs, progress, cache
        self.scans: list[Scan] = []
        self.failures: list[InputError] = []
        self.rows: list[dict] = []
        self.segs: list[Path] = []
        self.embedding: TaskEmbedding | None = None
        self.targets: dict[str, Path] = {}

    def begin(self) -> None:
        """Read and encode the references."""
        inputs = self.inputs
        self.progress("reading what you showed", 0)
        uploads = gather(inputs.queries, self.folder / "queries")
        self.uploads = dict(sorted(uploads.items(), key=lambda item: inputs.trust.get(item[1][0], 2)))
        self.targets = named_outputs(list(self.uploads))
        self.truths = truths_of(list(self.uploads), inputs.truths)
        self.references = References.of(self.service, inputs, self.folder, self.uploads)
        self.plan = self.references.plan(
            self.service,
            inputs,
            lambda done, of: self.progress(f"preparing the task, step {done} of {of}", 0),
            self.cache,
        )
        for scan in self.references.labelled:
            if scan.source not in self.uploads:
                more = {"reference": True, "mask": scan.mask}
                self._keep(scan.case, scan.case.labels, None, scan.source, scan.uploads, **more)

    def segment(self, number: int, name: str, query: Path) -> None:
        count = len(self.targets)

        def at(what: str, share: float) -> None:
            self.progress(f"query {number + 1} of {count}: {query.name}, {what}", (number + share) / count)

        at("reading", 0)
        case, truth = self._read(query)
        values, names = tuple(self.references.values.values()), tuple(self.references.values)
        mask, corrected = self.folder / "masks" / name, self.inputs.corrected.get(self.uploads[query][0])
        trust, more, stopped = {}, {}, None
        if corrected:
            labels = read_reference(query, corrected).labels
        else:
            query_task = self.plan(case)
            self.embedding = query_task.embedding
            decoding = 0.5 if self.inputs.confidence and self.references.cases else 0.95
            labels = self.service.segment(
                query_task.embedding, case, lambda done, of: at(f"window {done} of {of}", decoding * done / of)
            )
            if self.inputs.confidence and self.references.cases:
                trust, stopped = self._trust(
                    case, labels, query_task.embedding, lambda: at("estimating the confidence", decoding)
                )
            notes = {name: self._named(note) for name, note in query_task.notes.items()}
            more = {"notes": notes, "overlapping": query_task.embedding.overlapping, "task": query_task.embedding}
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
        if stopped:
            raise stopped

    def _trust(
        self, case: Case, labels: np.ndarray, task: TaskEmbedding, go_on: Callable[[], None]
    ) -> tuple[dict[str, float], Stopped | None]:
        """The confidence in what was found, or why it was not estimated to its end: the mask is there all the same."""
        try:
            go_on()
            return self.service.confidence(self.references.cases, case, labels, task, lambda *_: go_on()), None
        except Stopped as stopped:
            return {}, stopped

    def _structures(self) -> list[Structure]:
        """The classes with the colours of their mask's file, else the viewers'."""
        own = {name: rgb for case in self.references.cases for name, rgb in case.colours.items()}
        named = enumerate(self.references.values.items())
        return [Structure(value, name, own.get(name, colour(index))) for index, (name, value) in named]

    def _read(self, query: Path):
        """The query without labels, and its truth or None; a bad truth is a failure, the query goes on."""
        if query in self.truths:
            try:
                case = read_reference(query, self.truths[query])
                return replace(case, labels=None, classes=()), with_values_of(case, self.references.values)
            except InputError as error:
                self.failures.append(error)
        return read_scan(query), None

    def _named(self, note: str) -> str:
        """A note with the names of references instead of their places on the server."""
        for case in self.references.cases:
            note = note.replace(case.name, Path(case.name).name)
        return note

    def _keep(self, case: Case, labels, truth, source: Path, uploads: tuple[Path, ...], **more) -> Scan:
        stem = self.folder / str(len(self.scans))
        more |= {"source": source, "uploads": uploads}
        self.scans.append(keep_scan(case, labels, self.references.values, truth, stem, **more))
        return self.scans[-1]

    def result(self) -> Result:
        """With statistics, the task, and everything as one zip."""
        masks = [scan.mask for scan in self.scans if not scan.reference]
        extras = list(self.segs)
        if masks:
            tables = self.folder / "statistics.csv", self.folder / "statistics.json"
            write_statistics(self.rows, *tables)
            extras += tables
            if self.embedding and "retrieval" not in self.inputs.strategy:
                extras.append(_write_task(self.service, self.inputs, self.embedding, self.folder))
            everything = self.folder / "everything.zip"
            exports.archive([*masks, *extras], everything)
            extras.insert(0, everything)
        return Result(
            self.folder,
            self.references.values if self.scans else {},
            tuple(self.scans),
            tuple(self.failures),
            extras=tuple(extras),
            rows=tuple(self.rows),
            query_count=len(self.targets),
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


def _write_task(service: Service, inputs: Inputs, embedding: TaskEmbedding, folder: Path) -> Path:
    output = folder / "iris.task.safetensors"
    files = (*inputs.references, *inputs.masks, *inputs.tasks)
    service.write_task(output, embedding, tuple(path.name for path in files) + inputs.classes)
    return output
