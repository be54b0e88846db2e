"""Real files and the real model at a tiny size; no mocks."""

import os
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import nibabel
import numpy as np
import pytest
import torch

from iris_core import checkpoint
from iris_core.embeddings import MemoryBank
from iris_core.model.iris import PRESETS, Iris

SAMPLES = Path(__file__).parents[1] / "app" / "samples"


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
def sample() -> Path:
    """Folder of the hippocampus sample: reference, reference_mask, query, query_mask (.nii.gz)."""
    return SAMPLES / "hippocampus"


def ball(shape=(24, 20, 22), centre=(11, 9, 10), radius=6.0, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    """A smooth structure: a ball, in mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return np.linalg.norm((index - np.array(centre)) * np.array(spacing), axis=-1) <= radius


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
