"""Medical Segmentation Decathlon, Task04: the hippocampus in MR.

Source: http://medicaldecathlon.com (Antonelli et al., Nature Communications 13, 2022). Licence: CC-BY-SA 4.0.
Layout::

    Task04_Hippocampus/
      imagesTr/hippocampus_001.nii.gz ... (260)      labelsTr/hippocampus_001.nii.gz ... (260)
      imagesTs/hippocampus_002.nii.gz ... (130, no labels)      dataset.json

Labels: 1 anterior, 2 posterior.
What is done: files are linked (see msd_spleen for nnU-Net's own converter). --test-as-unlabeled puts the
    challenge's test scans, which have no labels, into imagesUn.
Split: none of the five papers uses this set; make one with nnUNetv2_ssl split.
"""

from collections.abc import Iterator

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.msd import msd_cases, msd_recipe
from nnunet_ssl.conversion.recipes import Download

RECIPE = msd_recipe("Task04_Hippocampus", "Hippocampus in MR", "MRI", ("anterior", "posterior"))


def find_cases(download: Download) -> Iterator[Case]:
    """Every scan."""
    return msd_cases(download.folder)
