"""Encoded references that can be searched: for those most like a query, as a whole or in one structure."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from iris_core.case import InputError
from iris_core.embeddings import TaskEmbedding, shared_classes
from iris_core.nearest import Exact
from iris_core.strategies.base import Known


class Library(Sequence[Known]):
    """References in memory. A pool on disk (pool.py) answers the same without reading them.

    A reference goes by its key: its place in the sequence here, another number in a pool.
    """

    def __init__(self, known: Iterable[Known]) -> None:
        self._known = list(known)

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, place: int) -> Known:
        return self._known[place]

    def __iter__(self) -> Iterator[Known]:
        return iter(self._known)

    def get(self, key: int) -> Known:
        return self._known[key]

    def classes(self) -> dict[str, int]:
        """Name → label value of every class, by rising value. Raises InputError where the references disagree."""
        return shared_classes([known.embedding for known in self._known])

    def having(self, name: str) -> list[int]:
        """Keys of the references that show a class."""
        return [i for i, known in enumerate(self._known) if name in known.embedding.names]

    def like(self, name: str, found: TaskEmbedding, number: int) -> list[tuple[int, float]]:
        """(key, cosine around their mean) of the references whose structure is most like the one that was found."""
        keys = self.having(name)
        vectors = np.stack([vector(self._known[i].embedding, name) for i in keys])
        return Exact(np.array(keys), vectors).search(vector(found, name), number)

    def looking_like(self, image: torch.Tensor, number: int) -> list[tuple[int, float]]:
        """(key, cosine around their mean) of the references whose image as a whole is most like one of that
        descriptor. Raises InputError where a reference has none."""
        for known in self._known:
            if known.descriptor is None:
                raise InputError(f"{known.name}: image_retrieval needs the reference's image, a task file has none")
        images = torch.stack([known.descriptor for known in self._known]).numpy()
        return Exact(np.arange(len(images)), images).search(image.numpy(), number)


def vector(embedding: TaskEmbedding, name: str) -> np.ndarray:
    """(D,): one class's T."""
    return embedding.task.tokens[0, embedding.names.index(name)].flatten().float().cpu().numpy()
