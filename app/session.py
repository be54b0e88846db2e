"""What the page keeps of its visitors, on the server: uploads, masks, volumes. Each visitor sees only their own."""

import re
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.results import Result
from iris_core.case import InputError

KEPT_S = 4 * 3600  # results and uploads are deleted when the page is closed, at the latest after this


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
        self._since: dict[str, float] = {}  # token → when it was made
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
        now = time.monotonic()
        with self._lock:
            gone = [self._tokens.get(visitor), *(t for t, since in self._since.items() if now - since > KEPT_S)]
            self._tokens[visitor] = token
            self._since[token] = now
        for former in gone:
            self.expire(former)
        try:
            yield token, folder
        finally:
            if token not in self._results:
                self.expire(token)

    def wanted(self, token: str) -> bool:
        """Whether the token's run still concerns anybody: its visitor has neither left nor begun another one."""
        with self._lock:
            return token in self._tokens.values()

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
            self._since.pop(token, None)
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
        """A message with the names of uploaded and unpacked files instead of their places on the server."""
        return re.sub(re.escape(str(self.root)) + r"/[^/\s]+/((queries|shown|references)/)?", "", message)
