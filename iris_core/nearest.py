"""Nearest vectors by their cosine around the mean of all: exactly, and where they are many by an index of faiss."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from iris_core.case import InputError
from iris_core.files import write_atomically

EXACT = 100_000  # vectors that are searched exactly; 704 numbers each take 280 MB and 20 ms. Ours
SAMPLE = 40  # vectors a cell that the index is trained on; faiss warns below 39
PROBE = 64  # cells that are looked into. Ours: see docs/scale.md for recall against seconds
STALE = (
    2  # the index is made anew when there are so many times the vectors that it holds, or it holds so many times them
)

Blocks = Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Key → blocks of (keys (n,) int64, vectors (n, d) float32) of those beyond it, by rising key."""


class Exact:
    """keys: (n,) of vectors (n, d). One vector alone has no mean to stand out from."""

    def __init__(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self.keys = keys
        self.centre = vectors.mean(0) if len(vectors) > 1 else np.zeros_like(vectors[0])
        self.vectors = vectors - self.centre
        self.vectors /= _length(self.vectors)

    def search(self, query: np.ndarray, number: int) -> list[tuple[int, float]]:
        """(key, cosine) of the nearest, best first."""
        query = query - self.centre
        cosine = self.vectors @ (query / _length(query))
        best = np.argsort(-cosine, kind="stable")[:number]
        return [(int(self.keys[i]), float(cosine[i])) for i in best]


class Approximate:
    """An inverted file of vectors in one byte a number, kept in ``path``; vectors that came since are added to it."""

    def __init__(self, path: Path, number: int, blocks: Blocks) -> None:
        try:
            import faiss
        except ImportError as error:
            raise InputError(
                f"{path.parent}: {number} structures are searched with faiss, which is not installed:"
                " pip install '.[scale]'"
            ) from error
        self.index = None
        if path.is_file():
            self.index = faiss.read_index(str(path))
            if not 1 / STALE <= number / max(1, self.index.ntotal) <= STALE:
                self.index = None
        newest = path.with_suffix(".newest")
        last = int(newest.read_text()) if self.index is not None and newest.is_file() else -1
        if last < 0:
            self.index, last = _trained(faiss, number, blocks), -1
        before = last
        for keys, vectors in blocks(last):
            self.index.add_with_ids(vectors, keys)
            last = int(keys[-1])
        if last > before:
            newest.unlink(missing_ok=True)  # an index without it is made anew
            write_atomically(path, lambda temporary: faiss.write_index(self.index, str(temporary)))
            write_atomically(newest, lambda temporary: temporary.write_text(str(last)))
        faiss.extract_index_ivf(self.index).nprobe = PROBE

    def search(self, query: np.ndarray, number: int) -> list[tuple[int, float]]:
        """(key, cosine) of the nearest, best first; of vectors that are gone, too."""
        cosine, keys = self.index.search(np.ascontiguousarray(query[None], np.float32), number)
        return [(int(k), float(c)) for k, c in zip(keys[0], cosine[0], strict=True) if k >= 0]


def _trained(faiss, number: int, blocks: Blocks):
    """An empty index for so many vectors: centred, of length 1, in √n cells."""
    cells = int(np.sqrt(number))
    step, sample = max(1, number // (SAMPLE * cells)), []
    for keys, vectors in blocks(-1):
        sample.append(vectors[keys % step == 0])
    sample = np.concatenate(sample)[: 2 * SAMPLE * cells]
    d = sample.shape[1]
    ivf = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(d), d, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    ivf.own_fields = False
    index = faiss.IndexPreTransform(faiss.NormalizationTransform(d), ivf)
    index.prepend_transform(faiss.CenteringTransform(d))
    index.train(sample)
    return index


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None].clip(1e-12)
