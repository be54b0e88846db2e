"""`iris encode | segment | classes`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from app.commands.references import ReferenceOptions
from iris_core.case import InputError


@dataclass(frozen=True)
class Encode(ReferenceOptions):
    """Write what references show as a task file: to keep, to send, to segment with.

    It holds a small picture of the reference, of a small scan its voxels: send it only to who may see the scan.
    """

    output: Path = tyro.MISSING
    """The task file, *.task.safetensors."""

    def run(self) -> int:
        from app.service import Service

        if not self.output.name.endswith(".task.safetensors"):
            raise InputError(f"{self.output}: the name of a task file must end in .task.safetensors")
        if "retrieval" in self.strategy:
            raise InputError(f"{self.strategy} makes another task for every query: there is none to write")
        service = Service(self.weights, self.device)
        embedding = self.plan(service, self.references())(None).embedding
        made_from = [Path(path).name for path in (*self.reference, *self.mask, *self.task)]
        made_from += [self.pool] if self.pool else []
        service.write_task(self.output, embedding, tuple(made_from))
        print(f"{', '.join(embedding.names)}: {self.output}, {self.output.stat().st_size / 2**20:.1f} MiB")
        return 0


@dataclass(frozen=True)
class Segment(ReferenceOptions):
    """Segment queries as the references show. Each result lies on its query's own grid and is named after it."""

    query: tuple[Path, ...] = tyro.MISSING
    """Scans, or folders of scans."""
    output: Path = tyro.MISSING
    """Folder for the masks and run.json."""
    continue_: Annotated[bool, tyro.conf.arg(name="continue")] = False
    """Leave results that exist already."""
    num_parts: int = 1
    """Share the queries among several processes, as in nnU-Net …"""
    part_id: int = 0
    """… of which this is one, from 0."""
    confidence: bool = True
    """Estimate each result's quality: segment the reference with the result as its mask. Costs as much again."""
    format: Literal["query", "nii.gz", "seg.nrrd", "dicom-seg", "rtstruct"] = "query"
    """Of the masks. query: the query's own; of a folder of DICOM files a .nii.gz with a DICOM-SEG beside it. The last
    two are for folders of DICOM files only."""
    probabilities: bool = False
    """Also write how likely each structure is in each voxel (0 to 1): a NIfTI a structure, in OUTPUT/probabilities."""
    threshold: float = 0.5
    """Probability above which a voxel belongs to a structure."""
    keep_largest: bool = False
    """Of a structure's pieces keep the largest only."""
    min_ml: float = 0.0
    """Leave out pieces of a structure below so many mL."""
    statistics: bool = False
    """Also write statistics.csv and .json: volume, intensities, extent, diameter, surface of each structure."""

    def run(self) -> int:
        from app.service import Service
        from nnunet_adapters.folder import Part, expand_queries, segment_queries

        part = Part(self.part_id, self.num_parts)
        service = Service(self.weights, self.device)
        queries = expand_queries(self.query, self.reference_files)
        references = self.references()
        wanted = self._wanted(references)
        plan = self.plan(service, references)
        judges = self.judges(references) if self.confidence else []

        def confidence(query, labels, embedding):
            return service.confidence(judges, query, labels, embedding)

        kept = self.output, self.continue_, self.report(service), part, wanted
        return segment_queries(service.predict, plan, confidence, queries, self.reference_files, *kept)

    def _wanted(self, references: list):
        """Colours are those of the references' masks, else the viewers'."""
        from app.viewers.colours import colour
        from nnunet_adapters.outputs import Wanted

        own = {name: rgb for case in references for name, rgb in case.colours.items()}
        return Wanted(
            self.format,
            self.probabilities,
            self.threshold,
            self.keep_largest,
            self.min_ml,
            self.statistics,
            lambda index, name: own.get(name, colour(index)),
        )


@dataclass(frozen=True)
class Classes:
    """List the classes that the weights know, for --classes."""

    weights: str = "iris-small"
    """Name of released weights, a checkpoint folder, or owner/name[@revision] on the Hugging Face Hub."""

    def run(self) -> int:
        from app.service import Service

        print("class                                     seen in episodes   spacing mm   intensities")
        for name, about in Service(self.weights, "cpu").classes().items():
            print(f"{name:44s} {about['updates']:13d} {about['spacing_mm']:12.2f}   {about['scheme']}")
        return 0
