"""A folder of predictions → summary.json, computed and written by nnunetv2, so that its users' scripts read it."""

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

from iris_core.case import InputError
from iris_core.files import read_json, write_atomically
from nnunet_adapters.folder import former_results
from nnunet_adapters.grid import check_same_grid
from nnunet_adapters.headers import check_header
from nnunet_adapters.images import ras_affine
from nnunet_adapters.raw import RawDataset


def write_summary(dataset: RawDataset, cases: list[str], predictions: Path, output: Path) -> dict:
    """nnunetv2's metrics of ``cases``, whose predictions lie in a folder, written to ``output`` and returned.

    A prediction is named after its case, or after the image it was made from (case_0000). Where a run.json of `iris
    segment` lies beside it, its values become the dataset's by the names of the classes; else they must be the
    dataset's. Regions and the ignore label are as in dataset.json.

    Raises InputError where a prediction is missing, lies on another grid or holds a value that the dataset lacks.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, save_summary_json
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    description = read_json(dataset.folder / "dataset.json")
    manager, ending = (
        LabelManager(description["labels"], description.get("regions_class_order")),
        description["file_ending"],
    )
    found = _find(dataset, cases, predictions, ending)
    written = former_results(predictions)
    with tempfile.TemporaryDirectory() as temporary:  # nnunetv2 pairs all files of two folders by their names
        references, predicted = Path(temporary, "references"), Path(temporary, "predictions")
        references.mkdir()
        predicted.mkdir()
        for case, path in found.items():
            (references / f"{case}{ending}").symlink_to(dataset.files[case][1].resolve())
            values = _new_values(dataset, path, written.get(path.name, {}).get("classes", {}))
            _place(dataset, case, path, values, predicted / f"{case}{ending}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of a class that no case has
            result = compute_metrics_on_folder(
                str(references),
                str(predicted),
                None,
                dataset.reader,
                ending,
                manager.foreground_regions if manager.has_regions else manager.foreground_labels,
                manager.ignore_label,
                num_processes=min(len(found), os.cpu_count() or 1),
            )
    for entry in result["metric_per_case"]:
        case = Path(entry["prediction_file"]).name[: -len(ending)]
        entry["reference_file"], entry["prediction_file"] = str(dataset.files[case][1]), str(found[case])
    write_atomically(output, lambda path: save_summary_json(result, str(path)))
    return result


def _find(dataset: RawDataset, cases: list[str], predictions: Path, ending: str) -> dict[str, Path]:
    """Case → its prediction. Raises InputError naming those that are missing."""
    there = {p.name: p for p in predictions.iterdir() if p.is_file()} if predictions.is_dir() else {}
    found = {}
    for case in cases:
        named = [n for n in (f"{case}{ending}", *(image.name for image in dataset.files[case][0])) if n in there]
        if named:
            found[case] = there[named[0]]
    missing = [case for case in cases if case not in found]
    if missing or not found:
        raise InputError(
            f"{predictions}: must hold a prediction CASE{ending} of every case of the split; of {len(cases)}"
            f" {len(missing)} are missing: {', '.join(missing[:5])}{' …' * (len(missing) > 5)}; segment them, or choose"
            f" another --split"
        )
    return found


def _new_values(dataset: RawDataset, path: Path, classes: dict[str, str]) -> dict[int, int]:
    """Written value → the dataset's, of classes that a run.json names as the dataset does."""
    value = _values(dataset)
    value |= {f"{dataset.name}/{name}": v for name, v in value.items()}  # as the memory bank calls them
    new = {int(v): value.get(name, int(v)) for v, name in classes.items()}
    if len(set(new.values())) != len(new):
        raise InputError(
            f"{path}: its classes {classes} do not go with those of {dataset.name}, {_values(dataset)}; name them all"
            " as the dataset does"
        )
    return {old: to for old, to in new.items() if old != to}


def _values(dataset: RawDataset) -> dict[str, int]:
    return {c.name: c.value for c in dataset.classes}


def _place(dataset: RawDataset, case: str, path: Path, values: dict[int, int], target: Path) -> None:
    """Put one prediction where nnunetv2 looks for it, with the dataset's values; the file itself where it has them."""
    label = dataset.files[case][1]
    check_header(path)
    check_header(label)
    try:
        (truth, of_truth), (labels, properties) = (dataset.reader.read_seg(str(p)) for p in (label, path))
        affines = ras_affine(of_truth), ras_affine(properties)
    except Exception as error:  # each of nnunetv2's readers raises its own
        raise InputError(f"{path}, {label}: not readable as prediction and labels: {error}") from error
    check_same_grid(path, labels.shape[:0:-1], affines[1], label, truth.shape[:0:-1], affines[0])
    new = labels.copy()
    for old, to in values.items():
        new[labels == old] = to
    known = {0, dataset.ignore, *(v for c in dataset.classes for v in (c.value, *c.members))}
    unknown = [int(v) for v in np.unique(new) if v not in known]
    if unknown:
        raise InputError(
            f"{path}: must hold the label values of {dataset.name}, {_values(dataset)}, found {unknown[:5]} too;"
            " was it made with references of another dataset?"
        )
    if values:
        dataset.reader.write_seg(new[0], str(target), properties)
    else:
        target.symlink_to(path.resolve())
