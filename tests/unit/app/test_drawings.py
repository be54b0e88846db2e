"""Drawings of the page: checked as files are, kept on the scan's own grid, never of another visitor."""

import shutil
from types import SimpleNamespace

import gradio as gr
import nibabel
import numpy as np
import pytest
from conftest import ball, write_nifti

from app.drawing import draw, interpolate, read_drawing, smooth
from app.preview import preview
from app.results import Result
from app.service import Service
from app.session import Sessions
from app.ui.actions import Actions
from app.ui.workbench import Workbench, identity, value
from app.viewers.volumes import write_labels, write_volume
from app.work import Inputs
from iris_core.case import InputError
from nnunet_adapters.images import read_reference

SHAPE = (24, 20, 22)
ASKED_REST = (None, [], None, None, "auto", "auto", True, 3, 0, 40, 0.01)  # tasks … rate, as the page hands them over


def drawing(path, labels, dtype=np.uint8):
    return write_nifti(path, labels.astype(dtype))


def test_a_drawing_is_what_the_viewer_sends_or_an_error(tmp_path):
    mask = ball().astype(np.uint8)
    assert np.array_equal(read_drawing(drawing(tmp_path / "good.nii.gz", mask), SHAPE, 1), mask)
    bad = {
        "structures": (mask * 2, np.uint8),
        "uint8": (mask, np.int16),
        "voxels": (mask[:-1], np.uint8),
    }
    for what, (labels, dtype) in bad.items():
        with pytest.raises(InputError, match=what):
            read_drawing(drawing(tmp_path / f"{what}.nii.gz", labels, dtype), SHAPE, 1)
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes((tmp_path / "good.nii.gz").read_bytes()[:-20])
    (tmp_path / "text.nii.gz").write_text("no scan")
    data = (tmp_path / "good.nii.gz").read_bytes()
    (tmp_path / "damaged.nii.gz").write_bytes(data[:40] + b"\xff" * 300 + data[340:])  # zlib has an error of its own
    for name in ("cut", "text", "damaged"):
        with pytest.raises(InputError):
            read_drawing(tmp_path / f"{name}.nii.gz", SHAPE, 1)


def test_between_drawn_slices_a_structure_is_filled_even_if_it_runs_aslant():
    whole = np.zeros((40, 40, 20), np.uint8)
    for k in range(20):  # a tube that moves by more than its width
        x, y = np.ogrid[:40, :40]
        whole[:, :, k] = (x - 8 - 1.2 * k) ** 2 + (y - 20) ** 2 <= 16
    drawn = np.zeros_like(whole)
    drawn[:, :, [2, 10, 17]] = whole[:, :, [2, 10, 17]]
    drawn[0, 0, 5] = 2
    filled = interpolate(drawn, 1)
    inside = slice(2, 18)
    overlap = 2 * (filled[..., inside] == 1).__and__(whole[..., inside] == 1).sum()
    assert overlap / ((filled == 1).sum() + whole[..., inside].sum()) > 0.95
    assert filled[0, 0, 5] == 2 and not (filled[..., 18:] == 1).any() and drawn.sum() < filled.sum()
    with pytest.raises(InputError, match="two slices"):
        interpolate(drawn, 3)


def test_smoothing_takes_steps_off_and_leaves_the_others():
    labels = ball().astype(np.uint8)
    labels[11, 9, 17] = 1  # a spike
    labels[0, 0, 0] = 2
    smoothed = smooth(labels, 1)
    assert smoothed[11, 9, 17] == 0 and smoothed[0, 0, 0] == 2
    assert (smoothed == 1).sum() == pytest.approx((labels == 1).sum(), rel=0.1)
    with pytest.raises(InputError, match="Draw the structure first"):
        smooth(labels, 3)


def shown(scan, folder, masks=()) -> Result:
    folder.mkdir(exist_ok=True)
    return preview(folder, Inputs(references=(scan,), masks=tuple(masks)), Result(folder))


def test_a_mask_is_drawn_on_the_scans_own_grid_and_keeps_names(tmp_path):
    affine = np.array([[0, -1.5, 0, 7], [-1, 0, 0, 3], [0, 0, 2, -5], [0, 0, 0, 1.0]])  # neither RAS nor upright
    scan = write_nifti(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=(6, 7, 8)), affine)
    result = shown(scan, tmp_path / "result")
    labels = np.zeros(result.scans[0].image.shape, np.uint8)
    labels[2:4, 1:3, 5] = 2
    labels[0, 0, 0] = 1
    changed, mask = draw(result, 0, labels, ("liver", "<b>spleen"), tmp_path)
    case = read_reference(scan, mask)
    assert {c.name: c.value for c in case.present()} == {"liver": 1, "<b>spleen": 2}
    assert np.array_equal(nibabel.load(mask).affine, affine)
    assert changed.scans[0].volumes_ml["<b>spleen"] == pytest.approx(4 * 3 / 1000)
    again = shown(scan, tmp_path / "again", [mask])
    assert np.array_equal(again.scans[0].labels, labels)  # there and back
    renamed, _ = draw(changed, 0, labels, ("hepar", "<b>spleen"), tmp_path)
    assert renamed.classes == {"hepar": 1, "<b>spleen": 2}
    for names in (("liver", "liver"), ("liver",), ("liver", ""), ("liver", "a=b"), ("liver", "x" * 200)):
        with pytest.raises(InputError):
            draw(changed, 0, labels, names, tmp_path)


def test_the_browser_gets_every_image_within_16_bits(tmp_path):
    rng = np.random.default_rng(0)
    for image in (rng.normal(0, 1e-3, SHAPE), rng.integers(-1000, 3000, SHAPE).astype(np.int16), np.full(SHAPE, 2.5)):
        write_volume(image, np.eye(4), tmp_path / "image.nii.gz")
        volume = nibabel.load(tmp_path / "image.nii.gz")
        assert volume.get_data_dtype().kind in "iu"
        assert np.allclose(volume.get_fdata(), image, atol=max(np.ptp(image), 1) / 2**16)
    write_labels(np.arange(600).reshape(10, 10, 6), np.eye(4), tmp_path / "labels.nii.gz")
    labels = np.asarray(nibabel.load(tmp_path / "labels.nii.gz").dataobj).ravel()
    assert labels.max() == 255 and labels[256] == 1 and labels[0] == 0


@pytest.fixture
def page(tiny_weights, scan):
    """A page's actions, its viewer's events, a visitor with a reference, the visitor's token."""
    sessions = Sessions()
    actions, visitor = Actions(Service(str(tiny_weights), "cpu"), sessions), SimpleNamespace(session_hash="ann")
    folder = sessions.root / ("a" * 64)
    folder.mkdir()
    own = shutil.copy(scan[0], folder / "scan.nii.gz")
    with sessions.opened("ann") as (token, place):
        sessions.keep(token, shown(own, place))
    return actions, Workbench(actions), visitor, token


def told(page, **more):
    actions, _, _, token = page
    upload = actions.sessions.root / ("d" * 64)
    upload.mkdir(exist_ok=True)
    path = drawing(upload / "drawing.nii.gz", ball())
    scan = actions.sessions.result(token).scans[0]
    structures = [{"name": "ball", "colour": "#ffffff"}]
    return SimpleNamespace(_data={"id": identity(scan), "path": str(path), "structures": structures} | more)


def asked(page):
    return [[str(page[0].sessions.result(page[3]).scans[0].source)], None, "", *ASKED_REST]


def test_a_drawing_becomes_the_references_mask(page):
    actions, workbench, visitor, token = page
    masks, names, *_ = workbench.drew(told(page), visitor, token, *asked(page))
    assert len(masks) == 1 and masks[0].endswith("scan_mask.nii.gz") and names == "1=ball"
    assert np.array_equal(nibabel.load(masks[0]).dataobj, ball())
    viewer, *_ = workbench.helped(told(page, action="smooth", structure=0, axis=None), visitor, token, *asked(page))
    assert viewer["structures"][0]["name"] == "ball" and viewer["draw"]
    before = value(actions.sessions.result(token), 0)
    assert before["mask_revision"] == viewer["mask_revision"]
    assert actions.sessions.desk("ann").fields[1] == masks
    actions.sessions.close("ann")
    assert not list(actions.sessions.root.rglob("*mask*"))


@pytest.mark.parametrize(
    "more",
    [
        {"id": "somebody else's"},
        {"path": "/etc/passwd"},
        {"path": "../../etc/passwd"},
        {"path": 7},
        {"structures": [{"name": "a=b"}]},
        {"structures": [{}]},
        {"structures": 3},
        {"structures": []},
    ],
)
def test_what_no_viewer_sends_is_refused(page, more):
    actions, workbench, visitor, token = page
    with pytest.raises(gr.Error):
        workbench.drew(told(page, **more), visitor, token, *asked(page))
    with pytest.raises(gr.Error):
        workbench.drew(told(page), visitor, "another token", *asked(page))
    with pytest.raises(gr.Error):
        workbench.drew(SimpleNamespace(_data=None), visitor, token, *asked(page))
    assert not actions.sessions.result(token).classes
