"""MMOTU: ovarian tumours in ultrasound (2D, or contrast-enhanced).

Source: https://github.com/cv516Buaa/MMOTU_DS2Net (Zhao et al., arXiv 2207.06799). Licence: stated with the
    download (not verified).
Layout::

    OTU_2d/
      images/1.JPG ... (1469)
      annotations/1.PNG (class in colour), 1_binary.PNG or 1_binary_binary.PNG (tumour in white) ...
      train.txt, val.txt (1000 and 469 names), train_cls.txt, val_cls.txt
    OTU_3d/      the same, 170 contrast-enhanced images

Labels: 1 ovarian_tumor.
What is done: images become gray; the mask is whatever is not black in the binary annotation, or, where there
    is none, in the coloured one.
Variants: ``2d`` (default), ``ceus`` (OTU_3d).
Split: images of val.txt are test cases. ProPL's proportions for the rest (see the file). No patient numbers
    are published.
Not verified: whether every image has one of the two binary annotations.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.images import read_mask
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, read_gray, ultrasound_recipe
from nnunet_ssl.errors import DataError

RECIPE = ultrasound_recipe(
    title="Ovarian tumours in ultrasound, MMOTU",
    dataset="MMOTU",
    labels=("ovarian_tumor",),
    layouts={"ds2net": ("OTU_2d/images/*.JPG", "OTU_2d/annotations/*.PNG")},
    licence="as stated with the download",
    reference="https://github.com/cv516Buaa/MMOTU_DS2Net",
)
CEUS = replace(
    RECIPE,
    title="Ovarian tumours in contrast-enhanced ultrasound, MMOTU",
    dataset="MMOTUceus",
    layouts={"ds2net": ("OTU_3d/images/*.JPG", "OTU_3d/annotations/*.PNG")},
)
VARIANTS = {"2d": RECIPE, "ceus": CEUS}
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Every image with its mask."""
    folder = download.folder / ("OTU_2d" if download.variant == "2d" else "OTU_3d")
    test = _listed(folder / "val.txt")
    for image in sorted((folder / "images").glob("*.JPG"), key=lambda p: p.stem.zfill(8)):
        mask = partial(read_mask, (_mask(folder / "annotations", image.stem),))
        subset: Subset = "test" if image.stem in test else "train"
        yield Case(f"mmotu_{image.stem}", [partial(read_gray, image)], mask, subset)


def _mask(folder: Path, name: str) -> Path:
    for suffix in ("_binary", "_binary_binary", ""):
        path = folder / f"{name}{suffix}.PNG"
        if path.is_file():
            return path
    raise DataError(f"{folder} has no annotation of image {name}. Download it again, or remove the image.")


def _listed(file: Path) -> set[str]:
    """Names in a list, without file endings and whatever follows on the line."""
    if not file.is_file():
        return set()
    return {Path(line.split()[0]).stem for line in file.read_text().splitlines() if line.strip()}
