"""What the page keeps of its visitors, on the server: uploads, masks, volumes. Each visitor sees only their own."""

import re
import secrets
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.service import Service
from app.viewers.slices import grey
from iris_core.case import Case, InputError
from iris_core.geometry import oriented
from nnunet_adapters.folder import named_outputs, volumes_ml
from nnunet_adapters.images import read_reference, read_scan, write_mask


@dataclass(frozen=True)
class Scan:
    """One scan as the viewers take it.

    image: (x, y, z) uint8 in RAS+ order. labels: of the same shape, 0 is background, i the i-th class of the result.
    Both are mapped from disk. spacing_mm: along x, y, z. volumes_ml: class name → volume in mL.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    volumes_ml: dict[str, float]


@dataclass(frozen=True)
class Result:
    """One run of the page. scans: the reference, then the queries that worked. failures: an error for each other."""

    folder: Path
    names: tuple[str, ...]
    scans: tuple[Scan, ...]
    masks: tuple[Path, ...]
    failures: tuple[InputError, ...]


class Sessions:
    """Folders of all visitors below one private folder, which goes when the program ends.

    A visitor has at most one result. Its token is the only way to it; it is random and stays on the server, except
    that it is part of the addresses of that visitor's own pictures and masks.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="iris-page-")).resolve()
        weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        self._lock = threading.Lock()
        self._tokens: dict[str, str] = {}  # visitor → token
        self._results: dict[str, Result] = {}  # token → result
        self._uploads: dict[str, set[Path]] = {}  # visitor → files

    @contextmanager
    def opened(self, visitor: str) -> Iterator[tuple[str, Path]]:
        """A new token with an empty folder; the visitor's former result is deleted.

        On the way out the folder is deleted too, unless a result was kept for the token.
        """
        token = secrets.token_urlsafe(32)
        folder = self.root / token
        folder.mkdir()
        with self._lock:
            former = self._tokens.get(visitor)
            self._tokens[visitor] = token
        self.expire(former)
        try:
            yield token, folder
        finally:
            if token not in self._results:
                self.expire(token)

    def keep(self, token: str, result: Result) -> None:
        """Store what ``result`` returns for the token, unless its visitor has left meanwhile."""
        with self._lock:
            if token in self._tokens.values():
                self._results[token] = result

    def result(self, token: str | None) -> Result:
        """Raises InputError if there is none (any more)."""
        with self._lock:
            if token not in self._results:
                raise InputError("This result is no longer kept; press Segment again")
            return self._results[token]

    def note_uploads(self, visitor: str, paths: Iterable[str | Path]) -> None:
        """Remember whose files these are. Only files of the page's own upload folders count."""
        files = {p for p in map(Path, paths) if p.parent.parent == self.root}
        with self._lock:
            self._uploads.setdefault(visitor, set()).update(files)

    def expire(self, token: str | None) -> None:
        """Delete a result."""
        with self._lock:
            self._results.pop(token, None)
            self._tokens = {v: t for v, t in self._tokens.items() if t != token}
        if token:
            shutil.rmtree(self.root / token, ignore_errors=True)

    def close(self, visitor: str) -> None:
        """Delete a visitor's result, and their uploads unless another visitor uploaded the same file."""
        with self._lock:
            token = self._tokens.get(visitor)
            gone = self._uploads.pop(visitor, set())
            gone -= set().union(*self._uploads.values())
        self.expire(token)
        for path in gone:
            shutil.rmtree(path.parent, ignore_errors=True)

    def without_folders(self, message: str) -> str:
        """A message with the names of uploaded files instead of their places on the server."""
        return re.sub(re.escape(str(self.root)) + r"/[0-9a-f]{64}/", "", message)


def segment_like(
    service: Service,
    folder: Path,
    reference_path: Path,
    mask_path: Path,
    query_paths: list[Path],
    names: dict[int, str],
    grid: str,
    strategy: str,
    progress: Callable[[int, int, int], None],
) -> Result:
    """What `iris segment` does, with everything that the page shows, in ``folder``.

    progress: called with the query's index, windows done, all windows. Raises InputError for the reference and for
    two queries of one name; a query that cannot be segmented becomes a failure.
    """
    for path in (reference_path, mask_path, *query_paths):
        if not path.is_file():
            raise InputError(f"{path.name}: is no longer kept on the server; upload it again")
    reference = read_reference(reference_path, mask_path, names)
    targets = named_outputs(query_paths)
    failures = []
    plan = service.plan(strategy, [reference], grid=grid)
    shown = reference.present()
    values, class_names = tuple(c.value for c in shown), tuple(c.name for c in shown)
    title = f"reference: {reference_path.name}"
    scans = [_scan(title, reference, reference.labels, values, class_names, folder / "0")]
    masks = []
    for number, (name, query) in enumerate(targets.items()):
        try:
            case = read_scan(query)
            task = plan(case).embedding
            labels = service.segment(task, case, lambda done, of, number=number: progress(number, done, of))
            write_mask(labels, query, folder / "masks" / name)
        except InputError as error:
            failures.append(error)
            continue
        scans.append(_scan(f"query: {query.name}", case, labels, values, class_names, folder / str(len(scans))))
        masks.append(folder / "masks" / name)
    return Result(folder, class_names, tuple(scans), tuple(masks), tuple(failures))


def _scan(
    title: str, case: Case, labels: np.ndarray, classes: tuple[int, ...], names: tuple[str, ...], stem: Path
) -> Scan:
    """Put a case and its labels (both in file order) where the viewers find them: in files that begin with ``stem``."""
    image, spacing_mm = oriented(case, grey(case.image))
    values, _ = oriented(case, labels)
    index = np.empty(values.shape, np.min_scalar_type(len(classes)))
    for x, part in enumerate(values):
        index[x] = np.where(part == 0, 0, np.searchsorted(classes, part) + 1)
    mapped = []
    for name, array in (("image", image), ("labels", index)):
        file = stem.with_name(f"{stem.name}-{name}.npy")
        np.save(file, np.ascontiguousarray(array))
        mapped.append(np.load(file, mmap_mode="r"))
    return Scan(title, *mapped, spacing_mm, volumes_ml(labels, classes, names, case.spacing_mm))
