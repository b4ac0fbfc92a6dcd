"""BTCV: thirteen abdominal organs in CT.

Source: "Multi-Atlas Labeling Beyond the Cranial Vault" (Landman et al., MICCAI 2015 workshop), Synapse
    syn3193805: register, then download Abdomen/RawData.zip. Licence: stated on Synapse (CC BY 4.0 by other
        sources; not verified).
Layout::

    RawData/
      Training/img/img0001.nii.gz ... (30)      Training/label/label0001.nii.gz ... (30)
      Testing/img/img0061.nii.gz ... (20, no labels)

Labels: 1 spleen, 2 right kidney, 3 left kidney, 4 gallbladder, 5 oesophagus, 6 liver, 7 stomach, 8 aorta, 9
    inferior vena cava, 10 portal and splenic vein, 11 pancreas, 12 right adrenal gland, 13 left adrenal
    gland.
What is done: files are linked. The 20 test scans have no labels: --test-as-unlabeled puts them into imagesUn.
Split: PICK only tests on BTCV what it trained on AMOS (Table 8), so there is none.
"""

from collections.abc import Iterator

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.recipes import Download, Recipe

ORGANS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
)
RECIPE = Recipe(
    title="Thirteen abdominal organs in CT, BTCV (Synapse)",
    dataset="BTCV",
    channels=("CT",),
    labels={"background": 0, **{name: value for value, name in enumerate(ORGANS, start=1)}},
    layouts={"synapse": ("Training/img/img*.nii.gz", "Training/label/label*.nii.gz")},
    licence="as stated on Synapse, syn3193805",
    reference="https://www.synapse.org/Synapse:syn3193805",
)


def find_cases(download: Download) -> Iterator[Case]:
    """Every scan."""
    for image in sorted(download.folder.glob("Training/img/img*.nii.gz")):
        number = image.name.removeprefix("img").removesuffix(".nii.gz")
        label = download.folder / "Training" / "label" / f"label{number}.nii.gz"
        yield Case(f"btcv_{number}", [image], label)
    for image in sorted(download.folder.glob("Testing/img/img*.nii.gz")):
        yield Case(f"btcv_{image.name.removeprefix('img').removesuffix('.nii.gz')}", [image], None, "test")
