"""Structures numbered as TotalSegmentator numbers them are called by their names."""

import json
import shutil

import pytest

from iris_core.case import InputError
from nnunet_adapters.raw import open_dataset
from nnunet_adapters.totalsegmentator import CT, MR, structure


def test_every_structure_has_one_number():
    assert [len(CT), len(MR)] == [len(set(CT)), len(set(MR))] == [117, 50]


@pytest.mark.parametrize(
    ("number", "in_ct", "in_mr"),
    [
        (1, "spleen", "spleen"),
        (5, "liver", "liver"),
        (25, "sacrum", "portal_vein_and_splenic_vein"),
        (50, "vertebrae_C1", "brain"),
        (79, "spinal_cord", "totalseg_079"),
        (117, "costal_cartilages", "totalseg_117"),
        (118, "totalseg_118", "totalseg_118"),
    ],
)
def test_numbers_are_those_of_the_modality(number, in_ct, in_mr):
    name = f"totalseg_{number:03d}"
    assert (structure(name, ct=True), structure(name, ct=False)) == (in_ct, in_mr)


def test_a_dataset_that_numbers_its_structures_shows_their_names(raw_data, tmp_path):
    folder = shutil.copytree(raw_data / "Dataset901_Balls", tmp_path / "Dataset901_Balls")
    path = folder / "dataset.json"
    description = json.loads(path.read_text("utf-8"))
    description["labels"] = {"background": 0, "totalseg_019": 1, "core": 4}
    for modality, name in (("CT", "duodenum"), ("MRI", "vertebrae")):
        path.write_text(json.dumps(description | {"channel_names": {"0": modality}}), "utf-8")
        assert [c.name for c in open_dataset("901", tmp_path).classes] == [name, "core"]
    description["labels"] = {"background": 0, "totalseg_005": 1, "liver": 4}
    path.write_text(json.dumps(description), "utf-8")
    with pytest.raises(InputError, match=r"dataset\.json: two labels are one structure"):
        open_dataset("901", tmp_path)
