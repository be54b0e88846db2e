"""The viewers draw what is in the arrays, where it is, at its size."""

import numpy as np
import pytest

from app.viewers.colours import PALETTE, colour, css
from app.viewers.mesh import MAX_FACES, MAX_FACES_CLASS, mesh, slice_planes, surface
from app.viewers.slices import (
    CROSSHAIR,
    PLANES,
    SIDE,
    Style,
    best_position,
    grey,
    presets,
    same_place,
    slices,
    voxel_at,
)

BYTES = (0, 255)
BLANK = np.zeros((20, 20, 20), np.uint8)


def block(shape, *where, value=1) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[where] = value
    return array


def middle(picture: np.ndarray, wanted) -> tuple[float, float]:
    """Mean (row, column) of the pixels that ``wanted`` accepts, as shares of the side."""
    rows, columns = np.nonzero(wanted(picture.astype(int)))
    return rows.mean() / SIDE, columns.mean() / SIDE


def test_patient_right_is_at_the_left_front_at_the_top_and_head_at_the_top():
    right_front_top = block((20, 20, 20), slice(14, 18), slice(14, 18), slice(14, 18))
    pictures = slices(BLANK, right_front_top, (1, 1, 1), (16, 16, 16), Style(BYTES, 1.0))
    assert set(pictures) == set(PLANES)
    for picture in pictures.values():
        assert picture.shape == (SIDE, SIDE, 3) and picture.dtype == np.uint8
        row, column = middle(picture, lambda p: p[..., 0] - p[..., 2] > 100)
        assert row == pytest.approx(0.2, abs=0.01) and column == pytest.approx(0.2, abs=0.01)


def test_voxels_keep_their_proportions_and_all_planes_their_scale():
    volume = np.full((30, 20, 8), 200, np.uint8)  # 30 × 30 × 40 mm
    pictures = slices(volume, np.zeros_like(volume), (1.0, 1.5, 5.0), (15, 10, 4), Style(BYTES))
    for plane, (width_mm, height_mm) in {"axial": (30, 30), "coronal": (30, 40), "sagittal": (30, 40)}.items():
        lit = pictures[plane].min(2) > 150
        assert np.count_nonzero(lit[SIDE // 3]) == pytest.approx(width_mm / 40 * SIDE, abs=1)
        assert np.count_nonzero(lit[:, SIDE // 3]) == pytest.approx(height_mm / 40 * SIDE, abs=1)


def test_opacity_blends_from_the_scan_to_the_class_colour():
    labels = block((20, 20, 20), slice(2, 18), slice(2, 18), slice(2, 18), value=2)
    volume = np.full_like(labels, 100)
    for opacity in (0.0, 0.4, 1.0):
        pixel = slices(volume, labels, (1, 1, 1), (3, 3, 10), Style(BYTES, opacity))["axial"][SIDE // 2, SIDE // 2]
        assert pixel == pytest.approx(np.array((100,) * 3) * (1 - opacity) + np.array(colour(1)) * opacity, abs=1)


def test_crosshair_marks_the_other_planes():
    pictures = slices(BLANK, BLANK, (1, 1, 1), (15, 10, 10), Style(BYTES, 0))
    for plane, voxels_from_left in {"axial": 4.5, "coronal": 4.5, "sagittal": 9.5}.items():
        pixel = pictures[plane][SIDE // 4, int(voxels_from_left / 20 * SIDE)]
        assert pixel.tolist() == [round(255 * CROSSHAIR)] * 3


def shown(image) -> np.ndarray:
    return grey(image, next(iter(presets(image).values())))


def test_grey_spans_black_to_white_and_takes_constant_images():
    image = np.linspace(0, 3000, 1000).reshape(10, 10, 10)
    assert shown(image).min() == 0 and shown(image).max() == 255
    assert not shown(np.full((3, 3, 3), 7.0)).any()
    assert np.unique(shown(block((50, 50, 50), 3, 3, 3).astype(float))).tolist() == [0, 255]


def test_windows_are_hounsfield_for_ct_and_percentiles_for_the_rest():
    ct = np.linspace(-1000, 1500, 1000).reshape(10, 10, 10)
    assert presets(ct)["soft tissue (400/40)"] == (-160, 240)
    mr = np.linspace(0, 100, 1001).reshape(7, 11, 13)
    assert presets(mr)["10 to 90 %"] == pytest.approx((10, 90)) and presets(mr)["all values"] == (0, 100)


def test_a_click_leads_to_the_voxel_under_it():
    volume, spacing_mm = np.zeros((30, 20, 8), np.uint8), (1.0, 1.5, 5.0)
    for plane, axis in PLANES.items():
        for voxel in ((3, 4, 5), (29, 19, 7), (0, 0, 0)):
            marked = block(volume.shape, *voxel)
            picture = slices(volume, marked, spacing_mm, voxel, Style(BYTES, 1.0))[plane].astype(int)
            rows, columns = np.nonzero(picture[..., 0] - picture[..., 2] > 100)
            start = list(voxel)
            for other in {0, 1, 2} - {axis}:
                start[other] = 2
            pixel = columns.mean(), rows.mean()
            assert voxel_at(plane, pixel, volume.shape, spacing_mm, tuple(start)) == voxel
    assert voxel_at("axial", (0, 0), volume.shape, spacing_mm, (1, 1, 1)) == (29, 19, 1)
    assert voxel_at("axial", (SIDE, SIDE), volume.shape, spacing_mm, (1, 1, 1)) == (0, 0, 1)


def test_the_same_place_of_another_scan_is_as_far_from_its_structures():
    assert same_place((12, 8, 4), (10, 8, 4), (1, 1, 3), (20, 20, 20), (0.5, 1, 1), (40, 40, 40)) == (24, 20, 20)
    assert same_place((12, 8, 9), (10, 8, 4), (1, 1, 3), (20, 20, 20), (0.5, 1, 1), (40, 40, 22)) == (24, 20, 21)


def test_outlines_leave_the_inside_free_and_hidden_classes_are_not_drawn():
    labels = block((20, 20, 20), slice(4, 16), slice(4, 16), slice(4, 16), value=2)
    outline = slices(BLANK, labels, (1, 1, 1), (10, 10, 10), Style(BYTES, 1.0, outline=True))["axial"]
    filled = slices(BLANK, labels, (1, 1, 1), (10, 10, 10), Style(BYTES, 1.0))["axial"]
    quarter = 3 * SIDE // 8
    assert not outline[quarter, quarter].any() and filled[quarter, quarter].tolist() == list(colour(1))
    assert 0 < (outline[..., 2] > 200).sum() < 0.1 * (filled[..., 2] > 200).sum()
    hidden = slices(BLANK, labels, (1, 1, 1), (10, 10, 10), Style(BYTES, 1.0, hidden=(2,)))["axial"]
    assert not hidden[quarter, quarter].any()


def test_best_position_is_where_most_is_labelled():
    labels = block((10, 10, 10), slice(1, 8), 4, 6)
    labels[3, 2:9, 6] = 2
    assert best_position(labels) == (3, 4, 6)
    assert best_position(BLANK[:, :, :5]) == (10, 10, 2)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 4.0)])
def test_a_surface_encloses_the_structure_in_mm(spacing_mm):
    labels = block((12, 12, 12), slice(2, 8), slice(3, 9), slice(0, 12))  # touches the border
    box = mesh(labels, spacing_mm, ("block",)).data[0]
    voxels = ((2, 7), (3, 8), (0, 11))
    for axis, (first, last), step in zip((box.x, box.y, box.z), voxels, spacing_mm, strict=True):
        assert min(axis) == pytest.approx((first - 0.5) * step, abs=1e-4)
        assert max(axis) == pytest.approx((last + 0.5) * step, abs=1e-4)


def test_one_voxel_draws():
    vertices, faces = surface(np.ones((1, 1, 1), bool), (1.0, 1.0, 5.0), 1000)
    size = np.ptp(vertices, 0) / (1, 1, 5)
    assert len(faces) == 8 and np.allclose(vertices.mean(0), 0) and (size >= 1).all() and (size < 1.6).all()


def test_surfaces_stay_within_the_limits_of_a_browser_and_in_place():
    grid = np.indices((200, 200, 200), np.float32) - 99.5
    labels = np.zeros((200, 200, 200), np.uint8)
    labels[(grid**2).sum(0) < 95**2] = 1
    labels[(grid**2).sum(0) < 60**2] = 2
    labels[(grid**2).sum(0) < 30**2] = 3
    figure = mesh(labels, (1, 1, 1), ("a", "b", "c"))
    faces = [len(part.i) for part in figure.data if part.type == "mesh3d"]
    assert len(faces) == 3 and max(faces) <= MAX_FACES_CLASS and sum(faces) <= MAX_FACES
    assert [max(part.x) - min(part.x) for part in figure.data[:3]] == pytest.approx([190, 120, 60], abs=4)
    assert len(figure.to_json()) < 3_000_000


def test_each_class_that_occurs_is_named_and_can_be_hidden():
    labels = block((9, 9, 9), slice(1, 3), slice(1, 3), slice(1, 3))
    labels[5:7, 5:7, 5:7] = 3
    parts = [part for part in mesh(labels, (1, 1, 1), ("one", "absent", "<b>three")).data if part.type == "mesh3d"]
    assert [(part.name, part.color, part.showlegend) for part in parts] == [
        ("one", css(0), True),
        ("&lt;b&gt;three", css(2), True),
    ]


def test_slice_planes_lie_where_the_slices_are_and_hidden_classes_wait_in_the_legend():
    volume = np.zeros((400, 30, 20), np.int16)
    planes = slice_planes(volume, (0.5, 1, 2), (100, 7, 3), (0, 1))
    assert [np.unique(getattr(p, a)).tolist() for p, a in zip(planes, "xyz", strict=True)] == [[50], [7], [6]]
    assert max(p.surfacecolor.shape[0] for p in planes) <= 160 and planes[1].x.max() > 190
    figure = mesh(block((9, 9, 9), slice(1, 3), slice(1, 3), slice(1, 3)), (1, 1, 1), ("one",), (1,), planes)
    assert figure.data[0].visible == "legendonly" and sum(part.type == "surface" for part in figure.data) == 3


def test_an_empty_scan_says_so():
    figure = mesh(BLANK, (1, 1, 1), ("nothing",))
    assert not figure.data and "no structure" in figure.layout.annotations[0].text


def test_palette_is_distinct_and_repeats():
    assert len(set(PALETTE)) == len(PALETTE)
    distances = [np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(PALETTE) for b in PALETTE[:i]]
    assert min(distances) > 40
    assert [colour(i) for i in range(100)] == [PALETTE[i % len(PALETTE)] for i in range(100)]
