"""What the module does with voxels; nothing here imports Slicer, so that it can be tested without."""
