"""Read whatever people have into SimpleITK images, and write those so that nnU-Net can read them.

A SimpleITK image carries pixels and geometry together, in two or three dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.errors import DataError, reason

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl")
JPEG = (".jpg", ".jpeg")
PICTURES = (".png", *JPEG, ".bmp", ".tif", ".tiff")
ARRAYS = (".h5", ".hdf5", ".npz")
READ_BY_NNUNET = (".nii.gz", ".nrrd", ".mha", ".gipl", ".png", ".bmp", ".tif")  # .nii: by nibabel only

Axes = Literal["xyz", "zyx"]


def ending_of(path: Path) -> str:
    """File ending in lower case; ``.nii.gz`` counts as one.

    >>> ending_of(Path("scan.001.NII.GZ"))
    '.nii.gz'
    """
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def stem_of(path: Path) -> str:
    """File name without its ending."""
    return path.name[: len(path.name) - len(ending_of(path))]


def read_file(path: Path) -> sitk.Image:
    """Read a volume or a picture.

    Raises:
        DataError: the file is unreadable or of an unknown kind.
    """
    ending = ending_of(path)
    if ending in VOLUMES:
        return read_volume(path)
    if ending in PICTURES:
        return read_picture(path, gray=False)
    raise DataError(f"{path} is of no kind that can be read: expected {', '.join((*VOLUMES, *PICTURES))}.")


def read_volume(path: Path) -> sitk.Image:
    """Read a volume; NIfTI headers whose axes are not quite orthogonal are straightened.

    Raises:
        DataError: the file is unreadable, has more than three dimensions, or axes far from orthogonal.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" not in str(error):
            raise DataError(f"{path} is unreadable: {reason(error)}") from error
        return _straightened(path)
    size = image.GetSize()
    if len(size) > 3 and all(n == 1 for n in size[3:]):  # a fourth dimension that holds one volume
        image = sitk.Extract(image, [*size[:3], *(0 for _ in size[3:])])
    if image.GetDimension() > 3:
        raise DataError(
            f"{path} has the shape {size}: expected two or three dimensions. Split it into one file per "
            "channel or frame first."
        )
    return image


def read_frame(path: Path, frame: int) -> sitk.Image:
    """Read one volume of a four-dimensional NIfTI file; header axes are straightened where need be.

    Raises:
        DataError: the file is unreadable or has no such frame.
    """
    return _straightened(path, frame)


def read_picture(path: Path, gray: bool = True) -> sitk.Image:
    """Read a two-dimensional picture: one channel, or three (``gray=False``) where it has colours.

    Colours that are all alike count as gray. Transparency is dropped; gray is the luminance (ITU-R 601).
    """
    from skimage import io

    try:
        pixels = np.asarray(io.imread(path))
    except Exception as error:  # each of the libraries beneath fails in its own way
        raise DataError(f"{path} is unreadable: {reason(error)}") from error
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[-1] == 3):
        raise DataError(f"{path} has the shape {pixels.shape}: expected one picture, gray or with colours.")
    return from_picture(pixels, gray)


def read_label_picture(path: Path, gray: bool = True) -> sitk.Image:
    """Read a picture of a label map: of a coloured palette the numbers, else as ``read_picture`` does."""
    numbers = _palette_numbers(path)
    return read_picture(path, gray) if numbers is None else sitk.GetImageFromArray(numbers)


def from_picture(pixels: np.ndarray, gray: bool = True) -> sitk.Image:
    """Image of an array (rows, columns) or (rows, columns, 3)."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.ndim == 2:
        return sitk.GetImageFromArray(pixels)
    if (pixels == pixels[..., :1]).all():
        return sitk.GetImageFromArray(np.ascontiguousarray(pixels[..., 0]))
    if gray:
        luminance = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)
        return sitk.GetImageFromArray(np.rint(luminance).astype(pixels.dtype))
    return sitk.GetImageFromArray(pixels, isVector=True)


def read_mask(paths: Sequence[Path], above: float = 0) -> sitk.Image:
    """The union of several mask files of one scan: 1 where any of them is above ``above``, else 0.

    Args:
        paths: one file or more, of the same size.
        above: 0 for clean masks; half brightness for those stored as JPEG, whose edges are blurred.
    """
    union: sitk.Image | None = None
    for path in paths:
        picture = ending_of(path) in PICTURES
        mask = read_label_picture(path) if picture else read_volume(path)
        mask = sitk.Cast(mask > above, sitk.sitkUInt8)
        if union is not None and union.GetSize() != mask.GetSize():
            raise DataError(f"{path} has the size {mask.GetSize()}, but {paths[0]} has {union.GetSize()}.")
        union = mask if union is None else sitk.Or(union, mask)
    if union is None:
        raise DataError("Expected at least one mask file, got none.")
    return union


def read_array(path: Path, key: str, axes: Axes = "xyz", spacing: Sequence[float] = ()) -> sitk.Image:
    """Read one array of an HDF5 or NumPy file.

    Args:
        path: ``.h5``, ``.hdf5`` or ``.npz``.
        key: name of the array in it.
        axes: order of its axes; two-dimensional arrays are (rows, columns) for ``zyx``.
        spacing: in mm, in the order x, y, z; 1 if it is not known.

    Raises:
        DataError: the file is unreadable or lacks the array, or the array is no image.
    """
    array = _load_array(path, key)
    if array.ndim not in (2, 3):
        raise DataError(f"{path}: '{key}' has the shape {array.shape}: expected two or three dimensions.")
    image = from_array(array, axes)
    if spacing:
        image.SetSpacing([float(s) for s in spacing][: array.ndim])
    return image


def from_array(array: np.ndarray, axes: Axes) -> sitk.Image:
    """Image of an array whose axes are in the order named."""
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return sitk.GetImageFromArray(np.ascontiguousarray(array.T if axes == "xyz" else array))


def array_keys(path: Path) -> list[str]:
    """Names of the arrays in an HDF5 or NumPy file."""
    try:
        if ending_of(path) == ".npz":
            with np.load(path) as file:
                return list(file.files)
        with _h5py().File(path, "r") as file:
            return [key for key in file if hasattr(file[key], "shape")]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is unreadable: {reason(error)}") from error


def write_image(image: sitk.Image, path: Path) -> None:
    """Write so that ``path`` is either absent or whole; types that nnU-Net's formats lack become float32."""
    temporary = path.with_name(f".tmp-{path.name}")
    if image.GetPixelID() in (sitk.sitkFloat64, sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkUInt32):
        image = sitk.Cast(image, sitk.sitkFloat32)
    try:
        sitk.WriteImage(image, str(temporary), True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _palette_numbers(path: Path) -> np.ndarray | None:
    """Numbers of a picture's colours; ``None`` without a palette, or with a gray one, which holds values."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            palette = np.reshape(picture.getpalette() or [], (-1, 3)) if picture.mode == "P" else np.empty(0)
            return np.array(picture) if (palette != palette[..., :1]).any() else None
    except (OSError, Image.DecompressionBombError):  # not for PIL: others read it, or say why not
        return None


def _load_array(path: Path, key: str) -> np.ndarray:
    keys = array_keys(path)
    if key not in keys:
        raise DataError(f"{path} holds no '{key}'. It holds: {', '.join(keys) or 'nothing'}.")
    try:
        if ending_of(path) == ".npz":
            with np.load(path) as file:
                return np.asarray(file[key])
        with _h5py().File(path, "r") as file:
            return np.asarray(file[key][()])
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is unreadable: {reason(error)}") from error


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError("HDF5 files need h5py. Install it: pip install h5py") from error
    return h5py


def _straightened(path: Path, frame: int | None = None) -> sitk.Image:
    """A NIfTI volume with the orthonormal axes that are nearest to those of its header (polar form)."""
    import nibabel

    try:
        nifti: Any = nibabel.load(path)
        pixels = nifti.dataobj if frame is None else nifti.dataobj[..., frame]
        array = np.asanyarray(pixels).T
    except (OSError, EOFError, IndexError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        where = f"{path}" if frame is None else f"{path}, frame {frame},"
        raise DataError(f"{where} is unreadable: {reason(error)}") from error
    affine = (
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ nifti.affine
    )  # NIfTI counts right and anterior, ITK left, posterior
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing
    left, _, right = np.linalg.svd(cosines)
    nearest = left @ right
    if np.abs(nearest - cosines).max() > 0.05:
        raise DataError(f"{path} has a header whose axes are far from orthogonal. Resample it first.")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(v) for v in affine[:3, 3]])
    image.SetDirection([float(v) for v in nearest.ravel()])
    return image
