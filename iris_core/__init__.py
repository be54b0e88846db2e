"""The method: Iris, in-context 3D medical image segmentation (CVPR 2025)."""

__version__ = "0.4.0"
