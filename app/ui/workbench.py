"""The viewer in the browser (app/ui/viewer): what it is told of a scan, and what a visitor draws in it."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np

from app.drawing import draw, interpolate, read_drawing, smooth
from app.results import Result, Scan
from app.ui.actions import FIELDS, MESSAGE, Actions
from app.ui.tables import ERROR_NAMES, once_corrected, said, scans_table, structures_table
from app.viewers.colours import ERRORS, colour
from app.viewers.volumes import write_labels, write_volume
from iris_core.case import InputError

FOLDER = Path(__file__).parent / "viewer"
ROUTE = "/iris-viewer"
LOAD = (
    f'import(new URL("{ROUTE[1:]}/workbench.js", document.baseURI))'
    ".then(viewer => viewer.mount({element, props, trigger, upload, watch}))"
)
SHOWN_HINT = "Draw what is to be found, or correct the mask: a few slices and Interpolate are enough."
FOUND_HINT = "Correct what was found, then press Show it again below."
NO_WEBGL = (
    "This browser has no WebGL2 graphics: the server draws the slices, and a mask has to be drawn in another program."
)


class Workbench:
    """Events of the viewer. Like the others', each leads from a visitor's token to their result."""

    def __init__(self, actions: Actions) -> None:
        self.actions, self.sessions = actions, actions.sessions

    def loaded(self, event: gr.EventData):
        """Where the browser cannot draw slices the server does: whether it does, the server's slices, the viewer, a
        remark."""
        told = event._data
        if not isinstance(told, dict) or told.get("webgl2"):
            return [gr.skip()] * 4
        return True, gr.Column(visible=True), gr.HTML(visible=False), gr.HTML(said("warn", NO_WEBGL), visible=True)

    def selected(self, event: gr.EventData, token, scan, *sliders):
        """The crosshair has moved: the sliders, which count from 1, as the viewers' positions do."""
        if scan is None:
            return gr.skip()
        shown = self.actions.result(token).scans[scan]
        try:
            there = event._data["id"] == identity(shown)
            x, y, z = (
                min(max(0, int(i)), n - 1) + 1 for i, n in zip(event._data["at"], shown.image.shape, strict=True)
            )
        except (KeyError, TypeError, ValueError):  # not from our viewer
            return gr.skip()
        return (z, y, x) if there else gr.skip()

    def drew(self, event: gr.EventData, request: gr.Request, token, *inputs):
        """A drawing has come: masks, names and checks of step 1, the structures, the tables, what to do next, extras to
        take away."""
        _, said_of = self._drawn(event._data, request, token, inputs)
        return said_of

    def helped(self, event: gr.EventData, request: gr.Request, token, *inputs):
        """The same, with slices filled or edges smoothed: the viewer's value before all that."""
        told = event._data

        def help_with(labels: np.ndarray) -> np.ndarray:
            structure = int(told["structure"]) + 1
            try:
                if told["action"] == "interpolate":
                    return interpolate(labels, structure, told["axis"])
                return smooth(labels, structure)
            except InputError as error:
                gr.Warning(str(error), **MESSAGE)
                return labels

        number, said_of = self._drawn(told, request, token, inputs, help_with)
        return value(self.actions.result(token), number), *said_of

    def _drawn(
        self,
        told: dict,
        request: gr.Request,
        token,
        inputs: tuple,
        help_with: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> tuple[int, tuple]:
        """Keep a drawing, perhaps helped: the number of its scan, and what ``drew`` returns."""
        result = self.actions.result(token)
        try:
            number = next(i for i, scan in enumerate(result.scans) if identity(scan) == told["id"] and may_draw(scan))
            path, structures = Path(told["path"]).resolve(), told["structures"]
            names = tuple(str(each["name"]) for each in structures)
        except (StopIteration, KeyError, TypeError) as error:
            gone = InputError("This scan is no longer shown; choose it again to draw on it")
            raise self.actions.error(gone) from error
        scan = result.scans[number]
        if path.parent.parent != self.sessions.root or not path.is_file():
            raise self.actions.error(InputError("The drawing did not arrive; draw a stroke, and it is sent again"))
        self.sessions.note_uploads(request.session_hash, [path])
        try:
            labels = read_drawing(path, scan.image.shape, len(names))
            labels = help_with(labels) if help_with else labels
            result, mask = draw(result, number, labels, names, self._folder(request, scan))
            self.sessions.note_uploads(request.session_hash, [mask])
        except InputError as error:
            raise self.actions.error(error) from error
        if help_with:
            changed = replace(result.scans[number], helped=scan.helped + 1)
            result = replace(result, scans=(*result.scans[:number], changed, *result.scans[number + 1 :]))
        self.sessions.change(token, result)
        if not scan.reference:
            self.sessions.desk(request.session_hash).corrected[scan.uploads[0]] = mask
            return number, (gr.skip(), gr.skip(), gr.skip(), *self._seen(result, number))
        masks, known = list(inputs[1] or ()), str(scan.mask)
        if known in masks:
            masks[masks.index(known)] = str(mask)
        else:
            masks.append(str(mask))
        names = " ".join(f"{number}={name}" for name, number in result.classes.items())
        if masks == inputs[1] and names == inputs[2]:
            return number, (gr.skip(), gr.skip(), gr.skip(), *self._seen(result, number))
        inputs = inputs[0], masks, names, *inputs[3:]
        self.sessions.desk(request.session_hash).fields = inputs[:FIELDS]
        checks = self.actions.look_before(request, *inputs)
        return number, (masks, names, checks, *self._seen(result, number))

    def _seen(self, result: Result, number: int) -> tuple:
        """Structures, the scan's table, all scans' table, what to do next, extras to take away."""
        scan = result.scans[number]
        names = list(result.names)
        return (
            gr.CheckboxGroup(choices=names, value=names),
            structures_table(result, scan),
            scans_table(result),
            gr.skip() if scan.reference else once_corrected(result),
            gr.skip() if scan.reference else [str(path) for path in result.extras],
        )

    def _folder(self, request: gr.Request, scan: Scan) -> Path:
        return self.sessions.drawings(request.session_hash, identity(scan))


def identity(scan: Scan) -> str:
    """The same for the same upload, whatever was found in it since: the viewer need not load it again."""
    return f"{'reference' if scan.reference else 'query'} {scan.uploads[0].parent.name} {scan.name}"


def may_draw(scan: Scan) -> bool:
    return scan.reference or scan.found


def value(result: Result, number: int) -> dict:
    """What the viewer is told of a scan; see workbench.js. Its files are written once."""
    scan = result.scans[number]
    marked = f"{scan.drawn}-{len(result.names)}"

    def layer(name: str, legend: dict, labels: Callable[[], np.ndarray]) -> dict:
        url = _file(scan, f"{name}-{marked}", lambda path: write_labels(labels(), scan.affine, path))
        colours = [{"name": name, "colour": _hex(rgb)} for name, rgb in legend.items()]
        return {"name": name, "url": url, "legend": colours, "on": name == "who found it"}

    layers = [layer(each.name, each.legend, lambda each=each: each.labels) for each in scan.layers]
    if scan.truth is not None:
        layers.insert(0, layer("errors", dict(zip(ERROR_NAMES, ERRORS, strict=True)), lambda: scan.errors))
    hint = SHOWN_HINT if scan.reference else FOUND_HINT
    return {
        "id": identity(scan),
        "image": _file(scan, "image", partial(write_volume, scan.image, scan.affine)),
        "windows": {name: list(window) for name, window in scan.windows.items()},
        "structures": structures(result.names),
        "mask": _file(scan, f"labels-{marked}", partial(write_labels, scan.labels, scan.affine)),
        "mask_revision": f"{scan.stem.parent.name} {scan.stem.name} {scan.helped}",
        "layers": layers,
        "draw": {"hint": hint} if may_draw(scan) else None,
        "at": list(scan.middle),
    }


def structures(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"name": name, "colour": _hex(colour(i))} for i, name in enumerate(names)]


def _file(scan: Scan, what: str, write: Callable[[Path], None]) -> str:
    """Its address, below the page's."""
    path = scan.stem.with_name(f"{scan.stem.name}-{what.replace(' ', '-')}.nii.gz")
    if not path.exists():
        write(path)
    return f"gradio_api/file={path}"


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
