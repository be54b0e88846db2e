"""`iris info`."""

import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from iris_core import __version__

PACKAGES = ("torch", "numpy", "nnunetv2", "nibabel", "SimpleITK", "highdicom", "monai", "gradio", "huggingface-hub")
OPTIONAL = {
    "mcp": "iris app --mcp",
    "spaces": "a Hugging Face Space with a GPU that is lent",
    "antspyx": "benchmarks/registration.py",
    "picsl-greedy": "benchmarks/registration.py",
    "convexadam": "benchmarks/registration.py",
}


@dataclass(frozen=True)
class Info:
    """Say what is installed: versions, devices, weights with their hashes, formats, optional packages."""

    json: bool = False
    """As JSON instead of a table."""

    def run(self) -> int:
        found = facts()
        if self.json:
            print(json.dumps(found, indent=1, ensure_ascii=False))
            return 0
        for title, section in found.items():
            print(title)
            for name, value in section.items():
                said = ", ".join(value) if isinstance(value, list) else value or f"not installed; for {OPTIONAL[name]}"
                print(f"  {name:16} {said}")
        return 0


def facts() -> dict[str, dict]:
    """Section → name → what is so: a text, a list of texts, or None for a package that is not installed."""
    from nnunet_adapters.headers import ENDINGS
    from nnunet_adapters.masks import READERS, WRITERS
    from weights import FOLDER
    from weights.hub import sha256

    return {
        "versions": {"iris": __version__, "python": platform.python_version(), "system": platform.platform()}
        | {name: version(name) for name in PACKAGES},
        "devices": _devices(),
        "weights_sha256": {p.parent.name: sha256(p) for p in sorted(FOLDER.glob("*/model.safetensors"))},
        "formats": {
            "scans_read": [*ENDINGS, "folder of DICOM files"],
            "masks_read": list(READERS),
            "masks_written": list(WRITERS),
        },
        "optional": {name: _optional(name) for name in OPTIONAL},
    }


def _optional(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    """What --device takes here → its name; "auto" → the one that it is."""
    import torch

    from app.service import pick_device

    found = {"auto": str(pick_device("auto")), "cpu": f"{platform.machine()}, {os.cpu_count()} cores"}
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{card.name}, {card.total_memory / 2**30:.1f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple's GPU"
    return found
