"""The sample scans that come with the package: what they show, and where their files are."""

import json
from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"


@dataclass(frozen=True)
class Sample:
    """names: label value → structure, of both masks. query_mask: the true one."""

    title: str
    structures: str
    reference: Path
    mask: Path
    query: Path
    query_mask: Path
    names: dict[int, str]


def samples() -> dict[str, Sample]:
    found = {}
    for key, about in json.loads((SAMPLES / "samples.json").read_text("utf-8")).items():
        files = (SAMPLES / about[part] for part in ("reference", "mask", "query", "query_mask"))
        names = {int(value): name for value, name in about["names"].items()}
        found[key] = Sample(about["title"], about["structures"], *files, names)
    return found
