"""A real napari viewer and a real `iris serve`, see the README; under Xvfb where there is no screen.

IRIS_ADDRESS, IRIS_TOKEN: of the server. IRIS_SCREENSHOT: a .png to write, if any.
"""

import os
import time
from pathlib import Path

import napari
import nibabel
import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from iris_client import Client, read_reference, read_scan
from napari_iris.layers import affine_of, query_case, result_layer

SAMPLE = Path(__file__).parents[3] / "app" / "samples" / "hippocampus"
ADDRESS, TOKEN = os.environ["IRIS_ADDRESS"], os.environ.get("IRIS_TOKEN")


@pytest.fixture
def viewer():
    viewer = napari.Viewer()
    for name in ("reference", "query"):
        scan = nibabel.load(SAMPLE / f"{name}.nii.gz")
        scale = scan.header.get_zooms()[::-1]
        viewer.add_image(np.asarray(scan.dataobj).T, name=name, scale=scale, translate=scan.affine[:3, 3][::-1])
    mask = np.asarray(nibabel.load(SAMPLE / "reference_mask.nii.gz").dataobj)
    place = {"scale": viewer.layers[0].scale, "translate": viewer.layers[0].translate}
    viewer.add_labels(mask.T.astype(int), name="hippocampus", **place)
    yield viewer
    viewer.close()


@pytest.fixture
def widget(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("napari-iris")
    widget.address.value, widget.token.value = ADDRESS, TOKEN or ""
    widget.queries.value = [viewer.layers["query"]]
    return widget


def press(widget, until: str) -> None:
    widget.run.native.click()
    deadline = time.monotonic() + 120
    while until not in widget.said.value or not widget.run.enabled:
        assert time.monotonic() < deadline, widget.said.value
        QApplication.processEvents()
        time.sleep(0.01)


def test_a_layer_and_its_labels_show_the_same_structures_in_another(viewer, widget):
    press(widget, "1 of 1 segmented")
    found = viewer.layers["query: hippocampus"]
    with Client(ADDRESS, TOKEN) as client:
        task = client.encode(read_reference(SAMPLE / "reference.nii.gz", SAMPLE / "reference_mask.nii.gz"))
        expected = client.segment(task, read_scan(SAMPLE / "query.nii.gz"))
    assert set(np.unique(found.data)) == {0, 1, 2}
    assert np.array_equal(found.data.T, expected)
    assert np.allclose(affine_of(found), affine_of(viewer.layers["query"]))
    if picture := os.environ.get("IRIS_SCREENSHOT"):
        viewer.layers["reference"].visible = viewer.layers["hippocampus"].visible = False
        viewer.reset_view()
        both = np.min([(found.data == value).sum((1, 2)) for value in (1, 2)], 0).argmax()
        viewer.dims.set_point(0, found.data_to_world([both, 0, 0])[0])
        viewer.window.resize(1100, 700)
        QApplication.processEvents()
        viewer.screenshot(picture, canvas_only=False)


def test_what_is_wrong_is_said(viewer, widget):
    before = len(viewer.layers)
    widget.token.value = "wrong"
    press(widget, "the token must be")
    widget.address.value = "http://127.0.0.1:9"
    press(widget, "is `iris serve` running there?")
    widget.address.value = "nowhere"
    press(widget, "the address must be")
    labels = viewer.layers["hippocampus"]
    labels.data = np.zeros_like(labels.data)
    press(widget, "no voxel is labelled")
    labels.scale = (3, 3, 3)
    press(widget, "must lie on the grid of reference")
    viewer.add_image(np.zeros((5, 5)), name="flat")
    widget.queries.value = [viewer.layers["flat"]]
    labels.scale = viewer.layers["reference"].scale
    labels.data = np.ones_like(labels.data)
    press(widget, "flat: must be one 3D volume of grey values, got 2D")
    widget.queries.value = []
    press(widget, "Choose a reference")
    assert len(viewer.layers) == before + 1


def test_a_layer_that_is_turned_keeps_its_place():
    image = napari.layers.Image(np.zeros((4, 5, 6)), scale=(3, 2, 1), translate=(7, 8, 9), rotate=(0, 0, 30))
    case = query_case(image)
    assert case.image.shape == (6, 5, 4)
    for voxel in ((0, 0, 0), (5, 1, 2)):
        world = case.affine @ [*voxel, 1]
        assert np.allclose(world[:3][::-1], image.data_to_world(voxel[::-1]))
    shown = napari.layers.Labels(np.zeros((4, 5, 6), int), name="liver")
    found = result_layer(np.zeros((6, 5, 4), np.uint8), image, shown)
    assert np.allclose(affine_of(found), case.affine) and found.data.shape == (4, 5, 6)
