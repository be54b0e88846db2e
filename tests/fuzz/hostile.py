"""Files that are well formed and mean harm: a field, a key or a voxel of a good sample has a hostile value."""

import gzip
import itertools
import json
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from values import drawn

Change = Callable[[Path, Random], str]  # spoils the file in place, says how

ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    "one voxel": lambda: np.ones((1, 1, 1), np.int16),
    "a line": lambda: np.ones((1, 1, 4096), np.uint8),
    "another line": lambda: np.ones((4096, 1, 1), np.float32),
    "two voxels": lambda: np.array([[[0, 1]]], np.uint8),
    "NaN but one": lambda: np.where(np.arange(40**3).reshape(40, 40, 40) == 7, 1, np.nan).astype(np.float32),
    "64-bit extremes": lambda: np.where(np.indices((40, 40, 40)).sum(0) % 2, 2**63 - 1, -(2**63)).astype(np.int64),
    "unsigned 64-bit": lambda: np.full((9, 9, 9), 2**64 - 1, np.uint64),
    "60 000 labels": lambda: (np.arange(64**3) % 60_000).reshape(64, 64, 64).astype(np.int32),
    "32-bit labels": lambda: np.where(np.indices((9, 9, 9)).sum(0) % 2, 2**31 - 1, -(2**31)).astype(np.int32),
    "negative labels": lambda: np.where(np.indices((9, 9, 9)).sum(0) % 2, -1, 0).astype(np.int16),
    "larger than float32": lambda: np.full((9, 9, 9), 1e300),
    "nearly whole": lambda: np.full((9, 9, 9), 1 + 1e-7),
    "nothing": lambda: np.zeros((40, 40, 40), np.uint8),
    "8-bit": lambda: np.full((9, 9, 9), -128, np.int8),
}
SIZES_MM = (1e-30, 1e-10, 1e-4, 1e-3, 0.0, 1e5, 1e30, float("nan"), float("inf"), -1.0, 3.0)


def voxels(path: Path, rng: Random) -> str:
    """Other voxels on another grid; of a mask, its scan has them too."""
    what = rng.choice([*ARRAYS])
    array = ARRAYS[what]()
    sizes = rng.choices((1.0, 1.0, 1.0, *SIZES_MM), k=3) if rng.random() < 0.5 else [rng.choice(SIZES_MM)] * 3
    affine = np.diag([*sizes, 1.0])
    if rng.random() < 0.2:
        affine[:3, 3] = rng.choice((1e30, -1e7, np.nan, 1e38))
    if rng.random() < 0.2:
        affine[0, 1] = rng.choice((0.5, 0.999, 1e9))
    if path.name.startswith("mask") and (path.parent / "scan.nii.gz").is_file():
        with np.errstate(all="ignore"):
            image = np.nan_to_num(array.astype(np.float32), posinf=1, neginf=-1)
        _nifti(path.parent / "scan.nii.gz", image, affine)
    if ".nii" in path.name:
        _nifti(path, array, affine)
    else:
        image = sitk.GetImageFromArray(array.T.copy())
        try:
            image.SetSpacing([float(abs(s)) for s in sizes])
            image.SetOrigin(affine[:3, 3].tolist())
        except Exception:  # SimpleITK itself refuses some
            what += ", usual grid"
        packed = b"gzip" in path.read_bytes()[:1000] or b"CompressedData = True" in path.read_bytes()[:1000]
        sitk.WriteImage(image, str(path), packed)
    return f"{what}, {sizes} mm"


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nibabel.Nifti1Image(array, None, dtype=array.dtype)
    image.header.set_sform(np.nan_to_num(affine), 1)
    for i in range(3):
        image.header["srow_" + "xyz"[i]] = affine[i]
    with np.errstate(all="ignore"):
        image.header["pixdim"][1:4] = np.diag(affine)[:3]
    raw = image.header.binaryblock + bytes(4) + array.tobytes("F")
    path.write_bytes(gzip.compress(raw, 1) if path.name.endswith(".gz") else raw)


def nifti_field(path: Path, rng: Random) -> str:
    """One field of the header, or an element of it, is another number."""
    raw = bytearray(gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes())
    fields = nibabel.Nifti1Header.template_dtype.fields
    name = rng.choice([*fields])
    dtype, at = fields[name][:2]
    base = dtype.base
    at += base.itemsize * rng.randrange(max(1, dtype.itemsize // base.itemsize))
    value = rng.choice(drawn("numbers"))
    if base.kind == "S":
        raw[at : at + 4] = str(value).encode()[:4].ljust(4, b"\xff")
    else:
        with np.errstate(all="ignore"):
            try:
                raw[at : at + base.itemsize] = np.array(float(value)).astype(base).tobytes()
            except OverflowError:
                raw[at : at + base.itemsize] = b"\x7f" * base.itemsize
    path.write_bytes(gzip.compress(bytes(raw), 1) if path.name.endswith(".gz") else bytes(raw))
    return f"{name} = {str(value)[:60]}"


def text_field(path: Path, rng: Random) -> str:
    """A line of a text header has another value, comes twice, or is a new one."""
    data = path.read_bytes()
    end = next((at for at in (data.find(b"\n\n"), data.find(b"ElementDataFile")) if at >= 0), len(data))
    lines, rest = data[:end].split(b"\n"), data[end:]
    value = rng.choice(drawn("text")).encode("utf-8", "surrogatepass")
    i = rng.randrange(len(lines))
    kind = rng.choice(("value", "value", "value", "twice", "new", "key", "word"))
    if kind == "twice":
        lines.insert(i, lines[i])
    elif kind == "new":
        lines.insert(i, value)
    elif kind == "word":
        words = lines[i].split(b" ")
        words[rng.randrange(len(words))] = value
        lines[i] = b" ".join(words)
    else:
        for between in (b":=", b" = ", b": ", b'"'):
            if between in lines[i]:
                key, old = lines[i].split(between, 1)
                lines[i] = key + between + value if kind == "value" else value + between + old
                break
    path.write_bytes(b"\n".join(lines) + rest)
    return f"{kind} of line {i}: {value[:60]!r}"


def spoilt_json(text: str, rng: Random) -> tuple[str, str]:
    """JSON in which one place has another value, lacks, comes twice or has another key."""
    value = json.loads(text)
    raw, mark = rng.choice(drawn("json")), "\x01mark\x01"
    places = list(_places(value))
    if not places or rng.random() < 0.05:
        return raw, f"all of it: {raw[:60]!r}"
    holder, key = rng.choice(places)
    kind = rng.choice(("value", "value", "value", "lacks", "twice", "key", "more"))
    if kind == "lacks":
        del holder[key]
    elif kind == "more":
        other = rng.choice(drawn("names"))
        holder.append(mark) if isinstance(holder, list) else holder.update({other: mark})
    elif kind == "key" and isinstance(holder, dict):
        holder[rng.choice(drawn("names"))] = holder.pop(key)
    elif kind == "twice" and isinstance(holder, dict):
        holder[key + "\x02"] = mark
    else:
        holder[key] = mark
    written = json.dumps(value).replace(json.dumps(mark), raw).replace("\\u0002", "")
    return written, f"{kind} {str(key)[:40]!r}: {raw[:60]!r}"


def _places(value):
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def json_file(path: Path, rng: Random) -> str:
    text, what = spoilt_json(path.read_text("utf-8"), rng)
    path.write_text(text, "utf-8", errors="surrogatepass")
    return what


def tensors(path: Path, rng: Random) -> str:
    """A safetensors file whose header, or the JSON in it, says something else, or whose numbers are none."""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + n].decode(), bytearray(data[8 + n :])
    kind = rng.random()
    about = json.loads(header)
    if kind < 0.5 and "iris_task" in about.get("__metadata__", {}):
        about["__metadata__"]["iris_task"], what = spoilt_json(about["__metadata__"]["iris_task"], rng)
        header = json.dumps(about)
    elif kind < 0.8:
        header, what = spoilt_json(header, rng)
    else:
        name = rng.choice([key for key in about if key != "__metadata__"])
        first, last = about[name]["data_offsets"]
        value = rng.choice((b"\x00\x7e", b"\x00\x7c", b"\xff\xff", b"\x00\x00", b"\xff\x7b", b"\x01\x00"))  # NaN, ∞, …
        body[first:last] = (value * (last - first))[: last - first]
        what = f"{name} all {value!r}"
    packed = header.encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + body)
    return what


def dicom(path: Path, rng: Random) -> str:
    """An element of a DICOM file, at any depth, has another value, lacks, or is a sequence of other length."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.settings.reading_validation_mode = (
        pydicom.config.IGNORE
    )
    dataset = pydicom.dcmread(path)
    holders = [dataset, *_datasets(dataset)]
    holder = rng.choice(holders if rng.random() < 0.6 else holders[:1])
    element = rng.choice([e for e in holder if e.keyword != "PixelData" or rng.random() < 0.3])
    what = f"{element.keyword or element.tag}"
    if rng.random() < 0.15:
        del holder[element.tag]
        what += " lacks"
    elif element.VR == "SQ":
        items = list(element.value)
        kind = rng.choice(("none", "twice", "reversed", "empty", "first"))
        changed = {"none": [], "twice": items * 2, "reversed": items[::-1], "first": items[:1]}
        element.value = changed.get(kind, [pydicom.Dataset()])
        what += f" {kind}"
    else:
        value = _dicom_value(element, rng)
        what += f" = {str(value)[:60]!r}"
        element._value = value  # unchecked, unlike element.value
    out = BytesIO()
    try:
        dataset.save_as(out)
    except Exception as error:  # what pydicom cannot write is no file
        return f"{what}: not written, {type(error).__name__}"
    path.write_bytes(out.getvalue())
    return what


def _dicom_value(element, rng: Random):
    if element.VR in ("OB", "OW", "OB or OW"):
        return rng.choice((b"", b"\0", element.value[: len(element.value) // 2], b"\xff" * len(element.value)))
    if element.VR in ("US", "SS", "UL", "SL", "FD", "FL"):
        limit = {"US": 2**16 - 1, "SS": 2**15 - 1, "UL": 2**32 - 1, "SL": 2**31 - 1}.get(element.VR)
        many = element.VM > 1
        value = rng.choice((0, 1, 2, 8, 255, limit)) if limit else rng.choice((0.0, float("nan"), 1e300, -1.0, 1e-300))
        return [value] * rng.choice((1, element.VM, 7)) if many else value
    if element.VR in ("DS", "IS") and element.VM > 1 and rng.random() < 0.6:
        values = [str(v) for v in element.value]
        values[rng.randrange(len(values))] = rng.choice(("nan", "1e30", "1e-30", "0", "-1", "inf", "", "x", "1e400"))
        return pydicom.multival.MultiValue(str, values)
    if element.VR == "AT":
        return 0
    return rng.choice(drawn("text"))[:1000].encode("ascii", "replace").decode()


def _datasets(dataset):
    for element in dataset:
        if element.VR == "SQ":
            for item in itertools.islice(element.value, 6):
                yield item
                yield from _datasets(item)


def archive(path: Path, rng: Random) -> str:
    """A zip that leads elsewhere, holds other things, or unpacks to more."""
    with zipfile.ZipFile(path) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    kind = rng.choice(("names", "other", "folders", "none", "twice", "nested", "zeros", "many", "one", "lies", "file"))
    one = next(iter(files))
    if kind == "names":
        files = {rng.choice(drawn("names")) + str(i): data for i, data in enumerate(files.values())}
    elif kind == "other":
        files["notes.txt"] = b"hello"
    elif kind == "none":
        files = {}
    elif kind == "nested":
        files = {"series.zip": path.read_bytes()}
    elif kind == "zeros":
        files = {"a.dcm": bytes(40_000_000)}
    elif kind == "many":
        files = {str(i): b"" for i in range(rng.choice((1000, 6000)))}
    elif kind == "one":
        files = {one: files[one]}
    elif kind == "file":
        files[one] = dicom_bytes(files[one], path, rng)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr("folder/" * (kind == "folders") + name.replace("\0", "0")[:9000], data)
        if kind == "twice":
            packed.writestr("again.dcm", files[one])
    if kind == "lies":
        data = bytearray(path.read_bytes())
        at = data.rfind(b"PK\x01\x02") + rng.choice((8, 10, 16, 20, 24, 28, 42))
        data[at : at + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x01\0\0\0"))
        path.write_bytes(data)
    return kind


def dicom_bytes(data: bytes, path: Path, rng: Random) -> bytes:
    alone = path.with_name("one.dcm")
    alone.write_bytes(data)
    dicom(alone, rng)
    changed = alone.read_bytes()
    alone.unlink()
    return changed


CHANGES: dict[str, tuple[Change, ...]] = {
    ".nii": (voxels, nifti_field),
    ".gz": (voxels, nifti_field),
    ".nrrd": (voxels, text_field, text_field),
    ".mha": (voxels, text_field, text_field),
    ".mhd": (text_field,),
    ".dcm": (dicom,),
    ".zip": (archive,),
    ".json": (json_file,),
    ".safetensors": (tensors,),
    ".label": (text_field,),
}


def changed(path: Path, rng: Random) -> str | None:
    """Spoil a file by what its ending says it is; None where nothing is known of it."""
    known = CHANGES.get(path.suffix)
    if not known:
        return None
    change = rng.choice(known)
    return f"{change.__name__}: {change(path, rng)}"
