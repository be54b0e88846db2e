"""What the page keeps of its visitors, on the server: uploads, masks, volumes. Each visitor sees only their own."""

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.limits import GIB, Limits
from app.results import Result
from iris_core.case import InputError
from iris_core.files import HERE, forget_the_dead
from iris_core.strategies import EncodedReference

GRACE_S = 15  # a page that is loaded again finds everything as it was
ARRIVAL_S = 3  # for the old page to be gone
PROGRAM_S = 600  # a program, which never says that it leaves, keeps its place as long where others want it
GONE = 10_000  # visitors whose page was closed, that are remembered
KEPT_S = 4 * 3600  # results and uploads are deleted when the page is closed, at the latest after this


@dataclass
class Desk:
    """What a visitor has at hand from run to run.

    corrected: a query's first upload → its mask as a person corrected it. cache: references that need not be
    encoded again. fields: what is filled in. drawings: a folder for the mask of each scan that they drew on.
    """

    corrected: dict[Path, Path] = field(default_factory=dict)
    cache: dict[tuple, EncodedReference] = field(default_factory=dict)
    fields: tuple = ()
    drawings: dict[str, Path] = field(default_factory=dict)


class Sessions:
    """Folders of all visitors below one private folder, which goes when the program ends.

    A visitor has at most one result, and one run under way. A result's token is the only way to it; it is random and
    stays on the server, except that it is part of the addresses of that visitor's own pictures and masks.
    """

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 (frozen)
        self.limits = limits
        forget_the_dead(Path(tempfile.gettempdir()))  # whose program was killed before it could delete it
        self.root = Path(tempfile.mkdtemp(prefix=f"{HERE}-{os.getpid()}-page-")).resolve()
        weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        self._lock = threading.Lock()
        self._tokens: dict[str, str] = {}  # visitor → token of the last run
        self._shown: dict[str, str] = {}  # visitor → token of the last result
        self._since: dict[str, float] = {}  # token → when it was made
        self._results: dict[str, Result] = {}  # token → result
        self._uploads: dict[str, dict[Path, int]] = {}  # visitor → files, and when they were written
        self._desks: dict[str, Desk] = {}  # visitor → desk
        self._seen: dict[str, float] = {}  # visitor → when they last did something
        self._arriving = 0  # bytes of uploads under way
        self._measured = 0.0, 0  # when, and bytes below the root
        self._keys: dict[str, str] = {}  # a browser tab's key → visitor
        self._leaving: dict[str, threading.Timer] = {}  # visitor → what will close their visit
        self._gone: dict[str, None] = {}  # visitors whose page was closed, the last at the end

    def admit(self, visitor: str) -> None:
        """Give a visitor a place, unless they have one. Raises InputError where all are taken, or where their page was
        closed: what they had asked for, and whose turn comes only now, would leave files that nobody deletes.

        A place that was not used for KEPT_S, by a program for PROGRAM_S, is free where it is wanted.
        """
        now, most = time.monotonic(), self.limits.visitors
        with self._lock:
            if visitor in self._gone:
                raise InputError("This page was closed, or lost its connection; load it again")
            wanted = visitor not in self._seen and len(self._seen) >= most
            pages = set(self._keys.values())
            running = {v for v, token in self._tokens.items() if token not in self._results}
            idle = {v for v, seen in self._seen.items() if now - seen > (KEPT_S if v in pages else PROGRAM_S)} - running
        for other in idle if wanted else ():
            self.close(other)
        with self._lock:
            if visitor not in self._seen and len(self._seen) >= most:
                raise InputError(
                    f"All places of this server are taken ({most} visitors at a time); try again in a few minutes"
                )
            self._seen[visitor] = now

    def require_room(self, size: int = 0, measured_s: float = 0) -> None:
        """Raise InputError where ``size`` more bytes go beyond what all visitors may have on disk, or beyond the disk.

        measured_s: how old the measure may be, in seconds.
        """
        if time.monotonic() - self._measured[0] >= measured_s:
            self._measured = time.monotonic(), _bytes_below(self.root)
        left = self.limits.disk_gib * GIB - self._measured[1] - self._arriving
        if size > min(left, shutil.disk_usage(self.root).free):
            raise InputError(
                f"The server has no room for this: all visitors together have {self.limits.disk_gib:g} GiB; remove"
                " files that you no longer need, or try again in a few minutes"
            )

    def reserve(self, size: int) -> None:
        """Room for an upload of ``size`` bytes, until ``release``. Raises InputError where there is none."""
        self.require_room(size)
        with self._lock:
            self._arriving += size

    def release(self, size: int) -> None:
        with self._lock:
            self._arriving -= size

    def desk(self, visitor: str) -> Desk:
        with self._lock:
            return self._desks.setdefault(visitor, Desk())

    def drawings(self, visitor: str, scan: str) -> Path:
        """The folder for the mask that a visitor draws on a scan."""
        desk = self.desk(visitor)
        if scan not in desk.drawings:
            folder = self.root / secrets.token_hex(32)
            folder.mkdir()
            desk.drawings[scan] = folder
        return desk.drawings[scan]

    def arrive(self, visitor: str, key: str) -> str | None:
        """A page was loaded in the browser's tab with this key. Where it is the same page, loaded again, the visitor
        takes over all that was theirs before; returns the token of their result."""
        for _ in range(int(ARRIVAL_S / 0.1)):
            with self._lock:
                former = self._keys.setdefault(key, visitor)
                if timer := self._leaving.pop(former, None):
                    timer.cancel()
                    self._keys[key] = visitor
                    for kept in (self._tokens, self._shown, self._uploads, self._desks, self._seen):
                        if former in kept:
                            kept[visitor] = kept.pop(former)
                    return self._shown.get(visitor)
            if former == visitor:
                return None
            time.sleep(0.1)  # the old page may be noticed to be gone only after the new one has come
        return None  # a copy of a tab that is still open

    def leave(self, visitor: str) -> None:
        """The visitor's page is gone: what is theirs is deleted, unless they come back within GRACE_S."""
        timer = threading.Timer(GRACE_S, self._forget, [visitor])
        timer.daemon = True
        with self._lock:
            self._leaving[visitor] = timer
        timer.start()

    def _forget(self, visitor: str) -> None:
        with self._lock:
            self._gone[visitor] = None
            if len(self._gone) > GONE:
                del self._gone[next(iter(self._gone))]
        self.close(visitor)

    def watch(self, visitor: str) -> None:
        """The visitor's page is there, perhaps again after it lost its connection."""
        with self._lock:
            self._gone.pop(visitor, None)
            if timer := self._leaving.pop(visitor, None):
                timer.cancel()

    @contextmanager
    def opened(self, visitor: str) -> Iterator[tuple[str, Path]]:
        """A new token with an empty folder, which is deleted on the way out unless a result was kept for the token.

        The visitor's former result stays until then. Raises InputError where the disk has no room.
        """
        self.require_room()
        token = secrets.token_urlsafe(32)
        folder = self.root / token
        folder.mkdir()
        now = time.monotonic()
        with self._lock:
            gone = [t for t, since in self._since.items() if now - since > KEPT_S]
            self._tokens[visitor] = token
            self._since[token] = now
        for old in gone:
            self.expire(old)
        try:
            yield token, folder
        finally:
            if token not in self._results:
                self.expire(token)

    def wanted(self, token: str) -> bool:
        """Whether the token's run still concerns anybody: its visitor has neither left nor begun another one."""
        with self._lock:
            return token in self._tokens.values()

    def busy(self, visitor: str) -> bool:
        """Whether a run of the visitor is under way."""
        with self._lock:
            return visitor in self._tokens and self._tokens[visitor] not in self._results

    def keep(self, token: str, result: Result) -> None:
        """Store what ``result`` returns for the token, unless its visitor has left meanwhile or begun another run; what
        it returned for their former token is deleted."""
        with self._lock:
            visitor = next((v for v, t in self._tokens.items() if t == token), None)
            if visitor is None:
                return
            former, self._shown[visitor] = self._shown.get(visitor), token
            self._results[token] = result
        if former != token:
            self.expire(former)

    def change(self, token: str, result: Result) -> None:
        """Store a result in place of the token's, if that is still kept."""
        with self._lock:
            if token in self._results:
                self._results[token] = result

    def find(self, token: str | None) -> Result | None:
        with self._lock:
            return self._results.get(token)

    def result(self, token: str | None) -> Result:
        """Raises InputError if there is none (any more)."""
        if (found := self.find(token)) is None:
            raise InputError("This result is no longer kept; press Segment again")
        return found

    def note_uploads(self, visitor: str, paths: Iterable[str | Path]) -> None:
        """Remember whose files these are. Only files of the page's own upload folders count."""
        files = {path: _written(path) for path in map(Path, paths) if path.parent.parent == self.root}
        with self._lock:
            self._uploads.setdefault(visitor, {}).update(files)

    def expire(self, token: str | None) -> None:
        """Delete a result."""
        with self._lock:
            self._results.pop(token, None)
            self._since.pop(token, None)
            self._tokens = {v: t for v, t in self._tokens.items() if t != token}
            self._shown = {v: t for v, t in self._shown.items() if t != token}
        if token:
            shutil.rmtree(self.root / token, ignore_errors=True)

    def close(self, visitor: str) -> None:
        """Delete a visitor's result, and their uploads unless another visitor uploaded the same file, perhaps just now
        (who has the same file gets the same address from gradio)."""
        with self._lock:
            tokens = self._tokens.get(visitor), self._shown.get(visitor)
            uploads = self._uploads.pop(visitor, {})
            self._desks.pop(visitor, None)
            self._seen.pop(visitor, None)
            self._leaving.pop(visitor, None)
            self._keys = {key: v for key, v in self._keys.items() if v != visitor}
            others = set().union(*self._uploads.values())
        for token in tokens:
            self.expire(token)
        for path in (path for path, when in uploads.items() if path not in others and _written(path) <= when):
            path.unlink(missing_ok=True)
            with suppress(OSError):  # the same scan under another name, of somebody else, may lie beside it
                path.parent.rmdir()

    def without_folders(self, message: str) -> str:
        """A message with the names of uploaded and unpacked files instead of their places on the server."""
        return re.sub(re.escape(str(self.root)) + r"/[^/\s]+/((queries|references)/)?", "", message)


def _bytes_below(folder: Path) -> int:
    """Of all files, each once: slices of an upload are linked into its series."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                status = Path(place, name).lstat()
                sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def _written(path: Path) -> int:
    """When a file was written, in ns; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
