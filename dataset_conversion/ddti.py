"""DDTI: thyroid nodules in ultrasound, outlined in XML.

Source: http://cimalab.intec.co/applications/thyroid, also on Kaggle
    (dasmehdixtr/ddti-thyroid-ultrasound-images) (Pedraza et al., SPIE 9287, 2015). Licence: stated with the
    download (not verified).
Layout, one folder::

    1.xml, 1_1.jpg, 2.xml, 2_1.jpg, 2_2.jpg, ...      480 images of 390 patients

    An XML file has one <mark> for each outlined image: <image>1</image> is the number behind the underscore,
    <svg> holds
    JSON: [{"points": [{"x": 250, "y": 72}, ...], "annotation": null, "regionType": "freehand"}, ...].

Labels: 1 nodule.
What is done: the polygons of an image are filled and joined; images become gray. In some files the JSON is
    cut off at its end; every list of points that is whole is still used. An image without outlines is no
    image without nodules: it goes to imagesUn, not to the blank masks.
Split: in ProPL's proportions (see the file); images of one patient stay together.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.images import from_picture
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, read_gray, ultrasound_recipe
from nnunet_ssl.errors import DataError

RECIPE = ultrasound_recipe(
    title="Thyroid nodules in ultrasound, DDTI (XML polygons)",
    dataset="DDTI",
    labels=("nodule",),
    layouts={"cimalab": ("[0-9]*.xml", "[0-9]*_[0-9]*.jpg")},
    licence="as stated with the download",
    reference="https://doi.org/10.1117/12.2073532",
)

Polygon = tuple[tuple[float, float], ...]  # x, y
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Every image, with its outlines filled if it has any."""
    images = [p for p in download.folder.glob("*.jpg") if re.fullmatch(r"\d+_\d+", p.stem)]
    for image in sorted(images, key=lambda p: tuple(map(int, p.stem.split("_")))):
        patient, number = image.stem.split("_")
        polygons = outlines(download.folder / f"{patient}.xml").get(int(number), ())
        label = partial(filled, image, polygons) if polygons else None
        subset: Subset = "train" if polygons else "unlabeled"
        yield Case(f"ddti_{image.stem}", [partial(read_gray, image)], label, subset, patient)


def outlines(file: Path) -> dict[int, tuple[Polygon, ...]]:
    """Polygons of each image number in an XML file; none if there is no file."""
    if not file.is_file():
        return {}
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is no valid XML ({error}). Download it again, or remove it.") from error
    found: dict[int, tuple[Polygon, ...]] = {}
    for mark in root.iter("mark"):
        number, svg = mark.findtext("image", "").strip(), mark.findtext("svg", "").strip()
        if number and svg:
            found[int(number)] = found.get(int(number), ()) + tuple(_polygons(svg))
    return found


def filled(image: Path, polygons: Sequence[Polygon]) -> sitk.Image:
    """The area within the polygons, on the pixels of an image."""
    from skimage.draw import polygon2mask

    rows, columns = read_gray(image).GetSize()[::-1]
    mask = np.zeros((rows, columns), dtype=np.uint8)
    for polygon in polygons:
        mask |= polygon2mask((rows, columns), np.array(polygon)[:, ::-1]).astype(np.uint8)
    return from_picture(mask)


def _polygons(svg: str) -> Iterator[Polygon]:
    """Polygons of three points or more."""
    try:
        lists = [region.get("points") or [] for region in json.loads(svg)]
    except json.JSONDecodeError:  # cut off: take the lists of points that are whole
        lists = [json.loads(text) for text in re.findall(r'"points"\s*:\s*(\[[^\[\]]*\])', svg)]
    for points in lists:
        if len(points) >= 3:
            yield tuple((float(p["x"]), float(p["y"])) for p in points)
