"""2018 Left Atrium challenge: the left atrial cavity in late gadolinium-enhanced MR.

Source: Atrial Segmentation Challenge of STACOM 2018, https://www.cardiacatlas.org/atriaseg2018-challenge
    (Xiong et al., Medical Image Analysis 67, 2021). Ask for it there; the licence is that of the challenge.
Layout, three forms, found by themselves::

    2018LA_Seg_Training Set/06SR5RBREL16DQ6M8LWS/{lgemri.nrrd, laendo.nrrd}          100 scans
    Training Set/ID/{lgemri.nrrd, laendo.nrrd}, Testing Set/ID/...                    later release, 100 + 54
    2018LA_Seg_Training Set/ID/mri_norm2.h5    keys image and label: what the semi-supervised literature
                                               passes around (repository yulequan/UA-MT)

Labels: laendo.nrrd is 0 and 255, the h5 label 0 and 1; 1 left_atrium here.
What is done: converted to .nii.gz. The h5 files hold the axes in the order x, y, z, normalised to zero mean
    and unit variance, cropped *around the label* in x and y, test cases too, and no spacing: 0.625 mm, the
    challenge's, is set. Scores on them are not comparable with scores on whole scans.
Variants: ``papers`` (default): of the 100 training scans the 20 that UA-MT lists for testing become test
    cases; ``challenge``: all 100 are training cases, and the 54 of "Testing Set", if they are there, are test
    cases.
Split: the first 8 (10 %) or 16 (20 %) of the 80 in alphabetical order are labelled. UA-MT data/train.list and
    test.list; the same cases in maxwell0027/VerSemi, datalist/. DBiSL states the same numbers. The papers
    train on all other scans unlabelled and have no validation set (VerSemi's text reserves 10 % of the
    training data, not saying which); nnU-Net needs one: the last 8 of the 80 are taken out of the unlabelled
    ones.
Not verified: whether every laendo.nrrd of the later release has the values 0 and 255 alone (another value is
    an error here).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from nnunet_ssl.conversion.cases import Case, Subset, if_there
from nnunet_ssl.conversion.images import read_array
from nnunet_ssl.conversion.paper_splits import Split, fold_with_last
from nnunet_ssl.conversion.recipes import Download, Recipe

RECIPE = Recipe(
    title="Left atrium in LGE MR, STACOM 2018 challenge (NRRD, or the h5 files of the literature)",
    dataset="LeftAtrium",
    channels=("MRI",),
    labels={"background": 0, "left_atrium": 1},
    values={0: 0, 1: 1, 255: 1},
    layouts={
        "release": ("Training Set/*/lgemri.nrrd", "Training Set/*/laendo.nrrd"),
        "challenge": ("*/lgemri.nrrd", "*/laendo.nrrd"),
        "h5": ("*/mri_norm2.h5",),
    },
    licence="that of the challenge; not stated with the files",
    reference="https://www.cardiacatlas.org/atriaseg2018-challenge",
)
VARIANTS = {"papers": RECIPE, "challenge": RECIPE}

SPACING = (0.625, 0.625, 0.625)
TEST = frozenset(
    """
    UPT6DX9IQY9JAZ7HJKA7 UTBUJIWZMKP64E3N73YC ULHWPWKKLTE921LQLH1P V0MZOWJ6MU3RMRCV9EXR VDOF02M8ZHEAADFMS6NP
    VG4C826RAAKVMV9BQLVD VIXBEFTNVHZWKAKURJBN VQ2L3WM8KEVF6L44E6G9 WBG9WYZ1B25WDT5WAT8T WMDG2EFA6L2SNDZXIRU0
    WNPKE0W404QE9AELX1LR WSJB9P4JCXUVHBOYFVWL WW8F5CO4S4K5IM5Z7EXX X18LU5AOBNNDMLTA0JZL XYDLYJ5CS19FDBVLJIPI
    Y7ZU0B2APPF54WG6PDMF YDKD1HVHSME6NVMA8I39 Z9GMG63CJLL0VW893BB1 ZIJLJAVQV3FJ6JSQOH1E ZQPMJ4XEC5A4BISD45P1
    """.split()
)
LABELED = """
    06SR5RBREL16DQ6M8LWS 0RZDK210BSMWAA6467LU 1D7CUD1955YZPGK8XHJX 1GU15S0GJ6PFNARO469W 1MHBF3G6DCPWHSKG7XCP
    23X6SY44VT9KFHR7S7OC 2XL5HSFSE93RMOJDRGR4 38CWS74285MFGZZXR09Z 3C2QTUNI0852XV7ZH4Q1 3DA0T2V6JJ2NLUAV6FWM
    4498CA6DZWELOXCBRYRF 45C45I6IXAFGNRO067W9 4CHFJGF6ZUM7CMZTNFQF 4EPVTT1HPA8U60CDUKXE 57SGAJMLCTCH92QUA0EE
    5BHTH9RHH3PQT913I59W
""".split()
SOURCE = (
    "UA-MT (yulequan/UA-MT, data/train.list, test.list); VerSemi (maxwell0027/VerSemi, datalist); DBiSL, PICK"
)
NOTE = "The papers have no validation set: val is the last 8 of the 80, taken from the unlabelled cases."


def find_cases(download: Download) -> Iterator[Case]:
    """Every scan of the training set, and of the testing set if it is wanted and there."""
    training = download.folder / "Training Set" if download.layout == "release" else download.folder
    for folder in _folders(training, download.layout):
        held_out = download.variant == "papers" and folder.name in TEST
        yield _case(folder, download.layout, "test" if held_out else "train")
    if download.layout == "release" and download.variant == "challenge":
        for folder in _folders(download.folder / "Testing Set", download.layout):
            yield _case(folder, download.layout, "test")


def splits(download: Download, cases: Sequence[Case]) -> Iterator[Split]:
    """The papers' 8 and 16 labelled cases."""
    if download.variant != "papers":
        return
    ordered = sorted(case.identifier for case in cases if case.subset == "train")
    for labeled in (8, 16):
        fold = fold_with_last([f"la_{name}" for name in LABELED[:labeled]], ordered, val=8)
        yield Split(f"papers-{labeled}", SOURCE, [fold], chosen_on_test=True, note=NOTE)


def _folders(parent: Path, layout: str) -> list[Path]:
    scan = "mri_norm2.h5" if layout == "h5" else "lgemri.nrrd"
    return sorted(path.parent for path in parent.glob(f"*/{scan}"))


def _case(folder: Path, layout: str, subset: Subset) -> Case:
    name = f"la_{folder.name}"
    if layout == "h5":
        file = folder / "mri_norm2.h5"
        image, label = (partial(read_array, file, key, "xyz", SPACING) for key in ("image", "label"))
        return Case(name, [image], label, subset)
    outline = folder / "laendo.nrrd"
    mine = outline if subset == "train" else if_there(outline)
    return Case(name, [folder / "lgemri.nrrd"], mine, subset)
