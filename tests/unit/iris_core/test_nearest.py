"""Nearest vectors: exact search is the definition; the index finds nearly the same, and takes what came since."""

import numpy as np
import pytest

from iris_core.nearest import Approximate, Exact


def clustered(number: int, width: int = 48) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, width))
    return (centres[rng.integers(50, size=number)] + 0.5 * rng.normal(size=(number, width)) + 3).astype(np.float32)


def blocks_of(vectors: np.ndarray):
    def blocks(after: int):
        for first in range(0, len(vectors), 1000):
            keys = np.arange(first, min(first + 1000, len(vectors)))
            if (keep := keys > after).any():
                yield keys[keep], vectors[keys[keep]]

    return blocks


def test_exact_search_is_the_cosine_around_the_mean():
    vectors = clustered(200)
    centred = vectors - vectors.mean(0)
    cosine = (centred @ centred[7]) / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred[7])
    found = Exact(np.arange(200) + 5, vectors).search(vectors[7], 3)
    assert [key - 5 for key, _ in found] == np.argsort(-cosine)[:3].tolist()
    assert found[0] == (12, pytest.approx(1, abs=1e-6))
    assert Exact(np.array([3]), vectors[:1]).search(vectors[0], 5) == [(3, pytest.approx(1, abs=1e-6))]


def test_the_index_finds_what_exact_search_does_and_takes_more(tmp_path):
    vectors, path = clustered(6000), tmp_path / "ball.faiss"
    first = Approximate(path, 5000, blocks_of(vectors[:5000]))
    exact = Exact(np.arange(5000), vectors[:5000])
    same = [len({k for k, _ in first.search(q, 10)} & {k for k, _ in exact.search(q, 10)}) for q in vectors[:200]]
    assert np.mean(same) / 10 > 0.9
    made = path.stat().st_mtime_ns
    assert Approximate(path, 5000, blocks_of(vectors[:5000])).search(vectors[3], 1)[0][0] == 3
    assert path.stat().st_mtime_ns == made
    more = Approximate(path, 6000, blocks_of(vectors))
    assert more.index.ntotal == 6000 and more.search(vectors[5999], 1)[0][0] == 5999
    path.with_suffix(".newest").unlink()  # as when it was killed between the two
    assert Approximate(path, 6000, blocks_of(vectors)).index.ntotal == 6000
