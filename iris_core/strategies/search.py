"""Encoded references that can be searched: for those most like a query, as a whole or in one structure."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from iris_core.embeddings import TaskEmbedding, shared_classes
from iris_core.nearest import Exact
from iris_core.strategies.base import EncodedReference


class Library(Sequence[EncodedReference]):
    """References in memory. A pool on disk (pool.py) answers the same without reading them.

    A reference goes by its key: its place in the sequence here, another number in a pool.
    """

    def __init__(self, references: Iterable[EncodedReference]) -> None:
        self._references = list(references)

    def __len__(self) -> int:
        return len(self._references)

    def __getitem__(self, place: int) -> EncodedReference:  # type: ignore[override]  # no slices
        return self._references[place]

    def __iter__(self) -> Iterator[EncodedReference]:
        return iter(self._references)

    def get(self, key: int) -> EncodedReference:
        return self._references[key]

    def classes(self) -> dict[str, int]:
        """Name → label value of every class, by rising value. Raises InputError where the references disagree."""
        return shared_classes([reference.embedding for reference in self._references])

    def having(self, name: str) -> list[int]:
        """Keys of the references that show a class."""
        return [i for i, reference in enumerate(self._references) if name in reference.embedding.names]

    def like(self, name: str, found: TaskEmbedding, number: int) -> list[tuple[int, float]]:
        """(key, cosine around their mean) of the references whose structure is most like the one that was found."""
        keys = self.having(name)
        vectors = np.stack([vector(self._references[i].embedding, name) for i in keys])
        return Exact(np.array(keys), vectors).search(vector(found, name), number)

    def looking_like(self, image: torch.Tensor, number: int) -> list[tuple[int, float]]:
        """(key, cosine around their mean) of the references whose image as a whole is most like one of that
        descriptor. Every reference must have one."""
        images = torch.stack([r.descriptor for r in self._references if r.descriptor is not None]).numpy()
        return Exact(np.arange(len(images)), images).search(image.numpy(), number)


def vector(embedding: TaskEmbedding, name: str) -> np.ndarray:
    """(D,): one class's T."""
    return embedding.task.tokens[0, embedding.names.index(name)].flatten().float().cpu().numpy()
