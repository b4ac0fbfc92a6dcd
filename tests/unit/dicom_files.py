"""Tiny DICOM files: a CT series, the structures and the segmentation of it."""

import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
SPACING = (0.5, 0.75, 3.0)  # between columns, between rows, between slices
ORIGIN = (-10.0, 20.0, 100.0)


def write_series(
    folder, hounsfield, series=None, flip_numbers=False, modality="CT", positions=None, prefix="1-"
):
    """A series of an array (slices, rows, columns); slice 0 lies lowest. Returns the data sets in that order.

    ``flip_numbers`` counts InstanceNumber from the top, as some scanners do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = series or generate_uid(), generate_uid(), generate_uid()
    slices = []
    for k, pixels in enumerate(hounsfield):
        number = len(hounsfield) - k if flip_numbers else k + 1
        ds = _empty(CT_STORAGE)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.Modality, ds.InstanceNumber, ds.PatientID, ds.PatientName = modality, number, "p", "p"
        ds.SeriesNumber, ds.StudyID, ds.StudyDate, ds.StudyTime = 1, "1", "20200101", "120000"
        ds.AccessionNumber = ds.PatientBirthDate = ds.PatientSex = ds.ReferringPhysicianName = ""
        depth = ORIGIN[2] + k * SPACING[2] if positions is None else positions[k]
        ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], depth]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = (pixels + 1024).astype(np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{prefix}{number:03d}.dcm", ds, enforce_file_format=True)
        slices.append(ds)
    return slices


def write_structures(path, slices, structures, kind="CLOSED_PLANAR"):
    """An RTSTRUCT. ``structures`` is name -> list of contours, each (slice, [(x, y) in mm, ...])."""
    ds = _empty(RTSTRUCT_STORAGE)
    ds.Modality, ds.SeriesInstanceUID, ds.StudyInstanceUID = (
        "RTSTRUCT",
        generate_uid(),
        slices[0].StudyInstanceUID,
    )
    series = Dataset()
    series.SeriesInstanceUID = slices[0].SeriesInstanceUID
    study, frame = Dataset(), Dataset()
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for slice_, points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            depth = ORIGIN[2] + slice_ * SPACING[2]
            contour.ContourData = [float(v) for x, y in points for v in (x, y, depth)]
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def write_segmentation(path, slices, segments):
    """A DICOM-SEG. ``segments`` is name -> array of the shape of the series."""
    hd = pytest.importorskip("highdicom", reason="needs the extra 'convert'")
    from pydicom.sr.codedict import codes

    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n, name in enumerate(segments, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of highdicom, when it writes; reading is ours
        seg = hd.seg.Segmentation(
            source_images=slices,
            pixel_array=np.stack(list(segments.values()), axis=-1).astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=hd.UID(),
            series_number=2,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="m",
            manufacturer_model_name="m",
            software_versions="1",
            device_serial_number="1",
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        seg.save_as(path)
    return path


def rectangle(row, column, rows, columns):
    """Contour round the centres of a rectangle of pixels, in mm."""
    x = [ORIGIN[0] + (column + d) * SPACING[0] for d in (-0.4, columns - 0.6)]
    y = [ORIGIN[1] + (row + d) * SPACING[1] for d in (-0.4, rows - 0.6)]
    return [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]


def _empty(storage):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = storage, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = storage, ds.SOPInstanceUID
    return ds
