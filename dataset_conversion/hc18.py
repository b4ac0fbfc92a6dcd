"""HC18: the fetal head in ultrasound.

Source: https://hc18.grand-challenge.org, files at https://zenodo.org/record/1327317 (van den Heuvel et al.,
    PLOS ONE 13, 2018). Licence: CC BY 4.0.
Layout::

    training_set/000_HC.png, 000_HC_Annotation.png, 010_2HC.png, ...      999 images of 806 examinations
    test_set/000_HC.png ...                                               335 images, no annotation
    training_set_pixel_size_and_HC.csv, test_set_pixel_size.csv

Labels: 1 fetal_head.
What is done: the annotation is the outline of an ellipse; the mask is its convex hull, which is the filled
    ellipse, also where the edge of the picture cuts it. Images become gray. --test-as-unlabeled puts the test
    images into imagesUn. Pixel sizes stay in the tables: PNG has no place for them.
Split: in ProPL's proportions (see the file); pictures of one examination (010_HC, 010_2HC) stay together.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.images import from_picture, read_picture
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, read_gray, ultrasound_recipe
from nnunet_ssl.errors import DataError

RECIPE = ultrasound_recipe(
    title="Fetal head in ultrasound, HC18 (outlines filled)",
    dataset="HC18",
    labels=("fetal_head",),
    layouts={"zenodo": ("training_set/*HC.png", "training_set/*HC_Annotation.png")},
    licence="CC BY 4.0",
    reference="https://zenodo.org/record/1327317",
)
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Every image; the head filled in."""
    for image in sorted((download.folder / "training_set").glob("*HC.png")):
        outline = image.with_name(f"{image.stem}_Annotation.png")
        yield _case(image, partial(filled, outline))
    for image in sorted((download.folder / "test_set").glob("*HC.png")):
        yield _case(image, None)


def filled(outline: Path) -> sitk.Image:
    """The area within the outline of an ellipse."""
    from skimage.morphology import convex_hull_image

    line = sitk.GetArrayFromImage(read_picture(outline)) > 0
    if not line.any():
        raise DataError(f"{outline} is blank: expected the outline of a head.")
    return from_picture(convex_hull_image(line, offset_coordinates=False).astype(np.uint8))


def _case(image: Path, label: partial[sitk.Image] | None) -> Case:
    subset: Subset = "train" if label else "test"
    prefix = "hc18" if label else "hc18test"  # the numbers of the two sets overlap
    group = re.sub(r"_\d*HC$", "", image.stem)
    return Case(f"{prefix}_{image.stem}", [partial(read_gray, image)], label, subset, group)
