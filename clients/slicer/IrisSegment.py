"""3D Slicer's module: choose a volume with its segmentation and other volumes, press Segment.

Not tested in Slicer itself; what it does with voxels is, see iris_slicer.
"""

from pathlib import Path

import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

CLIENT = Path(__file__).resolve().parents[1] / "python"


class IrisSegment(ScriptedLoadableModule):
    def __init__(self, parent) -> None:
        super().__init__(parent)
        parent.title = "Iris: show one, segment the rest"
        parent.categories = ["Segmentation"]
        parent.helpText = "Segments volumes as one volume's segmentation shows, by an `iris serve`. Research only."


class IrisSegmentWidget(ScriptedLoadableModuleWidget):
    def setup(self) -> None:
        super().setup()
        self.reference = self._nodes("vtkMRMLScalarVolumeNode", slicer.qMRMLNodeComboBox())
        self.shown = self._nodes("vtkMRMLSegmentationNode", slicer.qMRMLNodeComboBox())
        self.queries = self._nodes("vtkMRMLScalarVolumeNode", slicer.qMRMLCheckableNodeComboBox())
        self.address, self.token = qt.QLineEdit("http://127.0.0.1:7860"), qt.QLineEdit()
        self.token.setEchoMode(qt.QLineEdit.Password)
        run = qt.QPushButton("Segment")
        run.connect("clicked()", self.segment)
        form = qt.QFormLayout()
        form.addRow("Reference", self.reference)
        form.addRow("Its segmentation", self.shown)
        form.addRow("Segment in", self.queries)
        form.addRow("Server", self.address)
        form.addRow("Token, if it has one", self.token)
        form.addRow(run)
        self.layout.addLayout(form)
        self.layout.addStretch(1)

    @staticmethod
    def _nodes(kind: str, chooser):
        chooser.nodeTypes = [kind]
        chooser.addEnabled = chooser.removeEnabled = False
        chooser.setMRMLScene(slicer.mrmlScene)
        return chooser

    def segment(self) -> None:
        """One segmentation node for each query. What goes wrong is shown in a dialogue."""
        with slicer.util.tryWithErrorDisplay("Nothing was segmented.", waitCursor=True):
            try:
                import iris_client
            except ModuleNotFoundError:
                slicer.util.pip_install(str(CLIENT))
                import iris_client
            from iris_slicer.voxels import found_segments, query_case, reference_case

            reference, shown, queries = (
                self.reference.currentNode(),
                self.shown.currentNode(),
                self.queries.checkedNodes(),
            )
            if not (reference and shown and queries):
                raise ValueError("choose a reference, its segmentation and at least one other volume")
            example = reference_case(*_volume(reference), _segments(shown, reference))
            with iris_client.Client(self.address.text, self.token.text or None) as client:
                task = client.encode(example)
                for query in queries:
                    found = found_segments(client.segment(task, query_case(*_volume(query))), example.classes)
                    _add(found, query, shown)


def _volume(node) -> tuple:
    """Voxels (k, j, i), 4×4 from IJK to RAS, name. A transform above the volume is left out: harden it first."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVolume(node), slicer.util.arrayFromVTKMatrix(matrix), node.GetName()


def _segments(node, volume) -> list:
    """Each segment's name and mask (k, j, i) on a volume's grid."""
    segmentation = node.GetSegmentation()
    return [
        (segmentation.GetSegment(id_).GetName(), slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, volume))
        for id_ in segmentation.GetSegmentIDs()
    ]


def _add(found: list, query, shown) -> None:
    """A segmentation node at a query's place, in the colours of what was shown."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{query.GetName()}: {shown.GetName()}")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(query)
    colours = shown.GetSegmentation()
    for name, mask in found:
        colour = colours.GetSegment(colours.GetSegmentIdBySegmentName(name)).GetColor()
        id_ = node.GetSegmentation().AddEmptySegment("", name, colour)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, id_, query)
