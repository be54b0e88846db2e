"""Folders of label maps: numbered alike, or by the names in names.json; bodies, partners, filling."""

import json

import numpy as np
import pytest
from conftest import ball, write_nifti

from iris_core.case import InputError
from iris_core.data.cache import FILLING, read_case
from iris_core.data.episodes import EpisodeDataset
from iris_core.data.synthesis import PARTS
from iris_core.model.iris import PRESETS
from nnunet_adapters.label_maps import open_label_maps
from nnunet_adapters.raw import build_cache

NAMES = {
    "woman_heart": {"1": "VH_F_aorta", "2": "VH_F_valve", "3": "other tissue inside the skin"},
    "man_heart": {"5": "VH_M_valve", "6": "SBU_M_aorta", "7": "VH_M_ventricle", "8": "other tissue inside the skin"},
    "man_knee": {"1": "VH_M_femur", "2": "rest inside the closed outline"},
    "mouse_heart": {"1": "aorta", "2": "valve"},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "anatomy"
    folder.mkdir()
    entries = {}
    for name, labels in NAMES.items():
        spacing = 0.05 if "mouse" in name else 1.0
        values = [int(v) for v in labels]
        array = np.full((24, 20, 22), values[-1], np.uint8)
        array[:2] = 0
        for value, radius in zip(values[:-1], (7.0, 5.0, 3.0), strict=False):
            array[ball(radius=radius)] = value
        write_nifti(folder / f"{name}.nii.gz", array, np.diag([spacing, spacing, spacing, 1.0]))
        entries[f"{name}.nii.gz"] = {"labels": labels, "source": name.split("_")[0], "spacing_mm": [spacing] * 3}
    (folder / "names.json").write_text(json.dumps(entries))
    return folder


def test_one_name_has_one_value_and_filling_its_own(folder):
    maps = open_label_maps(folder)
    woman, man, knee = (maps.numbered(case).labels for case in ("woman_heart", "man_heart", "man_knee"))
    for own, other in ((1, 6), (2, 5)):
        (value,) = np.unique(woman[maps.case("woman_heart").labels == own])
        assert np.unique(man[maps.case("man_heart").labels == other]) == [value]
        assert value not in knee
    assert all((labels == FILLING).any() for labels in (woman, man, knee))
    assert FILLING > 2 * PARTS - 1


def test_partners_are_other_bodies_that_show_the_same_at_one_scale(folder):
    maps = open_label_maps(folder)
    assert maps.partners == {
        "man_heart": ["woman_heart"],
        "woman_heart": ["man_heart"],
        "man_knee": [],
        "mouse_heart": [],
    }
    assert maps.patients["man_heart"] == maps.patients["man_knee"] != maps.patients["woman_heart"]


def test_episodes_pair_partners_and_ask_only_for_what_both_name(folder, tmp_path):
    index = build_cache([open_label_maps(folder)], tmp_path / "splits", tmp_path / "cache")
    (name,) = index
    index[name]["train"] = sorted(NAMES)
    episodes = EpisodeDataset(tmp_path / "cache", index, PRESETS["tiny"], seed=0, synthetic=1.0)
    rng, two = np.random.default_rng(0), 0
    for _ in range(100):
        kind, drawn, cases = episodes._draw(rng)
        if kind != "painted":
            continue
        assert cases[0] == cases[1] or set(cases) == {"man_heart", "woman_heart"}
        first, second = episodes._anatomies(rng, kind, drawn, cases)
        asked = [{v for v in np.unique(a.labels) if 1 < v < PARTS} for a in (first, second)]
        if first is not second:
            two += 1
            assert asked[0] == asked[1] and len(asked[0]) == 2
        elif cases[0] == "man_heart":
            assert len(asked[0]) == 3
    assert two > 5
    assert episodes[0].reference_masks.any()


def test_the_cache_follows_names(folder, tmp_path):
    entry = tmp_path / "cache" / "label_maps_anatomy" / "man_knee.npz"
    build_cache([open_label_maps(folder)], tmp_path / "splits", tmp_path / "cache")
    assert set(np.unique(read_case(entry).labels)) == {0, 2, FILLING}
    names = json.loads((folder / "names.json").read_text())
    names["woman_heart.nii.gz"]["labels"]["1"] = "VH_F_zygoma"
    names["man_heart.nii.gz"]["labels"]["6"] = "VH_M_zygoma"
    names["mouse_heart.nii.gz"]["labels"]["1"] = "zygoma"
    (folder / "names.json").write_text(json.dumps(names))
    build_cache([open_label_maps(folder)], tmp_path / "splits", tmp_path / "cache")
    assert set(np.unique(read_case(entry).labels)) == {0, 1, FILLING}


def test_without_names_values_mean_the_same_everywhere(folder, tmp_path):
    (folder / "names.json").unlink()
    maps = open_label_maps(folder)
    assert (maps.numbered("man_heart").labels == maps.case("man_heart").labels).all()
    assert "partners" not in maps.index([], [])
    assert len(set(maps.patients.values())) == len(NAMES)


def test_names_that_do_not_fit_the_files_are_refused(folder):
    names = json.loads((folder / "names.json").read_text())
    del names["man_heart.nii.gz"]["labels"]["7"]
    (folder / "names.json").write_text(json.dumps(names))
    with pytest.raises(InputError, match=r"man_heart\.nii\.gz.*\[7\] have no name"):
        open_label_maps(folder).numbered("man_heart")
    del names["man_heart.nii.gz"]
    (folder / "names.json").write_text(json.dumps(names))
    with pytest.raises(InputError, match=r"names\.json.*man_heart"):
        open_label_maps(folder)
    (folder / "names.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"names\.json.*too deep"):
        open_label_maps(folder)
    names = json.loads(json.dumps(names | {"man_heart.nii.gz": names["man_knee.nii.gz"]}))
    names["man_heart.nii.gz"]["spacing_mm"] = [10**400] * 3
    (folder / "names.json").write_text(json.dumps(names))
    with pytest.raises(InputError, match=r"names\.json: must give"):
        open_label_maps(folder)
