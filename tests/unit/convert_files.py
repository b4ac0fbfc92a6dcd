"""Tiny files in the formats that downloads and exports come in, for the tests of ``convert``."""

import json

import numpy as np
import SimpleITK as sitk
from PIL import Image
from skimage import io

from nnunet_ssl.conversion.recipes import plan_recipe
from nnunet_ssl.conversion.writer import write_dataset

NAME = "Dataset701_Test"
SHAPE = (4, 6, 5)  # slices, rows, columns: all different, so that a swapped axis shows
SPACING, ORIGIN = (0.5, 0.75, 3.0), (-12.5, 30.25, 7.0)
DIRECTION = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def itk(array, spacing=SPACING, origin=ORIGIN, direction=DIRECTION):
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
    return image


def scan(seed=0, shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(seed).integers(-100, 200, shape).astype(dtype)


def blob(value=1, shape=SHAPE, at=(1, 2, 3)):
    """A label map that no flip or swap of axes maps onto itself."""
    label = np.zeros(shape, dtype=np.uint8)
    label[at] = value
    label[0, 0, :2] = value
    return label


def write(path, array, **geometry):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(itk(array, **geometry), str(path))
    return path


def picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == bool:
        Image.fromarray(pixels).save(path)  # one bit per pixel
    else:
        io.imsave(path, pixels, check_contrast=False)
    return path


def gray(seed=0, shape=(6, 9)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def files(folder):
    """Relative paths of all files, in order."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def splits(dataset):
    return {p.stem: json.loads(p.read_text()) for p in (dataset / "splits").glob("*.json")}


def make(recipe, download, variant=None, **more):
    """Folder of the dataset that a recipe makes."""
    return write_dataset(plan_recipe(recipe, download, NAME, variant, **more))[0]
