"""What the page shows of a result: slices, the reference beside them, surfaces, figures, pictures to take away."""

import hashlib
import secrets
import shutil
from collections.abc import Callable
from functools import wraps

import gradio as gr
from PIL import Image

from app import exports
from app.results import Layer, Result, Scan
from app.ui.actions import Actions
from app.ui.tables import ERROR_NAMES, legend, structures_table
from app.ui.workbench import value
from app.viewers.colours import ERRORS, colour
from app.viewers.mesh import mesh, slice_planes
from app.viewers.slices import PLANES, Style, grey, same_place, slices, voxel_at
from iris_core.files import WriteError
from nnunet_adapters.images import stem

GALLERY_FROM = 3  # scans: below, the list is enough


def while_kept(view: Callable) -> Callable:
    """A view whose result is deleted while it draws ends like one that comes too late."""

    @wraps(view)
    def drawn(self, token, *values):
        try:
            return view(self, token, *values)
        except (FileNotFoundError, WriteError):
            self.actions.result(token)
            raise

    return drawn


class Views:
    """Events that look at a result; each begins with the visitor's token."""

    def __init__(self, actions: Actions) -> None:
        self.actions = actions

    @while_kept
    def show(self, token, scan, flat, opacity, visible, compare, planes):
        """Another scan: the viewer, sliders, window, kinds of masks, surfaces, table, slices, the reference. None: a
        run without a result. flat: whether the server draws the slices."""
        if scan is None:
            return gr.skip()
        result = self.actions.result(token)
        shown = result.scans[scan]
        window = next(iter(shown.windows))
        kinds = ["fill", "outline", *(["errors"] if shown.truth is not None else []), *(y.name for y in shown.layers)]
        sliders = (gr.Slider(value=shown.middle[a] + 1, maximum=max(2, shown.image.shape[a])) for a in PLANES.values())
        return (
            gr.skip() if flat else value(result, scan),
            *sliders,
            gr.Dropdown(list(shown.windows), value=window),
            gr.Radio(kinds, value="fill"),
            gr.Checkbox(visible=_reference(result) is not None),
            surfaces(result, shown, shown.middle, window, visible, planes),
            structures_table(result, shown),
            *both(result, scan, shown.middle, (window, "fill", opacity, visible), compare, flat),
        )

    @while_kept
    def gallery(self, token):
        """A small picture of each scan, where there are several queries."""
        if token is None:
            return gr.skip()
        result = self.actions.result(token)
        small = []
        for i, scan in enumerate(result.scans):
            style = Style(scan.window())
            small.append((_saved(result, i, scan.middle, style)["axial"], scan.title))
        return gr.Gallery(small, visible=len(small) >= GALLERY_FROM)

    def legend(self, token, scan, kind):
        """What the colours mean, where they are not those of the structures."""
        if scan is None:
            return gr.skip()
        result = self.actions.result(token)
        layer = marked(result, result.scans[scan], kind)
        return gr.HTML(legend(layer), visible=list(layer.legend) != list(result.names))

    def pick(self, at: gr.SelectData) -> int:
        """The scan whose small picture was chosen."""
        return at.index

    def row(self, token, at: gr.SelectData):
        """The scan whose row of the table was chosen."""
        titles = [scan.title for scan in self.actions.result(token).scans]
        return titles.index(at.row_value[0]) if at.row_value[0] in titles else gr.skip()

    @while_kept
    def move(self, token, scan, flat, axial, coronal, sagittal, window, kind, opacity, visible, compare):
        """The slices at the sliders' positions, which count from 1."""
        if scan is None:
            return gr.skip()
        result = self.actions.result(token)
        position = _position(result.scans[scan], axial, coronal, sagittal)
        return both(result, scan, position, (window, kind, opacity, visible), compare, flat)

    def click(self, plane: str):
        """The event of a click into one plane's picture: all sliders, all slices."""

        def clicked(
            token, scan, flat, axial, coronal, sagittal, window, kind, opacity, visible, compare, at: gr.SelectData
        ):
            if scan is None:
                return gr.skip()
            shown = self.actions.result(token).scans[scan]
            position = _position(shown, axial, coronal, sagittal)
            position = voxel_at(plane, tuple(at.index), shown.image.shape, shown.spacing_mm, position)
            sliders = [position[a] + 1 for a in PLANES.values()]
            return *sliders, *self.move(token, scan, flat, *sliders, window, kind, opacity, visible, compare)

        return clicked

    @while_kept
    def turn(self, token, scan, axial, coronal, sagittal, window, visible, planes):
        """The surfaces again."""
        if scan is None:
            return gr.skip()
        result = self.actions.result(token)
        shown = result.scans[scan]
        return surfaces(result, shown, _position(shown, axial, coronal, sagittal), window, visible, planes)

    def follow(self, *values):
        """The surfaces again where slice planes are drawn: values as for ``turn``."""
        return self.turn(*values) if values[-1] else gr.skip()

    @while_kept
    def take(self, token, scan):
        """A picture and the surfaces of one scan as files."""
        if scan is None:
            return gr.skip()
        result = self.actions.result(token)
        shown = result.scans[scan]
        folder = shown.stem.with_name(f"{shown.stem.name}-views")
        folder.mkdir(exist_ok=True)
        name = "reference" if shown.reference else stem(shown.mask or shown.source)
        window = shown.window()
        title = f"Iris, research only. {shown.title}"
        picture, html = folder / f"{name}.png", folder / f"{name}.html"
        try:
            exports.preview(grey(shown.image, window), shown.labels, shown.spacing_mm, result.names, title, picture)
            exports.write_html(mesh(shown.labels, shown.spacing_mm, result.names), html)
        finally:
            try:
                self.actions.result(token)
            except gr.Error:  # the visitor left meanwhile
                shutil.rmtree(result.folder, ignore_errors=True)
                raise
        return [str(picture), str(html)]


def surfaces(result: Result, shown: Scan, position, window: str, visible: list[str], planes: bool):
    cuts = slice_planes(shown.image, shown.spacing_mm, position, shown.window(window)) if planes else ()
    return mesh(shown.labels, shown.spacing_mm, result.names, _hidden(result, visible), cuts)


def both(result: Result, scan: int, position: tuple[int, int, int], look: tuple, compare: bool, flat: bool) -> list:
    """The three slices of a scan, if ``flat``; then those of the reference at the same place, or nothing."""
    window, kind, opacity, visible = look
    shown, hidden = result.scans[scan], _hidden(result, visible)
    layer = marked(result, shown, kind)
    colours = list(layer.legend.values())
    hidden_here = hidden if list(layer.legend) == list(result.names) else ()
    style = Style(shown.window(window), opacity, kind == "outline", hidden_here, lambda i: colours[i])
    pictures = [*_saved(result, scan, position, style, layer).values()] if flat else [gr.skip()] * 3
    if not compare or (there := _reference(result)) is None:
        return [*pictures, None, None, None]
    other = result.scans[there]
    place = same_place(position, shown.middle, shown.spacing_mm, other.middle, other.spacing_mm, other.image.shape)
    return [
        *pictures,
        *_saved(result, there, place, Style(other.window(window), opacity, kind == "outline", hidden)).values(),
    ]


def marked(result: Result, shown: Scan, kind: str) -> Layer:
    """What is drawn over a scan: one of its layers, its errors against the truth, or its labels."""
    if kind == "errors" and shown.truth is not None:
        return Layer(kind, shown.errors, dict(zip(ERROR_NAMES, ERRORS, strict=True)))
    plain = Layer("labels", shown.labels, {name: colour(i) for i, name in enumerate(result.names)})
    return next((layer for layer in shown.layers if layer.name == kind), plain)


def _saved(result: Result, scan: int, position, style: Style, layer: Layer | None = None) -> dict[str, str]:
    """Plane → PNG file in the result's folder. Those that are there may be on their way to the browser: they stay."""
    shown = result.scans[scan]
    labels, what = (layer.labels, layer.name) if layer else (shown.labels, "labels")
    drawn = repr((shown.stem.name, position, style.window, style.opacity, style.outline, style.hidden, what))
    name = hashlib.sha256(drawn.encode()).hexdigest()[:16]
    files = {plane: result.folder / f"{plane}-{name}.png" for plane in PLANES}
    if not all(file.exists() for file in files.values()):
        for plane, rgb in slices(shown.image, labels, shown.spacing_mm, position, style).items():
            temporary = result.folder / f"{secrets.token_hex(8)}.png"
            Image.fromarray(rgb).save(temporary)
            temporary.replace(files[plane])
    return {plane: str(file) for plane, file in files.items()}


def _position(shown: Scan, axial: float, coronal: float, sagittal: float) -> tuple[int, int, int]:
    """The sliders' positions, which count from 1, as a voxel."""
    return tuple(min(int(p), n) - 1 for p, n in zip((sagittal, coronal, axial), shown.image.shape, strict=True))


def _hidden(result: Result, visible: list[str]) -> tuple[int, ...]:
    return tuple(i for i, name in enumerate(result.names, 1) if name not in visible)


def _reference(result: Result) -> int | None:
    """The first reference among the scans, if there is one."""
    return next((i for i, scan in enumerate(result.scans) if scan.reference), None)
