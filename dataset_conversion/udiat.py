"""UDIAT, "Dataset B": breast lesions in ultrasound.

Source: http://www2.docm.mmu.ac.uk/STAFF/m.yap/dataset.php (Yap et al., IEEE JBHI 22, 2018); sent on request.
    Licence: research only, by agreement.
Layout (names of the folders as commonly passed on; not verified with the owners)::

    BUS/
      original/000001.png ... (163)      GT/000001.png ... (163)

Labels: 1 lesion.
What is done: images become gray, masks 0 and 1.
Split: in ProPL's proportions (see the file).
"""

from collections.abc import Iterator
from functools import partial

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.images import read_mask
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, read_gray, ultrasound_recipe

RECIPE = ultrasound_recipe(
    title="Breast lesions in ultrasound, UDIAT (Dataset B)",
    dataset="UDIAT",
    labels=("lesion",),
    layouts={"dataset-b": ("original/*.png", "GT/*.png")},
    licence="research only, by agreement",
    reference="https://doi.org/10.1109/JBHI.2017.2731873",
)
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Every image with its mask."""
    for image in sorted((download.folder / "original").glob("*.png")):
        mask = download.folder / "GT" / image.name
        yield Case(f"udiat_{image.stem}", [partial(read_gray, image)], partial(read_mask, (mask,)))
