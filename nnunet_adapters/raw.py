"""nnU-Net raw datasets → cases, through nnunetv2's own dataset.json handling, listing and readers."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from iris_core.case import Case, InputError, LabelClass
from iris_core.files import read_json, write_json
from nnunet_adapters.grid import check_same_grid
from nnunet_adapters.headers import check_header
from nnunet_adapters.images import ras_affine
from nnunet_adapters.label_maps import LabelMaps, open_label_maps
from nnunet_adapters.masks.mask import check_names
from nnunet_adapters.totalsegmentator import structure

os.environ.setdefault("nnUNet_n_proc_DA", "2")  # else importing nnunetv2's configuration runs `hostname`

FOLDS, FOLD = 5, 0  # nnU-Net's; fold 0 is ours


@dataclass(frozen=True)
class RawDataset:
    """One DatasetXXX_Name folder. files: case → (its channels' files, its label file)."""

    name: str
    folder: Path
    files: dict[str, tuple[list[Path], Path]]
    patients: dict[str, str]
    classes: tuple[LabelClass, ...]
    ignore: int | None
    channel: int
    scheme: str
    reader: object

    def case(self, name: str) -> Case:
        """Read one labelled case. Raises InputError naming the file that cannot be used."""
        images, label = self.files[name]
        for path in (images[self.channel], label):
            check_header(path)
        try:
            image, properties = self.reader.read_images((str(images[self.channel]),))
            labels, label_properties = self.reader.read_seg(str(label))
            affine, label_affine = ras_affine(properties), ras_affine(label_properties)
        except Exception as error:  # each of nnunetv2's readers raises its own
            raise InputError(f"{images[self.channel]}, {label}: not readable as a labelled case: {error}") from error
        image, labels = image[0].transpose(2, 1, 0), labels[0].transpose(2, 1, 0)
        check_same_grid(label, labels.shape, label_affine, images[self.channel], image.shape, affine)
        return Case(image, affine, labels.astype(np.int32), self.classes, self.ignore, name)

    def source(self, name: str) -> str:
        """What a case in a training cache is made from; another value means that it is stale."""
        images, label = self.files[name]
        stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in (images[self.channel], label)]
        return json.dumps([self.channel, self.scheme, stamps])

    def index(self, train: list[str], val: list[str]) -> dict:
        """This dataset's entry in a training cache."""
        return {
            "classes": [asdict(c) for c in self.classes],
            "ignore": self.ignore,
            "images": True,
            "scheme": self.scheme,
            "cases": self.patients,
            "train": train,
            "val": val,
        }


def raw_folder(raw_data: Path | None) -> Path:
    """Where the raw datasets are: the argument, else the environment's nnUNet_raw."""
    folder = raw_data or os.environ.get("nnUNet_raw")
    if not folder:
        raise InputError("no raw datasets: set nnUNet_raw or pass --raw-data FOLDER")
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: the folder of raw datasets must exist; check nnUNet_raw or --raw-data")
    return Path(folder)


def match_dataset(identifier: str, names: list[str], where: Path) -> str:
    """The one name with an id (4, "004") or name ("Dataset004_Hippocampus"). where: for the error."""
    start = f"Dataset{int(identifier):03d}_" if identifier.isdigit() else None
    matches = [n for n in names if (n.startswith(start) if start else n == identifier)]
    if len(matches) != 1:
        raise InputError(f"{where}: dataset {identifier!r} must name one folder, found {matches or 'none'} in {names}")
    return matches[0]


def find_dataset(identifier: str, raw_data: Path | None = None) -> Path:
    """Dataset folder by id or name."""
    folder = raw_folder(raw_data)
    return folder / match_dataset(identifier, sorted(p.name for p in folder.glob("Dataset*_*") if p.is_dir()), folder)


def prepare_training(
    identifiers: tuple[str, ...],
    label_maps: tuple[Path, ...],
    raw_data: Path | None,
    channel: int,
    splits: Path,
    cache: Path,
    progress=iter,
) -> dict[str, dict]:
    """The index of what to train on: from raw data into the cache, or from a cache that came without them.

    label_maps: folders of label maps without images; of a cache that came without them, their names.
    """
    from iris_core.data.cache import read_index

    if raw_data or os.environ.get("nnUNet_raw") or not (cache / "cache.json").is_file():
        datasets = [open_dataset(identifier, raw_data, channel) for identifier in identifiers]
        maps = [open_label_maps(folder) for folder in label_maps]
        return build_cache([*datasets, *maps], splits, cache, progress)
    index = read_index(cache)
    wanted = [*identifiers, *(f"label_maps_{folder.name}" for folder in label_maps)]
    return {name: index[name] for name in (match_dataset(i, sorted(index), cache) for i in wanted)}


def open_dataset(identifier: str, raw_data: Path | None = None, channel: int = 0) -> RawDataset:
    """Open a raw dataset. Raises InputError where its dataset.json or files are not nnU-Net's form."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    folder = find_dataset(identifier, raw_data)
    try:
        description = _description(folder / "dataset.json")
        channels = description["channel_names"]
        manager = LabelManager(description["labels"], description.get("regions_class_order"))
        listed = get_filenames_of_train_images_and_targets(str(folder), description)
        reader = determine_reader_writer_from_dataset_json(description, verbose=False)()
        classes = _classes(description["labels"], manager)
    except InputError:
        raise
    except (  # nnunetv2 takes the form of dataset.json for granted
        ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise InputError(f"{folder / 'dataset.json'}: not usable as an nnU-Net dataset: {error!r}") from error
    if not 0 <= channel < len(channels):
        raise InputError(f"{folder}: --channel must be one of {dict(enumerate(channels.values()))}, got {channel}")
    files = {k: ([Path(i) for i in v["images"]], Path(v["label"])) for k, v in listed.items()}
    if not files:
        raise InputError(
            f"{folder}: imagesTr must hold scans that end in _0000{description['file_ending']}, found none"
        )
    for case, (images, label) in files.items():
        if len(images) <= channel or not label.is_file():
            raise InputError(f"{folder}: case {case} must have channel {channel} and {label.name}, found {images}")
    patients = {case: case for case in files}
    if (folder / "patients.json").is_file():
        patients |= _patients(folder / "patients.json", files)
    ct = get_normalization_scheme(list(channels.values())[channel]) is CTNormalization
    classes = tuple(replace(c, name=structure(c.name, ct)) for c in classes)
    if len(names := {c.name for c in classes}) < len(classes):
        raise InputError(f"{folder / 'dataset.json'}: two labels are one structure, found {sorted(names)}; rename one")
    return RawDataset(
        name=folder.name,
        folder=folder,
        files=files,
        patients=patients,
        classes=classes,
        ignore=manager.ignore_label,
        channel=channel,
        scheme="ct" if ct else "percentile",
        reader=reader,
    )


def _description(path: Path) -> dict:
    """dataset.json. Raises InputError, or an error of Python's, where what we read of it is not of nnU-Net's form."""
    description = read_json(path)
    labels, channels, ending = (description[key] for key in ("labels", "channel_names", "file_ending"))
    values = [v for value in labels.values() for v in (value if isinstance(value, list) else [value])]
    if not all(type(v) is int and abs(v) < 2**31 for v in values) or [] in labels.values():
        raise ValueError(f"labels must be whole numbers or lists of them, got {labels}")
    if not channels or not all(isinstance(text, str) for text in (ending, *channels.values())):
        raise ValueError(f"channel_names and file_ending must be text, got {channels}, {ending}")
    check_names(path, dict(enumerate(labels)))
    return description


def _patients(path: Path, cases) -> dict[str, str]:
    """Case → patient, of patients.json."""
    try:
        return {case: str(patient) for case, patient in read_json(path).items() if case in cases}
    except (AttributeError, ValueError) as error:
        raise InputError(f"{path}: must be JSON, case → patient: {error}") from error


def _fold(path: Path) -> tuple[list[str], list[str]]:
    """The training and validation cases of our fold."""
    try:
        parts = tuple(read_json(path)[FOLD][part] for part in ("train", "val"))
        if not all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts):
            raise TypeError(f"lists of names, got {parts}")
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: must be JSON, a list of folds with the cases of train and val: {error!r}") from error
    return parts


def _classes(labels: dict, manager) -> tuple[LabelClass, ...]:
    """Classes in dataset.json's order; regions are written with nnU-Net's regions_class_order."""
    named = {n: v for n, v in labels.items() if n not in ("background", "ignore") and v != 0}
    members = {n: tuple(int(i) for i in (v if isinstance(v, (list, tuple)) else [v])) for n, v in named.items()}
    values = manager.regions_class_order if manager.has_regions else [m[0] for m in members.values()]
    return tuple(LabelClass(n, int(v), m) for (n, m), v in zip(members.items(), values, strict=True))


def split(dataset: RawDataset | LabelMaps, folder: Path) -> tuple[list[str], list[str]]:
    """Training and validation cases by patient: fold 0 of ``folder``/splits_final.json, written there once.

    nnU-Net's own generator and form, over patients instead of cases. One patient alone is training data.
    """
    path = folder / "splits_final.json"
    if path.is_file():
        train, val = _fold(path)
        unknown = {*train, *val} - set(dataset.files)
        if unknown:
            raise InputError(f"{path}: names cases that {dataset.name} does not hold: {sorted(unknown)[:5]}")
        torn = {dataset.patients[c] for c in train} & {dataset.patients[c] for c in val}
        if torn:
            raise InputError(f"{path}: every patient must be on one side of the split, both hold {sorted(torn)[:5]}")
        return train, val
    patients = sorted(set(dataset.patients.values()))
    if len(patients) < 2:
        folds = [{"train": sorted(dataset.files), "val": []}]
    else:
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        folds = [
            {k: [c for c in sorted(dataset.files) if dataset.patients[c] in set(fold[k])] for k in ("train", "val")}
            for fold in generate_crossval_split(patients, n_splits=min(FOLDS, len(patients)))
        ]
    write_json(path, folds)
    return folds[FOLD]["train"], folds[FOLD]["val"]


def splits_folder(given: Path | None, output: Path) -> Path:
    """Where <dataset>/splits_final.json is kept: the argument, else nnUNet_preprocessed, else the run's folder."""
    return given or Path(os.environ.get("nnUNet_preprocessed") or output / "splits")


def evaluation_split(dataset: RawDataset, seen: dict | None, splits: Path | None) -> tuple[list[str], list[str]]:
    """Training and validation cases as the weights had them (``seen``); else as splits_final.json or a new split."""
    if seen:
        missing = set(seen["train"] + seen["val"]) - set(dataset.files)
        if missing:
            raise InputError(
                f"{dataset.folder}: the weights' split names cases it does not hold: {sorted(missing)[:5]}"
            )
        return seen["train"], seen["val"]
    folder = splits or os.environ.get("nnUNet_preprocessed")
    if folder:
        return split(dataset, Path(folder) / dataset.name)
    with tempfile.TemporaryDirectory() as temporary:
        return split(dataset, Path(temporary))


def build_cache(datasets: list[RawDataset | LabelMaps], splits: Path, cache: Path, progress=iter) -> dict[str, dict]:
    """Write the training cache of ``datasets``; cases that are current are kept. Returns the datasets' index.

    splits: one folder a dataset. progress: wraps the iterable of cases, for example tqdm.
    """
    from iris_core.data.cache import is_current, read_index, write_case, write_index, write_label_map

    index = {d.name: d.index(*split(d, splits / d.name)) for d in datasets}
    work = [(dataset, case) for dataset in datasets for case in dataset.files]
    for dataset, case in progress(work):
        path = cache / dataset.name / f"{case}.npz"
        source = dataset.source(case)
        if is_current(path, source):
            continue
        if isinstance(dataset, LabelMaps):
            write_label_map(path, dataset.numbered(case), source)
        else:
            write_case(path, dataset.case(case), dataset.scheme, source)
    write_index(cache, index)
    return {name: read_index(cache)[name] for name in index}
