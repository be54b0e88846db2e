"""What was uploaded, to be looked at before anything is run; what a person corrected."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.results import Result, keep_scan, scores_of
from app.uploads import gather, pairs, scan_of
from app.viewers.colours import colour
from app.work import Inputs
from iris_core.case import Case, InputError
from nnunet_adapters.images import read_reference, read_scan, write_mask
from nnunet_adapters.masks.mask import Structure


def preview(folder: Path, inputs: Inputs, former: Result) -> Result:
    """The uploads as a result in which nothing has been looked for yet; what ``former`` found stays.

    folder: the former result's, or a new one. A file that cannot be read is a failure, the others are shown.
    """
    inputs.require_files()
    failures: list[InputError] = []
    classes = {inputs.names.get(value, name): value for name, value in former.classes.items()}
    kept, number = [], len(list(folder.glob("*-image.npy")))
    for reference, uploads in ((True, inputs.references), (False, inputs.queries)):
        there = [s for s in former.scans if s.reference == reference and (s.found or set(s.uploads) <= set(uploads))]
        taken = {path for scan in there for path in scan.uploads}
        try:
            new = gather([path for path in uploads if path not in taken], folder / "seen")
        except InputError as error:
            failures.append(error)
            new = {}
        masks = partners([*(scan.source for scan in there), *new], inputs.masks) if reference else {}
        again = {s.source: s.uploads for s in there if reference and s.mask != masks.get(s.source)}
        kept += [scan for scan in there if scan.source not in again]
        for source, files in (again | new).items():
            try:
                mask = masks.get(source)
                case = read_reference(source, mask, inputs.names) if mask else read_scan(source)
            except InputError as error:
                failures.append(error)
                continue
            classes = _with(classes, case)
            more = {"source": source, "uploads": files, "reference": reference, "mask": mask}
            kept.append(keep_scan(case, case.labels, classes, None, folder / str(number), **more))
            number += 1
    kept.sort(key=lambda scan: not scan.reference)
    return replace(former, folder=folder, classes=classes, scans=tuple(kept), failures=tuple(failures))


def correct(result: Result, number: int, mask: Path) -> Result:
    """The result with a mask that a person corrected in place of what was found in one of its queries.

    Raises InputError where the mask does not fit, and for a scan in which nothing was looked for.
    """
    scan = result.scans[number]
    if not scan.found:
        raise InputError(f"{scan.name}: choose a query that was segmented; there is nothing to correct in this scan")
    case = read_reference(scan.source, mask, {value: name for name, value in result.classes.items()})
    classes, times = _with(result.classes, case), len(list(result.folder.glob(f"{scan.stem.name}-*image.npy")))
    more = {"source": scan.source, "uploads": scan.uploads, "reference": False, "mask": scan.mask, "corrected": True}
    stem = scan.stem.with_name(f"{scan.stem.name}-{times}")
    changed = keep_scan(case, case.labels, classes, None, stem, **more)
    if scan.truth is not None:
        names, spacing_mm = tuple(classes), changed.spacing_mm
        measured = scores_of(changed.labels, scan.truth, names, spacing_mm)
        changed = replace(changed, truth=scan.truth, scores=measured)
    structures = [Structure(value, name, colour(i)) for i, (name, value) in enumerate(classes.items())]
    write_mask(case.labels, scan.source, scan.mask, structures)  # what is taken away is what is seen
    return replace(result.corrected(number, changed), classes=classes)


def _with(classes: dict[str, int], case: Case) -> dict[str, int]:
    """The classes and those that a case shows besides."""
    return classes | {c.name: c.value for c in case.present() if c.value not in classes.values()}


def partners(scans: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    """Scan → its mask, for the scans that have one: as ``pairs`` says where there are enough, else by their names."""
    if len(scans) == len(masks):
        return dict(pairs(scans, masks))
    found = {scan_of(mask, scans): mask for mask in masks}
    return {scan: mask for scan, mask in found.items() if scan}
