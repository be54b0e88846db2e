"""The tutorials: every notebook runs from top to bottom, as for whoever opens it; what it keeps of a run is small."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
MOST_BYTES = 300_000


def run(name: str, folder: Path, raw_data: Path, **parameters: object) -> str:
    """What a notebook prints, run in an empty folder, with other values in its cell of parameters."""
    book = json.loads((TUTORIALS / name).read_text("utf-8"))
    if parameters:
        (cell,) = (cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", ()))
        cell["source"] = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    (folder / name).write_text(json.dumps(book), "utf-8")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # for `!iris`
    done = subprocess.run(
        [sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace", "--timeout=600", name],
        cwd=folder,
        env=os.environ | {"nnUNet_raw": str(raw_data), "PATH": path},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads((folder / name).read_text("utf-8"))["cells"]
    return "".join("".join(o.get("text", ())) for cell in cells for o in cell.get("outputs", ()))


def test_one_mask_twenty_hippocampi(sample, tmp_path):
    """On the sample's two patients, the second of them as three."""
    data = tmp_path / "raw" / "Dataset004_Hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    for ours, cases in (("reference", ("162",)), ("query", ("249", "250", "251"))):
        for case in cases:
            shutil.copy(sample / f"{ours}.nii.gz", data / "imagesTr" / f"hippocampus_{case}_0000.nii.gz")
            shutil.copy(sample / f"{ours}_mask.nii.gz", data / "labelsTr" / f"hippocampus_{case}.nii.gz")
    said = run("one-mask.ipynb", tmp_path, data.parent)
    assert "3 patients: hippocampus_249 hippocampus_250 hippocampus_251" in said
    anterior, posterior = re.search(r"mean Dice: Anterior ([\d.]+) Posterior ([\d.]+)", said).groups()
    assert float(anterior) > 0.7 and float(posterior) > 0.7
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 3


def test_train_on_my_dataset(raw_data, tmp_path):
    said = run("train.ipynb", tmp_path, raw_data, DATASET="Dataset901_Balls", ITERATIONS=4)
    assert "6 scans with masks" in said and "structures: background, ball, core" in said
    assert (tmp_path / "runs/tutorial/average/model.safetensors").is_file()
    assert "the last 1: " in said and "one_shot" in said and (tmp_path / "report.json").is_file()


@pytest.mark.parametrize("notebook", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.name)
def test_what_is_kept_of_a_run_is_whole_and_small(notebook):
    assert notebook.stat().st_size < MOST_BYTES
    code = [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # once each, in this order
    kept = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in kept} <= {"stream", "display_data", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in kept)
