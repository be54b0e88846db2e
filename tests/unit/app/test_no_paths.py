"""Where the server keeps things is said in no message, and stands in no file that leaves the page."""

import getpass
import gzip
import io
import platform
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import SimpleITK as sitk
from bad_files import BAD_MASKS, BAD_SCANS
from conftest import ball, write_nifti
from dicom_files import SHAPE, write_series

from app.service import Service
from app.session import Sessions
from app.ui.actions import Actions
from app.ui.bench import Bench
from app.ui.programs import Programs
from app.ui.views import Views
from app.ui.workbench import value
from nnunet_adapters.images import read_scan

VISITOR = SimpleNamespace(session_hash="visitor")
CHOSEN = "auto", "auto", True, 3, 0, 40, 0.01
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def actions(eager_weights, tmp_path_factory) -> Actions:
    actions = Actions(Service(str(eager_weights), "cpu"), Sessions())
    actions.secrets = [  # what nobody is to learn
        *(str(path) for path in (ROOT, actions.sessions.root, tmp_path_factory.getbasetemp(), eager_weights)),
        actions.sessions.root.name,
        f"{Path.home()}/",
        f"/{getpass.getuser()}/",
        f"iris-{platform.node()}",
    ]
    return actions


def upload(actions: Actions, file: Path) -> str:
    """A file where gradio puts uploads, under its own name."""
    folder = actions.sessions.root / (zlib.crc32(str(file).encode()).to_bytes(4).hex() * 8)
    folder.mkdir(exist_ok=True)
    return shutil.copy(file, folder)


def contents(data: bytes) -> list[bytes]:
    """The data, and what is packed in it."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            return [data, *(part for name in packed.namelist() for part in contents(packed.read(name)))]
    if data.startswith(b"\x1f\x8b"):
        return [data, *contents(gzip.decompress(data))]
    if b"encoding: gzip" in data[:9999]:  # NRRD
        return [data, gzip.decompress(data[data.index(b"\n\n") + 2 :])]
    return [data]


def check(actions: Actions, what: str, said: str | bytes) -> None:
    for data in contents(said.encode() if isinstance(said, str) else said):
        assert not [secret for secret in actions.secrets if secret.encode() in data], f"{what}: {data[:300]!r}"


def scans(folder: Path) -> dict[str, Path]:
    """A scan of each format, under names like those of a clinic."""
    mask = ball()
    image = np.where(mask, 100, 0).astype(np.int16)
    nifti = write_nifti(folder / "O'Neil <b>Ann & 7.nii.gz", image)
    found = {"nifti": nifti}
    for ending in ("nrrd", "mha"):
        found[ending] = folder / f"Müller {ending}.{ending}"
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(found[ending]), True)
    series = write_series(folder / "series")
    found["dicom"] = folder / "Jane Doe.zip"
    with zipfile.ZipFile(found["dicom"], "w") as packed:
        for number, file in enumerate(series.iterdir()):
            packed.write(file, f"../../etc/{number}/passwd")
    dicom = np.zeros(SHAPE, np.uint8)
    dicom[2:6, 2:5, 1:4] = 1
    write_nifti(folder / "dicom.nii.gz", dicom, read_scan(series).affine)
    write_nifti(folder / "other.nii.gz", mask.astype(np.uint8))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["nifti", "nrrd", "mha", "dicom"])
def test_no_file_that_leaves_the_page_says_where_it_was(kind, actions, tmp_path):
    """Masks, statistics, the task, DICOM-SEG, their zip, the picture, the 3D view, the volumes of the viewer."""
    scan = upload(actions, scans(tmp_path)[kind])
    mask = upload(actions, tmp_path / ("dicom.nii.gz" if kind == "dicom" else "other.nii.gz"))
    values = [scan], [mask], "1=@liver", None, [], [scan], [mask], *CHOSEN
    steps = []
    status, _, token, *seen, masks, extras, _ = actions.run(VISITOR, None, lambda *step: steps.append(step), *values)
    result = actions.result(token)
    Bench(actions).explain(token, len(result.scans) - 1)
    result = actions.result(token)
    files = [*masks, *extras, *Views(actions).take(token, len(result.scans) - 1)]
    endings = {Path(file).name.split(".", 1)[-1] for file in files}
    assert {"zip", "csv", "json", "task.safetensors", "png", "html"} <= endings and len(masks) == 1
    assert kind != "dicom" or any("seg" in Path(file).name for file in files)
    for told in (value(result, number) for number in range(len(result.scans))):
        layers = [part["url"] for part in told["layers"]]
        files += [url.removeprefix("gradio_api/file=") for url in (told["image"], told["mask"], *layers)]
    assert len(files) > 8
    for file in files:
        check(actions, file, Path(file).read_bytes())
    asked = Programs(actions).segment(VISITOR, *values)[1]
    task = Programs(actions).encode(VISITOR, [scan], [mask], "1=liver")
    check(actions, "task", Path(task).read_bytes())
    for what in (status, steps, asked, [part for part in seen if not isinstance(part, gr.Gallery)]):
        text = repr([getattr(part, "choices", part) for part in what] if isinstance(what, list) else what)
        check(actions, "page", text)
    actions.sessions.close(VISITOR.session_hash)


@pytest.mark.parametrize("kind", [*sorted(set(BAD_SCANS) - {"missing"}), *(f"mask {kind}" for kind in BAD_MASKS)])
def test_no_message_says_where_a_file_lies(kind, actions, scan, tmp_path):
    """Of the page and of its endpoints: what is said before a run, of the run, of a correction, of a query."""
    good, mask = (upload(actions, path) for path in scan)
    (tmp_path / "bad").mkdir()
    if kind.startswith("mask "):
        bad = BAD_MASKS[kind.removeprefix("mask ")][0](tmp_path / "bad" / "mask.nii.gz")
    else:
        bad = BAD_SCANS[kind][0](tmp_path / "bad" / "scan.nii.gz")
    bad, own = upload(actions, bad), str(tmp_path)  # some name a file themselves, and are told what they named
    pairs = [([good], [bad], [good]), ([bad], [mask], [good]), ([good], [mask], [bad])]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for shown, masks, queries in pairs:
            values = shown, masks, "", None, [], queries, None, "one_shot", "auto", False, 3, 0, 40, 0.01
            check(actions, "before", actions.look_before(VISITOR, *values).replace(own, ""))
            status = actions.run(VISITOR, None, lambda *_: None, *values)[0]
            check(actions, "run", str(status).replace(own, ""))
            for call, given in ((Programs(actions).segment, values), (Programs(actions).encode, values[:4])):
                try:
                    call(VISITOR, *given)
                except gr.Error as error:
                    check(actions, call.__name__, error.message.replace(own, ""))
    for warning in warned:
        check(actions, "warning", str(warning.message).replace(own, ""))
    actions.sessions.close(VISITOR.session_hash)
