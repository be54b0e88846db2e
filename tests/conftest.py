"""Real files and the real model at a tiny size; no mocks."""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.path.append(str(Path(__file__).parents[1]))  # last: folders of tests/unit would hide an editable installation

import browser_page
import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from iris_core import checkpoint
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris

SAMPLES = Path(__file__).parents[1] / "app" / "samples"
FLAGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    " --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader --use-gl=angle"
)


@pytest.fixture(scope="session")
def tiny() -> Iris:
    torch.manual_seed(0)
    return Iris(PRESETS["tiny"]).eval()


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory, tiny) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint.save(folder, tiny, MemoryBank(), {})
    return folder


@pytest.fixture(scope="session")
def eager_weights(tmp_path_factory) -> Path:
    """Untrained, but eager: whatever the classes, all are marked."""
    torch.manual_seed(0)
    model = Iris(PRESETS["tiny"])
    with torch.no_grad():
        model.mask_decoder.bias.fill_(0.5)
    folder = tmp_path_factory.mktemp("eager")
    checkpoint.save(folder, model, MemoryBank(), {})
    return folder


@pytest.fixture(scope="session")
def sample() -> Path:
    """Folder of the hippocampus sample: reference, reference_mask, query, query_mask (.nii.gz)."""
    return SAMPLES / "hippocampus"


def ball(shape=(24, 20, 22), centre=(11, 9, 10), radius=6.0, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    """A smooth structure: a ball, in mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return np.linalg.norm((index - np.array(centre)) * np.array(spacing), axis=-1) <= radius


def smooth_noise(shape, cells: int, seed: int) -> torch.Tensor:
    """(1, 1, *shape); times a few and rounded it is an image of a few tissues."""
    noise = torch.randn(1, 1, *[max(2, n // cells) for n in shape], generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=shape, mode="trilinear")


def write_nifti(path: Path, array: np.ndarray, affine=None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def scan(tmp_path):
    """A bright ball in noise, with its mask: (image path, mask path)."""
    rng = np.random.default_rng(0)
    mask = ball()
    image = (mask * 100 + rng.normal(0, 10, mask.shape)).astype(np.float32)
    return write_nifti(tmp_path / "scan.nii.gz", image), write_nifti(tmp_path / "mask.nii.gz", mask.astype(np.uint8))


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory) -> Path:
    """Two small nnU-Net raw datasets: 901 with plain classes and two patients' repeats, 902 with regions and ignore."""
    import json

    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    labels = {
        "Dataset901_Balls": {"background": 0, "ball": 1, "core": 4},
        "Dataset902_Regions": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    }
    for name, names in labels.items():
        for sub in ("imagesTr", "labelsTr"):
            (folder / name / sub).mkdir(parents=True)
        inner = 4 if "901" in name else 2
        for i in range(6):
            centre = rng.integers(8, 14, 3)
            seg = ball(centre=centre, radius=6).astype(np.uint8)
            seg[ball(centre=centre, radius=3)] = inner
            image = (seg > 0) * 60 + (seg == inner) * 60 + rng.normal(0, 8, seg.shape)
            if inner == 2:
                seg[:2] = 3
            affine = np.diag([-1.0, 1, 1, 1])
            write_nifti(folder / name / "imagesTr" / f"case{i}_0000.nii.gz", image.astype(np.float32), affine)
            write_nifti(folder / name / "labelsTr" / f"case{i}.nii.gz", seg, affine)
        description = {"channel_names": {"0": "MRI"}, "labels": names, "numTraining": 6, "file_ending": ".nii.gz"}
        if inner == 2:
            description["regions_class_order"] = [1, 2]
        (folder / name / "dataset.json").write_text(json.dumps(description))
        patients = {f"case{i}": f"patient{i // 2}" for i in range(6)}
        (folder / name / "patients.json").write_text(json.dumps(patients))
    return folder


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict:
    chromium = shutil.which("chromium")
    if not chromium:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no chromium on the PATH")
    return {"executable_path": chromium, "args": FLAGS.split()}


@pytest.fixture(scope="session")
def browser_context_args() -> dict:
    return {"viewport": {"width": 1280, "height": 900}}


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    command = ["-m", "app.cli", "app", "--port", "PORT", "--no-open-browser"]
    yield from browser_page.serve(command, tmp_path_factory.mktemp("server"))


@dataclass(frozen=True)
class Served:
    """An `iris serve` with the released weights."""

    address: str
    token: str
    temporary: Path

    def left(self) -> list[str]:
        """All that lies in the server's folder of uploads and results, a moment after the last of them was sent."""
        (root,) = self.temporary.glob("iris-*-page-*")
        deadline = time.monotonic() + 5
        while any(root.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    temporary = tmp_path_factory.mktemp("served")
    command = ["-m", "app.cli", "serve", "--port", "PORT", "--token", "s3cret"]
    for address in browser_page.serve(command, temporary):
        yield Served(address, "s3cret", temporary)
