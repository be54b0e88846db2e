"""The widget: what is shown, what is to be segmented, where the server is."""

from collections.abc import Iterator

import napari
import numpy as np
from magicgui.widgets import ComboBox, Container, Label, LineEdit, Password, PushButton, Select
from napari.layers import Image, Labels
from napari.qt.threading import thread_worker

from iris_client import Case, Client, InputError
from napari_iris.layers import query_case, reference_case, result_layer


class Segment(Container):
    """Runs in a thread; each result becomes a layer as soon as it is there."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self.viewer = viewer
        self.reference = ComboBox(label="Reference", choices=self._layers(Image))
        self.shown = ComboBox(label="Its labels", choices=self._layers(Labels))
        self.queries = Select(label="Segment in", choices=self._layers(Image))
        self.address = LineEdit(label="Server", value="http://127.0.0.1:7860")
        self.token = Password(label="Token, if it has one")
        self.run = PushButton(text="Segment")
        self.said = Label(value="Research only, not for diagnosis.")
        self.said.native.setWordWrap(True)
        self.run.changed.connect(self.segment)
        super().__init__(
            widgets=[self.reference, self.shown, self.queries, self.address, self.token, self.run, self.said]
        )

    def _layers(self, kind: type):
        return lambda _: [layer for layer in self.viewer.layers if isinstance(layer, kind)]

    def segment(self) -> None:
        """Send the layers as they are now. What is wrong with them is said in the widget."""
        reference, shown, queries = self.reference.value, self.shown.value, self.queries.value
        if reference is None or shown is None or not queries:
            self.said.value = "Choose a reference, its labels and at least one other layer."
            return
        try:
            cases = reference_case(reference, shown), [query_case(query) for query in queries]
        except InputError as error:
            self.said.value = str(error)
            return
        worker = _work(self.address.value, self.token.value or None, *cases)
        worker.yielded.connect(lambda found: self._add(found, queries, shown))
        worker.errored.connect(lambda error: setattr(self.said, "value", str(error)))
        worker.finished.connect(lambda: setattr(self.run, "enabled", True))
        self.run.enabled = False
        self.said.value = f"Encoding {reference.name} …"
        worker.start()

    def _add(self, found: tuple[int, np.ndarray], queries: list[Image], shown: Labels) -> None:
        number, labels = found
        self.viewer.add_layer(result_layer(labels, queries[number], shown))
        self.said.value = f"{number + 1} of {len(queries)} segmented."


@thread_worker(ignore_errors=True)  # they are said in the widget
def _work(address: str, token: str | None, reference: Case, queries: list[Case]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of each query with its labels (x, y, z)."""
    with Client(address, token) as client:
        task = client.encode(reference)
        for number, query in enumerate(queries):
            yield number, client.segment(task, query)
