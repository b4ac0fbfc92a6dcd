"""BUSI: breast lesions in ultrasound.

Source: https://scholar.cu.edu.eg/?q=afahmy/pages/dataset (Al-Dhabyani et al., Data in Brief 28, 2020).
    Licence: CC0 on Kaggle, CC BY 4.0 in the paper (not verified which holds).
Layout::

    Dataset_BUSI_with_GT/
      benign/benign (1).png, benign (1)_mask.png, ...           437 images
      malignant/malignant (1).png, malignant (1)_mask.png, ...  210 images
      normal/normal (1).png, normal (1)_mask.png, ...           133 images, blank masks

Labels: 1 lesion.
What is done: images become gray; several masks of one image (``benign (100)_mask_1.png``) become their union;
    masks with colour channels are read as gray.
Variants: ``all`` (default); ``lesions``: without the normal images, whose masks are blank.
Split: in ProPL's proportions (see the file). No patient numbers are published, so near-duplicates, which BUSI
    is known to have, may be torn apart; nnUNetv2_ssl doctor finds them.
"""

import re
from collections.abc import Iterator
from functools import partial

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.images import read_mask
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, read_gray, ultrasound_recipe
from nnunet_ssl.errors import DataError

RECIPE = ultrasound_recipe(
    title="Breast lesions in ultrasound, BUSI",
    dataset="BUSI",
    labels=("lesion",),
    layouts={"cairo": ("benign/benign (*).png", "malignant/malignant (*)_mask.png")},
    licence="CC0 (Kaggle) or CC BY 4.0 (paper)",
    reference="https://doi.org/10.1016/j.dib.2019.104863",
)
VARIANTS = {"all": RECIPE, "lesions": RECIPE}
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Every image with the union of its masks."""
    for kind in ("benign", "malignant", *(("normal",) if download.variant == "all" else ())):
        folder = download.folder / kind
        images = [p for p in folder.glob(f"{kind} (*).png") if re.fullmatch(rf"{kind} \(\d+\)", p.stem)]
        for image in sorted(images, key=lambda p: int(re.findall(r"\d+", p.stem)[0])):
            masks = sorted(folder.glob(f"{image.stem}_mask*.png"))
            if not masks:
                raise DataError(f"{image} has no mask. Unpack the archive again, or remove the image.")
            number = re.findall(r"\d+", image.stem)[0]
            yield Case(f"busi_{kind}{number}", [partial(read_gray, image)], partial(read_mask, tuple(masks)))
