"""`iris atlas`."""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from iris_core import __version__
from iris_core.case import InputError
from nnunet_adapters.cells import plain


@dataclass(frozen=True)
class AtlasOfTasks:
    """Embed every class of every case and draw them: which structures does the model find alike, across datasets?

    An interactive page, a PNG, a CSV with the nearest classes of other datasets, and a JSON with all of it.
    """

    datasets: tuple[str, ...] = ()
    """Ids or names of raw datasets. None: the classes that the weights know, from their memory bank."""
    output: Path = Path("atlas.html")
    """The page; .png, .csv and .json go beside it."""
    cases: int | None = None
    """Cases a dataset at most, drawn at random."""
    seed: int = 0
    weights: str = "iris-small"
    device: str = "auto"
    raw_data: Path | None = None
    channel: int = 0

    def run(self) -> int:
        from app.service import Service
        from app.viewers.atlas import figure, known_atlas, picture
        from iris_core.files import write_atomically, write_json

        if self.output.suffix != ".html" or (self.cases is not None and self.cases < 1):
            raise InputError(f"--output must end in .html and --cases be 1 or more, got {self.output}, {self.cases}")
        service = Service(self.weights, self.device)
        atlas = self._embed(service) if self.datasets else known_atlas(service.checkpoint.bank)
        if not atlas.entries:
            raise InputError(f"{self.weights}: the weights know no classes; name --datasets to embed")
        beside = self.output.with_suffix
        write_atomically(self.output, lambda path: figure(atlas).write_html(path))
        write_atomically(beside(".png"), lambda path: picture(atlas, path))
        write_atomically(beside(".csv"), lambda path: _write_csv(atlas, path))
        about = {
            "command": ["iris", *sys.argv[1:]],
            "version": __version__,
            "weights": self.weights,
            "weights_sha256": service.checkpoint.sha256,
        }
        write_json(beside(".json"), about | atlas.to_dict())
        for key, nearest in atlas.neighbours.items():
            print(f"{key:48.48} ", ", ".join(f"{other} {cosine:+.2f}" for other, cosine in nearest) or "-")
        if atlas.own[1]:
            print(
                f"the nearest of all is of the same class for {atlas.own[0]} of {atlas.own[1]} that another case shows"
            )
        print(f"{len(atlas.entries)} embeddings of {len(atlas.neighbours)} classes: {self.output}")
        return 0

    def _embed(self, service):
        import numpy as np
        from tqdm import tqdm

        from app.viewers.atlas import Entry, make_atlas, task_vectors
        from nnunet_adapters.raw import open_dataset

        work = []
        for dataset in [open_dataset(d, self.raw_data, self.channel) for d in dict.fromkeys(self.datasets)]:
            names = np.random.default_rng(self.seed).permutation(sorted(dataset.files))[: self.cases]
            work += [(dataset, str(name)) for name in sorted(names)]
        vectors, entries = [], []
        for dataset, name in tqdm(work, "atlas", unit="case"):
            case = dataset.case(name)
            if case.present():
                embedding = service.encode(case, scheme=dataset.scheme)
                vectors.append(task_vectors(embedding))
                entries += [Entry(dataset.name, c, name) for c in embedding.names]
        if not entries:
            raise InputError(f"{', '.join(self.datasets)}: no case that was drawn shows a class; try more --cases")
        return make_atlas(np.concatenate(vectors), entries)


def _write_csv(atlas, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["dataset", "class", "rank", "nearest dataset", "nearest class", "cosine"])
        for key, nearest in atlas.neighbours.items():
            for rank, (other, cosine) in enumerate(nearest, 1):
                table.writerow(plain([*key.split("/", 1), rank, *other.split("/", 1), cosine]))
