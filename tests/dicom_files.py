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


def write_series(folder: Path, orientation=AXIAL, order=(3, 0, 4, 1, 2), backwards=False, **tags) -> Path:
    """A CT of SHAPE, 0.5 × 0.75 × 3 mm. order: number in the file names of each slice; backwards: instance numbers."""
    folder.mkdir(parents=True)
    rng, study, series, frame = np.random.default_rng(0), *(generate_uid() for _ in range(3))
    normal = np.cross(orientation[:3], orientation[3:])
    for k in range(SHAPE[2]):
        part = Dataset()
        part.file_meta = FileMetaDataset()
        part.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        part.file_meta.MediaStorageSOPClassUID = part.SOPClassUID = CTImageStorage
        part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID = generate_uid()
        part.StudyInstanceUID, part.SeriesInstanceUID, part.FrameOfReferenceUID = study, series, frame
        part.Modality, part.PatientID, part.PatientName = "CT", "7", "Test^Patient"
        part.InstanceNumber = SHAPE[2] - k if backwards else k + 1
        part.ImageOrientationPatient = [round(float(v), 9) for v in orientation]
        part.ImagePositionPatient = [round(float(v), 6) for v in np.array([-20, 31, 4]) + 3 * k * normal]
        part.PixelSpacing, part.SliceThickness = [0.75, 0.5], 3  # between rows, between columns
        part.Rows, part.Columns, part.SamplesPerPixel, part.PhotometricInterpretation = 7, 9, 1, "MONOCHROME2"
        part.BitsAllocated, part.BitsStored, part.HighBit, part.PixelRepresentation = 16, 16, 15, 1
        part.PixelData = rng.integers(-1000, 1000, (7, 9), np.int16).tobytes()
        for keyword, value in tags.items():
            setattr(part, keyword, value)
        part.save_as(folder / f"{order[k]}.dcm", enforce_file_format=True)
    return folder
