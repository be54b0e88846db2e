"""Iris in napari: one layer and its labels are shown, the same structures are found in other layers."""
