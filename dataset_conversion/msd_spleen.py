"""Medical Segmentation Decathlon, Task09: the spleen in CT.

Source: http://medicaldecathlon.com (Antonelli et al., Nature Communications 13, 2022). Licence: CC-BY-SA 4.0.
Layout::

    Task09_Spleen/
      imagesTr/spleen_2.nii.gz ... (41)      labelsTr/spleen_2.nii.gz ... (41)
      imagesTs/spleen_1.nii.gz ... (20, no labels)      dataset.json

Labels: 1 spleen.
What is done: files are linked. nnU-Net's own nnUNetv2_convert_MSD_dataset copies them and knows no unlabelled
    scans; it serves the tasks with four-dimensional files (Task01, Task05), which this recipe is not for.
Variants: ``papers`` (default): the last 11 of the 41 labelled scans, by number, are test cases; ``all``: all
    41 are training cases. The challenge's 20 test scans have no labels: --test-as-unlabeled puts them into
    imagesUn.
Split: VerSemi and UniSeMi train on 30 and test on 11; labelled are the first 3 (10 %) or 6 (20 %) by number
    (maxwell0027/VerSemi, datalist/train_lab_10.txt, train_lab_20.txt, test_spleen.txt). The last 3 of the 30
    become the validation that nnU-Net needs.
"""

from collections.abc import Iterator, Sequence

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.msd import msd_cases, msd_recipe, versemi_splits
from nnunet_ssl.conversion.paper_splits import Split
from nnunet_ssl.conversion.recipes import Download

RECIPE = msd_recipe("Task09_Spleen", "Spleen in CT", "CT", ("spleen",))
VARIANTS = {"papers": RECIPE, "all": RECIPE}
LABELED = (2, 3, 6, 8, 9, 10)
TEST = (46, 47, 49, 52, 53, 56, 59, 60, 61, 62, 63)


def find_cases(download: Download) -> Iterator[Case]:
    """Every scan."""
    return msd_cases(download.folder, TEST if download.variant == "papers" else ())


def splits(download: Download, cases: Sequence[Case]) -> list[Split]:
    """VerSemi's 3 and 6 labelled cases."""
    return versemi_splits(cases, LABELED, val=3) if download.variant == "papers" else []
