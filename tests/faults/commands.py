"""Every command that writes, on small data: how to run it, and how to run it again after it was cut off."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # this tree, whichever is installed

import dicom_files
import numpy as np
import torch
from conftest import ball, write_nifti

from iris_core import checkpoint
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris

CASES = 6
DATASET = "Dataset901_Balls"


@dataclass(frozen=True)
class Command:
    """begin: what follows `iris`, for a world and an output. again: what a repetition adds. name: of the output.

    new: whether the output must be new or empty, so that a repetition refuses what is whole.
    """

    begin: Callable[[Path, Path], list]
    again: list = field(default_factory=list)
    name: str = "out"
    new: bool = False

    def arguments(self, world: Path, folder: Path, again: bool = False) -> list[str]:
        return [str(part) for part in [*self.begin(world, folder / self.name), *(self.again if again else [])]]


def _shown(world: Path) -> list:
    images, labels = world / DATASET / "imagesTr", world / DATASET / "labelsTr"
    return [
        "--weights",
        world / "weights",
        "--reference",
        images / "case0_0000.nii.gz",
        "--mask",
        labels / "case0.nii.gz",
    ]


def _data(world: Path) -> list:
    return ["--raw-data", world, "--weights", world / "weights"]


def _encode(world: Path, out: Path) -> list:
    return ["encode", *_shown(world), "--output", out]


def _segment(world: Path, out: Path) -> list:
    more = ["--probabilities", "--statistics", "--output", out]
    return ["segment", *_shown(world), "--query", world / DATASET / "imagesTr", *more]


def _dicom(world: Path, out: Path) -> list:
    return ["segment", *_shown(world), "--query", *sorted((world / "dicom").iterdir()), "--output", out]


def _label(world: Path, out: Path) -> list:
    confidence = ["--min-confidence", 0, "--names", "1=ball", "4=core"]
    return ["label", *_shown(world), *confidence, "--query", world / DATASET / "imagesTr", "--output", out]


def _pool(world: Path, out: Path) -> list:
    query = ["--query", world / DATASET / "imagesTr" / "case5_0000.nii.gz", "--no-confidence"]
    pool = ["--pool", 901, "--index", out / "pool", "--strategy", "retrieval", "--output", out / "masks"]
    return ["segment", *_data(world), *query, *pool]


def _evaluate(world: Path, out: Path) -> list:
    draws = ["--dataset", 901, "--split", "all", "--draws", 1, "--queries", 2]
    return ["evaluate", *_data(world), *draws, "--output", out / "report.json"]


def _atlas(world: Path, out: Path) -> list:
    return ["atlas", "--datasets", 901, "--cases", 2, *_data(world), "--output", out / "atlas.html"]


def _train(world: Path, out: Path) -> list:
    lengths = ["--iterations", 6, "--save-every", 2, "--validate-every", 3, "--workers", 0]
    data = ["--datasets", 901, "--raw-data", world, "--splits", out / "splits"]
    return ["train", *data, "--preset", "tiny", *lengths, "--output", out, "--device", "cpu"]


def _space(world: Path, out: Path) -> list:
    return ["space", "--weights", world / "weights", "--output", out]


COMMANDS = {
    "encode": Command(_encode, name="out.task.safetensors"),
    "segment": Command(_segment, ["--continue"]),
    "segment dicom": Command(_dicom, ["--continue"]),
    "label": Command(_label, ["--continue"], name="Dataset902_Found"),
    "pool": Command(_pool, ["--continue"]),
    "evaluate": Command(_evaluate),
    "atlas": Command(_atlas),
    "train": Command(_train, ["--resume"]),
    "space": Command(_space, new=True),
}


def make(world: Path) -> None:
    """Weights that mark something, an nnU-Net raw dataset of small balls, and some of them as DICOM."""
    torch.manual_seed(0)
    model = Iris(PRESETS["tiny"])
    with torch.no_grad():
        model.mask_decoder.bias.fill_(0.5)
    checkpoint.save(world / "weights", model, MemoryBank(), {})
    rng, folder = np.random.default_rng(0), world / DATASET
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for i in range(CASES):
        centre = rng.integers(8, 14, 3)
        labels = ball(centre=centre).astype(np.uint8)
        labels[ball(centre=centre, radius=3)] = 4
        image = (labels > 0) * 60 + (labels == 4) * 60 + rng.normal(0, 8, labels.shape)
        write_nifti(folder / "imagesTr" / f"case{i}_0000.nii.gz", image.astype(np.float32))
        write_nifti(folder / "labelsTr" / f"case{i}.nii.gz", labels)
        if i < 2:
            dicom_files.write_series(world / "dicom" / f"scan{i}", volume=image.astype(np.int16), spacing_mm=(1, 1, 1))
    labels = {"background": 0, "ball": 1, "core": 4}
    about = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": CASES, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))
