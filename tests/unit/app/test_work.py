"""The page's runs: masks are those of `iris segment`; everything the viewers and the downloads need is there."""

import csv
import gzip
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from pydicom import dcmread

from app.results import Result, index_of
from app.service import Service
from app.ui.actions import split_names
from app.ui.tables import outcome, scans_table, structures_table
from app.work import Inputs, Stopped, encode, run, with_values_of
from iris_core.case import Case, InputError, plain_classes
from nnunet_adapters.folder import segment_queries
from nnunet_adapters.images import read_reference

NAMES = {1: "Anterior", 2: "Posterior"}


@pytest.fixture(scope="module")
def service(eager_weights) -> Service:
    return Service(str(eager_weights), "cpu")


def ask(sample, queries, **more) -> Inputs:
    shown = (sample / "reference.nii.gz",), (sample / "reference_mask.nii.gz",)
    return Inputs(*shown, queries=tuple(queries), names=NAMES, **more)


def quiet(what: str, share: float) -> None:
    pass


@pytest.fixture(scope="module")
def ran(service, sample, tmp_path_factory) -> tuple[Result, list]:
    """A result for a query with a name of its own and a true mask, and what its progress said."""
    folder, steps = tmp_path_factory.mktemp("ran"), []
    query = shutil.copy(sample / "query.nii.gz", folder / "a patient.nii.gz")
    inputs = ask(sample, [query], truths=(sample / "query_mask.nii.gz",))
    return run(service, folder, inputs, lambda *step: steps.append(step)), steps


def test_masks_are_those_of_the_command_line(ran, service, sample, tmp_path):
    result, steps = ran
    query = result.folder / "a patient.nii.gz"
    reference = read_reference(sample / "reference.nii.gz", sample / "reference_mask.nii.gz", NAMES)
    plan = service.plan("one_shot", [reference])
    assert segment_queries(service.predict, plan, lambda *_: {}, [query], (), tmp_path, False, {}) == 0
    ours, theirs = (nibabel.load(path) for path in (*result.masks, tmp_path / "a patient.nii.gz"))
    assert result.masks[0].name == "a patient.nii.gz"
    assert len(np.unique(ours.dataobj)) > 1
    assert np.array_equal(ours.dataobj, theirs.dataobj) and ours.header == theirs.header
    shares = [share for _, share in steps]
    said = list(dict.fromkeys(what for what, _ in steps))
    assert shares == sorted(shares) and shares[0] == 0 and "a patient.nii.gz, window" in said[-2]


def test_cancel_ends_the_confidence_too_and_keeps_the_mask(ran, service, sample, tmp_path):
    estimating = []

    def progress(what: str, share: float) -> None:
        estimating.extend([what] * ("confidence" in what))
        if len(estimating) == 3:
            raise Stopped

    query = shutil.copy(sample / "query.nii.gz", tmp_path / "a patient.nii.gz")
    result = run(service, tmp_path, ask(sample, [query, sample / "reference.nii.gz"]), progress)
    assert result.stopped and len(estimating) == 3
    (found,) = result.queries
    assert found.confidence == {} and np.array_equal(found.labels, ran[0].queries[0].labels)


def test_viewers_get_both_scans_with_compact_labels(ran, sample):
    reference, query = ran[0].scans
    given = nibabel.load(sample / "reference_mask.nii.gz")
    assert np.array_equal(reference.labels, given.dataobj)  # RAS+ in the file, classes 1 and 2
    assert reference.image.dtype == np.int16 and reference.labels.dtype == np.uint8
    assert np.array_equal(reference.image, nibabel.load(sample / "reference.nii.gz").dataobj)
    assert reference.title == "reference: reference.nii.gz" and query.title == "query: a patient.nii.gz"
    assert query.image.shape == query.labels.shape == nibabel.load(sample / "query.nii.gz").shape
    voxel_ml = np.prod(given.header.get_zooms()) / 1000
    assert reference.volumes_ml["Anterior"] == pytest.approx((np.asarray(given.dataobj) == 1).sum() * voxel_ml)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({1: "liver", 2: "spleen"}, [0, 1, 2]),
        ({1: "spleen", 2: "liver"}, [0, 2, 1]),
        ({1: "kidney", 2: "liver"}, [0, 0, 1]),  # its 1 is not the result's
        ({1: "kidney", 2: "Liver"}, [0, 1, 2]),  # other words, perhaps of the same
        ({}, [0, 1, 2]),
    ],
)
def test_a_true_mask_is_measured_by_names_where_it_names_structures_alike(named, expected):
    labels = np.arange(3).reshape(3, 1, 1)
    truth = Case(np.zeros((3, 1, 1), np.float32), np.eye(4), labels, plain_classes(labels, named), name="truth")
    assert with_values_of(truth, {"liver": 1, "spleen": 2}).ravel().tolist() == expected


def test_a_true_mask_gives_scores_and_errors(ran, sample):
    reference, query = ran[0].scans
    truth = np.asarray(nibabel.load(sample / "query_mask.nii.gz").dataobj)
    mask = np.asarray(query.labels)
    assert np.array_equal(query.errors == 1, (mask == truth) & (truth > 0))
    assert np.array_equal(query.errors == 3, (mask == 0) & (truth > 0))
    both = 2 * ((mask == 1) & (truth == 1)).sum() / ((mask == 1).sum() + (truth == 1).sum())
    assert query.scores["Anterior"].dice == pytest.approx(both) and query.scores["Anterior"].distance_mm > 0
    assert reference.errors is None and not reference.scores
    assert set(query.confidence) == set(NAMES.values())
    assert "in which 1 is Anterior, 2 is Posterior: Dice" in structures_table(ran[0], query)


def test_what_there_is_to_take_away(ran, service, sample, tmp_path):
    result = ran[0]
    names = [path.name for path in result.extras]
    assert names == ["everything.zip", "statistics.csv", "statistics.json", "iris.task.safetensors"]
    assert set(zipfile.ZipFile(result.extras[0]).namelist()) == {"a patient.nii.gz", *names[1:]}
    rows = json.loads(result.extras[2].read_text())
    assert [(row["scan"], row["name"]) for row in rows] == [("a patient.nii.gz", name) for name in NAMES.values()]
    assert rows[0]["volume_ml"] == pytest.approx(result.scans[1].volumes_ml["Anterior"])
    assert rows[0]["dice"] == result.scans[1].scores["Anterior"].dice
    with result.extras[1].open(newline="") as file:
        assert float(next(csv.DictReader(file))["dice"]) == rows[0]["dice"]
    inputs = Inputs(tasks=(result.extras[3],), queries=(sample / "query.nii.gz",))
    again = run(service, tmp_path, inputs, quiet)
    assert np.array_equal(nibabel.load(again.masks[0]).dataobj, nibabel.load(result.masks[0]).dataobj)
    assert again.names == ("Anterior", "Posterior") and not again.scans[0].confidence
    assert encode(service, ask(sample, ()), tmp_path).stat().st_size == result.extras[3].stat().st_size
    with pytest.raises(InputError, match="there is none to write"):
        encode(service, ask(sample, (), strategy="retrieval"), tmp_path)


def test_dicom_in_gives_dicom_out_too(service, sample, tmp_path):
    series = write_series(tmp_path / "dicom")
    archive = tmp_path / "ct 7.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in series.iterdir():
            packed.write(file, file.name)
    result = run(service, tmp_path, ask(sample, [archive], confidence=False), quiet)
    assert [path.name for path in result.masks] == ["ct 7.nii.gz"] and result.queries[0].uploads == (archive,)
    seg = next(path for path in result.extras if path.name == "ct 7.seg.dcm")
    assert dcmread(seg).Modality == "SEG"


def unpacked(path: Path) -> bytes:
    """All bytes of a file, those inside its compression."""
    data = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            return b"".join(map(packed.read, packed.namelist()))
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "mha", "zip"])
def test_nothing_that_is_taken_away_names_a_folder_of_the_server(service, sample, tmp_path, ending):
    query = tmp_path / f"a patient.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(query, "w") as packed:
            for file in write_series(tmp_path / "dicom").iterdir():
                packed.write(file, file.name)
    else:
        scan = sitk.ReadImage(str(sample / "query.nii.gz"))
        plain = sitk.GetImageFromArray(sitk.GetArrayFromImage(scan))
        sitk.WriteImage(plain, str(query))
    result = run(service, tmp_path, ask(sample, [query], confidence=False), quiet)
    assert result.masks and len(result.extras) >= 4
    for path in (*result.masks, *result.extras):
        for folder in (tmp_path, sample):
            assert str(folder).encode() not in unpacked(path), path


def test_classes_are_counted_in_order_whatever_their_values(service, sample, tmp_path):
    given = nibabel.load(sample / "reference_mask.nii.gz")
    odd = np.choose(np.asarray(given.dataobj), [0, 300, -4]).astype(np.int16)
    leftwards = given.affine @ np.diag([-1, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(odd[::-1], leftwards), tmp_path / "odd.nii.gz")
    scan = np.asarray(nibabel.load(sample / "reference.nii.gz").dataobj)
    nibabel.save(nibabel.Nifti1Image(scan[::-1], leftwards), tmp_path / "scan.nii.gz")
    inputs = Inputs((tmp_path / "scan.nii.gz",), (tmp_path / "odd.nii.gz",), queries=(sample / "query.nii.gz",))
    result = run(service, tmp_path, inputs, quiet)
    assert result.names == ("class -4", "class 300")
    assert np.array_equal(result.scans[0].labels, np.select([odd == -4, odd == 300], [1, 2]))


def test_values_that_are_no_class_become_background():
    assert index_of(np.array([[0, 5, 2, 7, 9, -1]]), (7, 2)).tolist() == [[0, 0, 2, 1, 0, 0]]


def test_retrieval_says_which_reference_served_which_class(service, sample, tmp_path):
    scans = sample / "reference.nii.gz", sample / "query.nii.gz"
    masks = sample / "reference_mask.nii.gz", sample / "query_mask.nii.gz"
    query = shutil.copy(sample / "query.nii.gz", tmp_path / "new.nii.gz")
    result = run(service, tmp_path, Inputs(scans, masks, queries=(query,), names=NAMES, strategy="retrieval"), quiet)
    assert set(result.scans[2].notes) == set(NAMES.values())
    table = structures_table(result, result.scans[2])
    assert "was shown by" in table and str(sample) not in table


def test_a_bad_query_and_a_bad_true_mask_do_not_stop_the_others(service, sample, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    truth = shutil.copy(sample / "reference_mask.nii.gz", tmp_path / "query_mask.nii.gz")  # of another grid
    result = run(service, tmp_path, ask(sample, [bad, sample / "query.nii.gz"], truths=(truth,)), quiet)
    assert [mask.name for mask in result.masks] == ["query.nii.gz"] and not result.scans[1].scores
    assert [name in str(e) for e, name in zip(result.failures, ("bad.nii.gz", "query_mask"), strict=True)] == [True] * 2


def test_a_cancelled_run_keeps_what_is_done(service, sample, tmp_path):
    second = shutil.copy(sample / "query.nii.gz", tmp_path / "second.nii.gz")

    def stop(what: str, share: float) -> None:
        if "second" in what:
            raise Stopped

    result = run(service, tmp_path, ask(sample, [sample / "query.nii.gz", second]), stop)
    assert result.stopped and [mask.name for mask in result.masks] == ["query.nii.gz"]
    assert "Cancelled. 1 of 2" in outcome(result, [], 1.0)


def test_files_that_are_gone_and_names_that_clash_are_refused(service, sample, tmp_path):
    with pytest.raises(InputError, match=r"^gone\.nii\.gz: is no longer kept"):
        run(service, tmp_path, ask(sample, [tmp_path / "gone.nii.gz"]), quiet)
    copy = tmp_path / "copy" / "query.nii.gz"
    copy.parent.mkdir()
    shutil.copy(sample / "query.nii.gz", copy)
    with pytest.raises(InputError, match="would overwrite"):
        run(service, tmp_path, ask(sample, [sample / "query.nii.gz", copy]), quiet)
    with pytest.raises(InputError, match="show references"):
        run(service, tmp_path, Inputs(queries=(sample / "query.nii.gz",)), quiet)


def test_class_names_as_people_type_them():
    assert split_names("") == {}
    assert split_names(" 1=left kidney, 2=spleen\n10=C3 vertebra ") == {
        1: "left kidney",
        2: "spleen",
        10: "C3 vertebra",
    }
    with pytest.raises(InputError, match="value=name"):
        split_names("liver")


def test_tables_escape_names_and_warn_of_low_confidence(ran):
    name = "<img src=x>"
    known = {"volumes_ml": {name: 1.0}, "confidence": {name: 0.2}, "scores": {}}
    scan = replace(ran[0].scans[1], source=Path("<b>scan"), **known)
    result = Result(ran[0].folder, {name: 1}, (scan,), query_count=1)
    for text in (structures_table(result, scan), outcome(result, [], 1.0)):
        assert "<img" not in text and "<b>scan" not in text and "&lt;img" in text
    assert "painted over" in structures_table(result, replace(scan, overlapping=True))
    marked = replace(scan, mask=Path("mask.nii.gz"))
    assert scans_table(replace(result, scans=(marked,))) == [[marked.title, name, 1.0, 0.2, "low confidence"]]
    assert "Low confidence" in outcome(result, [], 1.0) and "class=low" in structures_table(result, scan)


def test_what_goes_wrong_in_one_query_leaves_the_others(service, sample, tmp_path, monkeypatch):
    """A GPU without memory raises RuntimeError, a full disk OSError."""
    queries = [shutil.copy(sample / "query.nii.gz", tmp_path / f"{i}.nii.gz") for i in range(4)]
    errors = iter((RuntimeError("out of memory"), OSError("no space left"), MemoryError(), None))

    def segment(*arguments):
        if error := next(errors):
            raise error
        return Service.segment(service, *arguments)

    monkeypatch.setattr(service, "segment", segment)
    result = run(service, tmp_path, ask(sample, queries, confidence=False), quiet)
    assert [mask.name for mask in result.masks] == ["3.nii.gz"]
    said = ("0.nii.gz: out of memory", "1.nii.gz: no space left", "2.nii.gz: not enough memory; crop the scan")
    assert tuple(map(str, result.failures)) == said
