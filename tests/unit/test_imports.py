"""The rooms of the design: who may import whom (app → nnunet_adapters → iris_core, and no arrow back)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "iris_core": {
        "iris_core",
        "torch",
        "numpy",
        "einops",
        "safetensors",
        "filelock",
        "batchgenerators",
        "pytorch_optimizer",
        "tqdm",
        "monai",  # the surface distance
        "faiss",  # of the extra `scale`: search among more than 100 000 structures
    },
    "weights": {"weights", "iris_core", "huggingface_hub"},
    "nnunet_adapters": {
        "nnunet_adapters",
        "iris_core",
        "nnunetv2",
        "nibabel",
        "SimpleITK",
        "highdicom",
        "pydicom",
        "skimage",  # contours, connected pieces, surfaces
        "scipy",  # diameters
        "numpy",
        "tqdm",
    },
    "clients/python/iris_client": {"iris_client", "httpx", "nibabel", "numpy"},
    "clients/napari/napari_iris": {"napari_iris", "iris_client", "napari", "magicgui", "numpy"},
    "clients/slicer/iris_slicer": {"iris_client", "numpy"},
}
# Inside the core, a room may import itself and the rooms before it.
LAYERS = [
    "case",
    "files",
    "geometry",
    "registration",
    "intensity",
    "model",
    "embeddings",
    "checkpoint",
    "nearest",
    "reference_file",
    "task_file",
    "prediction",
    "region",
    "inference",
    "forecast",
    "strategies",  # after inference: retrieval's first pass segments the query
    "pool",
    "evaluation",
    "data",
    "training",
]
STANDARD_LIBRARY = __import__("sys").stdlib_module_names


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import absolutely"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_the_design_allows(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        tops = {name.split(".")[0] for name in imports(path)} - STANDARD_LIBRARY
        assert tops <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {tops - MAY_IMPORT[room]}"


def test_the_core_imports_in_one_direction():
    for path in sorted((ROOT / "iris_core").rglob("*.py")):
        room = path.relative_to(ROOT / "iris_core").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "iris_core" and parts[1] != room:
                assert LAYERS.index(parts[1]) < LAYERS.index(room), f"{path.relative_to(ROOT)} imports {name}"
