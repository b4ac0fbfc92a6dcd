"""TN3K: thyroid nodules in ultrasound.

Source: https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation (Gong et al., Computers in
    Biology and Medicine 155, 2023), "Thyroid Dataset". Licence: stated with the download (not verified).
Layout::

    Thyroid Dataset/tn3k/
      trainval-image/0000.jpg ... (2879)      trainval-mask/0000.jpg ...
      test-image/0000.jpg ... (614)           test-mask/0000.jpg ...
      tn3k-trainval-fold0.json ... fold4.json      {"train": [numbers], "val": [numbers]}

Labels: 1 nodule.
What is done: images become gray; masks were stored as JPEG and are cut at half brightness.
Split: the official test images are test cases. The official five folds; and ProPL's proportions (see the
    file). No patient numbers are published.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.images import read_mask
from nnunet_ssl.conversion.paper_splits import Split
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, read_gray, ultrasound_recipe

RECIPE = ultrasound_recipe(
    title="Thyroid nodules in ultrasound, TN3K",
    dataset="TN3K",
    labels=("nodule",),
    layouts={"trfe": ("trainval-image/*.jpg", "trainval-mask/*.jpg")},
    licence="as stated with the download",
    reference="https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation",
)
PARTS: dict[str, Subset] = {"trainval": "train", "test": "test"}
HALF = 127  # JPEG blurs the edges of the masks


def find_cases(download: Download) -> Iterator[Case]:
    """Every image with its mask; the numbers of the two parts overlap."""
    for part, subset in PARTS.items():
        for image in sorted((download.folder / f"{part}-image").glob("*.jpg")):
            mask = partial(read_mask, (download.folder / f"{part}-mask" / image.name,), HALF)
            yield Case(f"tn3k{part}_{image.stem}", [partial(read_gray, image)], mask, subset)


def splits(download: Download, cases: Sequence[Case]) -> Iterator[Split]:
    """The official folds, and ProPL's proportions."""
    files = sorted(download.folder.glob("tn3k-trainval-fold*.json"))
    official = [json.loads(file.read_text()) for file in files]
    folds = [
        {**{role: [f"tn3ktrainval_{n:04d}" for n in one[role]] for role in ("train", "val")}, "unlabeled": []}
        for one in official
    ]
    if folds:
        yield Split("official-5fold", "TRFE-Net, tn3k-trainval-fold*.json: all images labelled", folds)
    yield from propl_splits(download, cases)
