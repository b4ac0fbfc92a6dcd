"""Medical Segmentation Decathlon, Task06: lung tumours in CT.

Source: http://medicaldecathlon.com (Antonelli et al., Nature Communications 13, 2022). Licence: CC-BY-SA 4.0.
Layout::

    Task06_Lung/
      imagesTr/lung_001.nii.gz ... (63)      labelsTr/lung_001.nii.gz ... (63)
      imagesTs/lung_002.nii.gz ... (32, no labels)      dataset.json

Labels: 1 cancer.
What is done: files are linked (see msd_spleen for nnU-Net's own converter).
Variants: ``papers`` (default): the last 13 of the 63 labelled scans, by number, are test cases; ``all``: all
    63 are training cases. --test-as-unlabeled puts the challenge's test scans, which have no labels, into
    imagesUn.
Split: VerSemi and UniSeMi train on 50 and test on 13; labelled are the first 5 (10 %) or 10 (20 %) by number
    (maxwell0027/VerSemi, datalist/train_lab_10.txt, train_lab_20.txt, test_lung.txt). The last 5 of the 50
    become the validation that nnU-Net needs. PICK reports a 4-fold cross-validation with 10 labelled cases
    drawn at random; its draw is not published (its code splits 48 to 15 in order), so it is not written.
"""

from collections.abc import Iterator, Sequence

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.msd import msd_cases, msd_recipe, versemi_splits
from nnunet_ssl.conversion.paper_splits import Split
from nnunet_ssl.conversion.recipes import Download

RECIPE = msd_recipe("Task06_Lung", "Lung tumours in CT", "CT", ("cancer",))
VARIANTS = {"papers": RECIPE, "all": RECIPE}
LABELED = (1, 3, 4, 5, 6, 9, 10, 14, 15, 16)
TEST = (74, 75, 78, 79, 80, 81, 83, 84, 86, 92, 93, 95, 96)


def find_cases(download: Download) -> Iterator[Case]:
    """Every scan."""
    return msd_cases(download.folder, TEST if download.variant == "papers" else ())


def splits(download: Download, cases: Sequence[Case]) -> list[Split]:
    """VerSemi's 5 and 10 labelled cases."""
    return versemi_splits(cases, LABELED, val=5) if download.variant == "papers" else []
