"""AMOS 2022: fifteen abdominal organs in CT and MR.

Source: https://amos22.grand-challenge.org, files at https://zenodo.org/record/7262581 (Ji et al., NeurIPS
    2022).
    Licence: CC BY 4.0.
Layout::

    amos22/
      dataset.json
      imagesTr/amos_0001.nii.gz ... (240)      labelsTr/ ... (240)
      imagesVa/amos_0008.nii.gz ... (120)      labelsVa/ ... (120)
      imagesTs/... (240, no labels)

Labels: as in dataset.json of the download: 1 spleen, 2 right kidney, 3 left kidney, 4 gall bladder, 5
    oesophagus, 6 liver, 7 stomach, 8 aorta, 9 postcava, 10 pancreas, 11 right and 12 left adrenal gland, 13
    duodenum, 14 bladder, 15 prostate or uterus.
What is done: files are linked; those whose header axes are not orthogonal, which ITK refuses, are written
    anew with the nearest that are. nnU-Net's own converters (Dataset218 for CT, Dataset219 for both) copy the
    files and put the challenge's validation scans among the training cases; here those are the test cases, as
    in the papers.
Variants: ``papers`` (default): CT and MR, 360 labelled scans; ``ct``: CT alone, by the numbers that nnU-Net's
    Dataset218 goes by (training up to 410, validation up to 409, test up to 500).
    --test-as-unlabeled puts the scans of imagesTs into imagesUn.
Split: 216 training, 24 validation and 120 test scans; labelled are 10 (5 %) or 21 (10 %) of the 216, drawn by
    Wang and Li 2023, whom PICK follows (xmed-lab/DHC, amos_data/splits). They choose models on the 24
    validation scans. In the variant ``ct`` these splits hold the CT scans of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from nnunet_ssl.conversion.cases import Case, Subset, if_there
from nnunet_ssl.conversion.paper_splits import Split, fold
from nnunet_ssl.conversion.recipes import Download, Recipe

ORGANS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gall_bladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
    "duodenum",
    "bladder",
    "prostate_or_uterus",
)
RECIPE = Recipe(
    title="Fifteen abdominal organs in CT and MR, AMOS 2022",
    dataset="AMOS22",
    channels=("CT_or_MR",),  # z-score, as in nnU-Net's Dataset219: Hounsfield units mean nothing in MR
    labels={"background": 0, **{name: value for value, name in enumerate(ORGANS, start=1)}},
    layouts={"zenodo": ("imagesTr/amos_*.nii.gz", "labelsTr/amos_*.nii.gz")},
    licence="CC BY 4.0",
    reference="https://zenodo.org/record/7262581",
)
VARIANTS = {"papers": RECIPE, "ct": replace(RECIPE, dataset="AMOS22CT", channels=("CT",))}

PARTS: dict[str, tuple[Subset, int]] = {"Tr": ("train", 410), "Va": ("test", 409), "Ts": ("test", 500)}
VALIDATION = "27 66 97 109 116 124 153 154 159 197 214 215 297 336 337 349 353 381 538 540 554 585 592 599"
LABELED = {
    10: "78 158 170 192 391 396 410 514 548 578",
    21: "9 42 110 125 138 143 147 149 166 177 230 248 264 321 341 361 510 558 590 595 597",
}
SOURCE = "DHC (Wang and Li, MICCAI 2023; xmed-lab/DHC, amos_data/splits), followed by PICK"


def find_cases(download: Download) -> Iterator[Case]:
    """Every scan of the variant."""
    for part, (subset, last_ct) in PARTS.items():
        for image in sorted((download.folder / f"images{part}").glob("amos_*.nii.gz")):
            name = image.name.removesuffix(".nii.gz")
            if download.variant == "ct" and int(name.rpartition("_")[2]) > last_ct:
                continue
            label = download.folder / f"labels{part}" / image.name
            yield Case(name, [image], label if subset == "train" else if_there(label), subset)


def splits(download: Download, cases: Sequence[Case]) -> Iterator[Split]:
    """DHC's 10 and 21 labelled cases."""
    training = [case.identifier for case in cases if case.subset == "train"]
    for number, labeled in LABELED.items():
        percent = {10: 5, 21: 10}[number]
        yield Split(f"dhc-{percent}percent", SOURCE, [fold(_names(labeled), _names(VALIDATION), training)])


def _names(numbers: str) -> list[str]:
    return [f"amos_{int(n):04d}" for n in numbers.split()]
