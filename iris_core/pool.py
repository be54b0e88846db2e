"""A pool of references on disk: every case encoded once, brought up to date when cases come, change or go.

A folder of a task file a case and pool.sqlite: what each was made from, the descriptor of its image, and the vector of
each class. A case adds rows to it, whatever its size; opening it reads none of them, a search those of one class, and
task files are read for what was chosen.
"""

import hashlib
import math
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from iris_core.case import Case, InputError
from iris_core.checkpoint import Checkpoint
from iris_core.embeddings import TaskEmbedding
from iris_core.files import held, unwritten
from iris_core.nearest import EXACT, Approximate, Exact
from iris_core.strategies.base import EncodedReference
from iris_core.strategies.image_retrieval import descriptor
from iris_core.strategies.references import encode_at, shared_scale
from iris_core.strategies.search import Library, vector
from iris_core.task_file import load_task, save_task

INDEX = "pool.sqlite"
TABLES = """
BEGIN;
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cases (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL,
    source TEXT NOT NULL, bytes INTEGER, descriptor BLOB);
CREATE TABLE IF NOT EXISTS classes (id INTEGER NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL,
    vector BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS class_of_case ON classes (name, id);
CREATE INDEX IF NOT EXISTS case_of_class ON classes (id);
COMMIT;
"""  # ids rise and are not used again: what came after an index was made is known by them
UNWRITABLE = sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY
BLOCK = 10_000  # vectors read at once
IMAGE = ""  # in place of a class's name: the image as a whole


def open_pool(
    folder: Path,
    checkpoint: Checkpoint,
    dataset: str,
    sources: dict[str, str],
    read: Callable[[str], Case],
    grid: str,
    scheme: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> "Pool":
    """The cases of a dataset as references; those that show nothing are left out.

    folder: made where it is missing, begun anew where it is of other weights, another grid or scheme, and kept up to
    date after every case, so that an interrupted run goes on.
    sources: case → what it is made from; another value means that the case has changed. The working spacing is
    chosen when the pool is first encoded, and stays. progress: called with cases done, all.
    Raises InputError where the folder is another dataset's pool, or cannot be made, or where no case shows a class.
    """
    model, pool = checkpoint.model, Pool(folder, checkpoint)
    with held(folder, math.inf), pool.changing() as rows:  # a second process waits, and finds the cases encoded
        wanted = {"dataset": dataset, "weights_sha256": checkpoint.sha256, "grid": grid, "scheme": scheme}
        about = dict(rows.execute("SELECT key, value FROM about"))
        if about.get("dataset", dataset) != dataset:
            raise InputError(
                f"{folder / INDEX}: is the pool of {about['dataset']}, asked was {dataset}; choose another folder"
            )
        if not wanted.items() <= about.items() or "spacing_mm" not in about:
            spacing_mm, _ = shared_scale(model, _showing(sources, read, dataset), grid, scheme)
            rows.executescript("DELETE FROM about; DELETE FROM cases; DELETE FROM classes;")
            for former in folder.glob("*.faiss"):
                former.unlink()
            rows.executemany("INSERT INTO about VALUES (?, ?)", (wanted | {"spacing_mm": repr(spacing_mm)}).items())
            rows.commit()
        else:
            spacing_mm = pool.spacing_mm(about["spacing_mm"])
        for (name,) in rows.execute("SELECT name FROM cases").fetchall():
            if name not in sources:
                pool.remove(rows, name)
        for done, (name, source) in enumerate(sources.items()):
            progress(done, len(sources))
            if pool.current(rows, name, source):
                continue
            case = read(name)
            embedding = encode_at(model, case, spacing_mm, scheme, grid == "auto") if case.present() else None
            pool.remove(rows, name)
            if embedding is None:
                rows.execute("INSERT INTO cases (name, source) VALUES (?, ?)", (name, source))
            else:
                save_task(pool.file(name), embedding, checkpoint.sha256, (name,))
                pool.add(rows, name, source, embedding, descriptor(model, case, scheme))
            rows.commit()
    if not len(pool):
        raise InputError(f"{dataset}: a pool needs cases that show a class, none of {len(sources)} does")
    return pool


def _showing(names: Collection[str], read: Callable[[str], Case], dataset: str) -> Iterator[Case]:
    """The cases that show a class, one after the other."""
    empty = True
    for case in map(read, names):
        if case.present():
            empty = False
            yield case
    if empty:
        raise InputError(f"{dataset}: a pool needs cases that show a class, none of {len(names)} does")


class Pool(Library):
    """References on disk, by rising name. A key is the id of a case in pool.sqlite."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self._nearest = lru_cache(8)(self._index)
        self._loaded = lru_cache(16)(self._load)

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """The tables, to write to. Raises InputError where the file is none, or its content not what was written;
        WriteError where it cannot be written to."""
        try:
            with closing(sqlite3.connect(self.folder / INDEX)) as rows:
                rows.execute("PRAGMA journal_mode = WAL")
                rows.execute("PRAGMA synchronous = NORMAL")  # power may take the last cases: they are encoded again
                rows.executescript(TABLES)
                yield rows
                rows.commit()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # what is wrong is quoted as it is, also if it is no text
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in UNWRITABLE:
                raise unwritten(self.folder / INDEX, error) from error
            raise self.unusable(error) from error

    def unusable(self, why: object) -> InputError:
        return InputError(f"{self.folder / INDEX}: not usable as the index of a pool: {why}; delete it")

    def _rows(self, query: str, *values) -> list[tuple]:
        with self.changing() as rows:
            return rows.execute(query, values).fetchall()

    def spacing_mm(self, stored: str) -> float:
        """The working spacing of its cases. Raises InputError where it is none."""
        try:
            if 0 < (spacing_mm := float(stored)) < math.inf:
                return spacing_mm
        except (TypeError, ValueError):
            pass
        raise self.unusable(f"a working spacing of {stored!r:.99} mm")

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.task.safetensors"

    def current(self, rows: sqlite3.Connection, name: str, source: str) -> bool:
        """Whether a case is here as it is now: one that shows nothing, or with its task file."""
        found = rows.execute("SELECT source, bytes FROM cases WHERE name = ?", (name,)).fetchone()
        if not found or found[0] != source:
            return False
        return found[1] is None or (self.file(name).is_file() and self.file(name).stat().st_size == found[1])

    def add(
        self, rows: sqlite3.Connection, name: str, source: str, embedding: TaskEmbedding, image: torch.Tensor
    ) -> None:
        """A case whose task file is there. image: (C,), its descriptor."""
        size = self.file(name).stat().st_size
        case = name, source, size, image.numpy().astype(np.float32).tobytes()
        key = rows.execute("INSERT INTO cases (name, source, bytes, descriptor) VALUES (?, ?, ?, ?)", case).lastrowid
        classes = [
            (
                key,
                c,
                value,
                vector(embedding, c).astype(np.float16).tobytes(),
            )  # T is rounded to it, see context_ensemble
            for c, value in zip(embedding.names, embedding.values, strict=True)
        ]
        rows.executemany("INSERT INTO classes VALUES (?, ?, ?, ?)", classes)

    def remove(self, rows: sqlite3.Connection, name: str) -> None:
        for (key,) in rows.execute("SELECT id FROM cases WHERE name = ?", (name,)).fetchall():
            rows.execute("DELETE FROM classes WHERE id = ?", (key,))
            rows.execute("DELETE FROM cases WHERE id = ?", (key,))
        self.file(name).unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._rows("SELECT COUNT(*) FROM cases WHERE bytes IS NOT NULL")[0][0]

    def __getitem__(self, place: int) -> EncodedReference:
        found = self._rows("SELECT id FROM cases WHERE bytes IS NOT NULL ORDER BY name LIMIT 1 OFFSET ?", place)
        if not found:
            raise IndexError(place)
        return self.get(found[0][0])

    def __iter__(self) -> Iterator[EncodedReference]:
        for (key,) in self._rows("SELECT id FROM cases WHERE bytes IS NOT NULL ORDER BY name"):
            yield self.get(key)

    def get(self, key: int) -> EncodedReference:
        return self._loaded(key)

    def _load(self, key: int) -> EncodedReference:
        ((name, image),) = self._rows("SELECT name, descriptor FROM cases WHERE id = ?", key)
        embedding = load_task(self.file(name), self.checkpoint.model, self.checkpoint.sha256)
        image = self._vectors([image], np.float32, self.checkpoint.model.config.widths[-1])[0]
        return EncodedReference(name, embedding, torch.from_numpy(image))

    def classes(self) -> dict[str, int]:
        """Name → label value of every class, by rising value. The cases are of one dataset: they agree."""
        return dict(self._rows("SELECT name, MAX(value) FROM classes GROUP BY name ORDER BY MAX(value)"))

    def having(self, name: str) -> list[int]:
        return [key for (key,) in self._rows("SELECT id FROM classes WHERE name = ? ORDER BY id", name)]

    def like(self, name: str, found: TaskEmbedding, number: int) -> list[tuple[int, float]]:
        return self._search(name, vector(found, name), number)

    def looking_like(self, image: torch.Tensor, number: int) -> list[tuple[int, float]]:
        return self._search(IMAGE, image.numpy(), number)

    def _search(self, name: str, query: np.ndarray, number: int) -> list[tuple[int, float]]:
        """Those that an index knows and that have been taken out of the pool since are passed over."""
        found = self._nearest(name).search(query, 2 * number)
        keys = ", ".join(str(key) for key, _ in found)
        left = {key for (key,) in self._rows(f"SELECT id FROM cases WHERE id IN ({keys})")}
        return [near for near in found if near[0] in left][:number]

    def _index(self, name: str) -> Exact | Approximate:
        table, which = ("cases", "bytes IS NOT NULL") if name == IMAGE else ("classes", "name = ?")
        column, kind = ("descriptor", np.float32) if name == IMAGE else ("vector", np.float16)
        values = () if name == IMAGE else (name,)
        ((number,),) = self._rows(f"SELECT COUNT(*) FROM {table} WHERE {which}", *values)
        model = self.checkpoint.model
        tokens = (model.config.query_tokens + 1) * model.config.widths[model.task_level]
        width = model.config.widths[-1] if name == IMAGE else tokens

        def blocks(after: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            query = f"SELECT id, {column} FROM {table} WHERE {which} AND id > ? ORDER BY id LIMIT {BLOCK}"
            while found := self._rows(query, *values, after):
                keys, vectors = zip(*found, strict=True)
                yield np.array(keys), self._vectors(vectors, kind, width)
                after = keys[-1]

        if number > EXACT:
            file = hashlib.sha256(name.encode()).hexdigest()[:16] if name else "images"
            return Approximate(self.folder / f"{file}.faiss", number, blocks)
        keys, vectors = np.empty(number, np.int64), np.empty((number, width), np.float32)
        at = 0
        for some, block in blocks(-1):
            keys[at : at + len(some)], vectors[at : at + len(some)] = some, block
            at += len(some)
        return Exact(keys, vectors)

    def _vectors(self, found: Collection[bytes], kind: type, width: int) -> np.ndarray:
        """(n, width) float32. Raises InputError where they are not such numbers."""
        wrong = next((v for v in found if not isinstance(v, bytes) or len(v) != width * kind().itemsize), None)
        if wrong is None:
            vectors = np.frombuffer(b"".join(found), kind).reshape(-1, width).astype(np.float32)
            if np.isfinite(vectors).all():
                return vectors
        raise self.unusable("damaged vectors")
