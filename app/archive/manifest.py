"""The rows of an archive: which scan, shown by what, to which file. Read as a stream, never whole."""

import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from app.archive.places import address, name_of, needed, opened
from iris_core.case import InputError
from nnunet_adapters.folder import Part
from nnunet_adapters.headers import is_scan
from nnunet_adapters.masks import ENDINGS
from nnunet_adapters.outputs import output_name

COLUMNS = ("query", "output", "reference", "mask", "task")
LONGEST = 2**12  # characters of a cell
BLOCK_BYTES = 2**20  # of a CSV, read at once
BLOCK_ROWS = 2**10  # of a Parquet file


@dataclass(frozen=True)
class Row:
    """One query. output: its mask, below --output. reference with mask, or task: "" for the command line's."""

    query: str
    output: str
    reference: str = ""
    mask: str = ""
    task: str = ""


def columns(manifest: str) -> set[str]:
    """Of the manifest. Raises InputError where it is none, lacks queries or has columns that nobody asked for."""
    with _open(manifest) as (_, names, _):
        found = set(names)
    if len(found) != len(names) or "query" not in found or not found <= set(COLUMNS):
        raise InputError(
            f"{manifest}: its columns must be query and, where they are wanted, {', '.join(COLUMNS[1:])}; found"
            f" {', '.join(names)}; rename these or leave them out"
        )
    if ("reference" in found) != ("mask" in found) or {"reference", "task"} <= found:
        raise InputError(f"{manifest}: must have the columns reference and mask, or task, or neither; found {names}")
    return found


def rows(manifest: str, format: str) -> Iterator[Row]:
    """Every row, checked. Raises InputError naming the file, the row (1 is the first below the header) and the cell."""
    number = 0
    with _open(manifest) as (batches, names, error):
        try:
            for batch in batches:
                for cells in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                    number += 1
                    yield checked(f"{manifest}: row {number}", dict(zip(names, cells, strict=True)), format)
        except error as problem:
            raise InputError(f"{manifest}: not readable after row {number}: {problem}") from problem


def checked(where: str, cells: dict, format: str) -> Row:
    """A row of a manifest, its places in one form. Raises InputError."""
    text = {name: cells.get(name) or "" for name in COLUMNS}
    for name, cell in text.items():
        if not isinstance(cell, str) or len(cell) > LONGEST or not cell.isprintable():
            raise InputError(f"{where}: {name} must be a line of at most {LONGEST} characters, got {cell!r:.99}")
    if not text["query"]:
        raise InputError(f"{where}: query must be a path or an address, got nothing; fill it in or delete the row")
    if bool(text["reference"]) != bool(text["mask"]):
        raise InputError(f"{where}: reference and mask must both be there or both be empty, got {cells}")
    try:
        places = {name: address(text[name]) for name in ("query", "reference", "mask")}
        task = text["task"] if text["task"].startswith("hf:") else address(text["task"])
        output = text["output"] or mask_name(places["query"], format)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    _check_output(where, output, format)
    return Row(output=output, task=task, **places)


def mask_name(query: str, format: str) -> str:
    """Of the mask, where the manifest does not say: what `iris segment` calls it."""
    name = name_of(query)
    if is_scan(Path(name)):
        return output_name(Path(name), format)
    return name + (".nii.gz" if format == "query" else ENDINGS[format])  # a folder is one DICOM series


def _check_output(where: str, output: str, format: str) -> None:
    """A file below --output, by any reading of its name, with an ending that --format can have."""
    bad = any(not part or part.startswith(".") or part != part.strip() for part in output.split("/"))
    if bad or "\\" in output or ":" in output:
        raise InputError(
            f"{where}: output must be a name such as patient1/scan.nii.gz, below --output: no part of it empty or"
            f" hidden, no drive, scheme or \\; got {output!r}"
        )
    wanted = (".nii.gz", ".nii", ".nrrd", ".mha") if format == "query" else (ENDINGS[format],)
    if not output.endswith(wanted):
        raise InputError(f"{where}: with --format {format} output must end in {' or '.join(wanted)}, got {output!r}")


def of_part(found: Iterable[Row], part: Part) -> Iterator[Row]:
    """The rows of one of several processes. By their output, so that a row stays with its part when others come."""
    return (row for row in found if _number(row, part) == part.number)


def _number(row: Row, part: Part) -> int:
    return zlib.crc32(row.output.encode()) % part.of


def check_all(where: str, found: Iterable[Row], part: Part) -> int:
    """How many rows the part has. Takes 8 bytes of memory a row. Raises InputError where two would write one file."""
    seen, number = array("Q"), 0
    for row in found:
        number += _number(row, part) == part.number
        seen.append(_digest(row.output))
    order = np.argsort(numbers := np.frombuffer(seen, np.uint64), kind="stable") if seen else np.zeros(0, int)
    twice = np.flatnonzero(numbers[order][1:] == numbers[order][:-1]) if seen else ()
    if len(twice):
        first, second = (int(order[twice[0] + i]) + 1 for i in (0, 1))
        raise InputError(
            f"{where}: rows {first} and {second} would write the same file, and {len(twice) - 1} more do so;"
            " give each an output of its own in the column output"
        )
    return number


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


@contextmanager
def _open(manifest: str) -> Iterator[tuple[Iterator, list[str], type[Exception]]]:
    """Batches of a CSV or Parquet file, the names of its columns, and the error that reading on may raise."""
    arrow = needed("pyarrow", "--manifest")
    from pyarrow import csv, parquet

    if not manifest.endswith((".csv", ".parquet")):
        raise InputError(f"{manifest}: a manifest must end in .csv or .parquet")
    try:
        with opened(manifest) as file:
            if manifest.endswith(".parquet"):
                table = parquet.ParquetFile(file)
                yield table.iter_batches(BLOCK_ROWS), table.schema_arrow.names, arrow.ArrowException
            else:
                text = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, arrow.string()))
                reader = csv.open_csv(file, csv.ReadOptions(block_size=BLOCK_BYTES), convert_options=text)
                yield reader, reader.schema.names, arrow.ArrowException
    except (arrow.ArrowException, FileNotFoundError) as problem:
        raise InputError(f"{manifest}: not readable as a manifest, CSV or Parquet: {problem}") from problem
