"""Nothing of the extra `scale` is imported before it is asked for; where it is missing, a message says its name."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXTRA = "ray", "pyarrow", "s3fs", "faiss", "lance", "moto"
WITHOUT = f"""
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {EXTRA}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from app.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")


def test_a_folder_is_segmented_without_the_extra(tiny_weights, scan, tmp_path):
    shown = "--weights", tiny_weights, "--reference", scan[0], "--mask", scan[1]
    done = run("segment", *shown, "--query", scan[0], "--output", tmp_path / "masks")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "lacks"),
    [
        (["--manifest", "MANIFEST"], "needs pyarrow, which is not installed: pip install '.[scale]'"),
        (["--query", "s3://bucket/a.nii.gz"], "which is not installed: pip install '.[scale]'"),
        (["--query", "SCAN", "--engine", "ray"], "which is not installed: pip install '.[scale]'"),
    ],
)
def test_what_needs_the_extra_says_so(tiny_weights, scan, tmp_path, more, lacks):
    (tmp_path / "scans.csv").write_text(f"query\n{scan[0]}\n")
    more = [word.replace("MANIFEST", str(tmp_path / "scans.csv")).replace("SCAN", str(scan[0])) for word in more]
    shown = "--weights", tiny_weights, "--reference", scan[0], "--mask", scan[1]
    done = run("segment", *shown, *more, "--output", tmp_path / "masks")
    assert done.returncode == 2 and lacks in done.stderr, done.stderr
