"""Synthetic DICOM series."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)
SHAPE = (9, 7, 5)  # x, y, z


def rotated(degrees=(20, -35, 50)) -> tuple[float, ...]:
    """Row and column directions of an oblique acquisition."""
    x, y, z = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turn = about_z @ about_y @ about_x
    return (*turn[:, 0], *turn[:, 1])


def noise() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(-1000, 1000, SHAPE[1::-1], np.int16).T for _ in range(SHAPE[2])], -1)


def write_series(
    folder: Path, orientation=AXIAL, backwards=False, volume=None, spacing_mm=(0.5, 0.75, 3), **tags
) -> Path:
    """A CT, of noise if there is no volume (x, y, z) of int16. backwards: instance numbers. Names are in no order."""
    folder.mkdir(parents=True)
    study, series, frame = (generate_uid() for _ in range(3))
    normal = np.cross(orientation[:3], orientation[3:])
    volume = noise() if volume is None else volume
    columns, rows, slices = volume.shape
    names = np.random.default_rng(1).permutation(slices)
    for k in range(slices):
        part = Dataset()
        part.file_meta = FileMetaDataset()
        part.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        part.file_meta.MediaStorageSOPClassUID = part.SOPClassUID = CTImageStorage
        part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID = generate_uid()
        part.StudyInstanceUID, part.SeriesInstanceUID, part.FrameOfReferenceUID = study, series, frame
        part.Modality, part.PatientID, part.PatientName = "CT", "7", "Test^Patient"
        part.InstanceNumber = slices - k if backwards else k + 1
        part.ImageOrientationPatient = [round(float(v), 9) for v in orientation]
        part.ImagePositionPatient = [round(float(v), 6) for v in np.array([-20, 31, 4]) + spacing_mm[2] * k * normal]
        part.PixelSpacing, part.SliceThickness = list(spacing_mm[1::-1]), spacing_mm[2]  # between rows, columns
        part.Rows, part.Columns, part.SamplesPerPixel, part.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
        part.BitsAllocated, part.BitsStored, part.HighBit, part.PixelRepresentation = 16, 16, 15, 1
        part.PixelData = np.ascontiguousarray(volume[..., k].T, np.int16).tobytes()
        for keyword, value in tags.items():
            setattr(part, keyword, value)
        part.save_as(folder / f"{names[k]}.dcm", enforce_file_format=True)
    return folder
