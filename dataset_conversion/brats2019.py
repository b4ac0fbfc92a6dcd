"""BraTS 2019: gliomas in four-sequence MR; by default the whole tumour in FLAIR, as in the papers.

Source: https://www.med.upenn.edu/cbica/brats2019 (Menze et al. 2015, Bakas et al. 2017); register there.
    Licence: that of the challenge.
Layout (.nii.gz, or .nii as on Kaggle)::

    MICCAI_BraTS_2019_Data_Training/
      HGG/BraTS19_CBICA_AAB_1/BraTS19_CBICA_AAB_1_{t1,t1ce,t2,flair,seg}.nii.gz      259 patients
      LGG/BraTS19_2013_0_1/...                                                        76 patients

Labels: seg holds 1 (necrotic and non-enhancing core), 2 (oedema), 4 (enhancing tumour).
What is done: ``flair`` (default): one channel, linked; 1 whole_tumor is 1, 2 and 4 together. ``regions``:
    four channels, and labels and regions of nnU-Net's own Dataset043_BraTS19 (whose code has its paths
    written into it, so it cannot be called; its label conversion is the same, which a test checks).
Split: 250 training, 25 validation, 60 test (HiLab-git/SSL4MIS, data/BraTS2019/{train,val,test}.txt; DBiSL
    states the same numbers and to follow those works). Labelled are the first 25 (10 %) or 50 (20 %) of
    train.txt. SSL4MIS chooses models on the 25 validation cases.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ssl.conversion.cases import Case, Subset
from nnunet_ssl.conversion.paper_splits import Split, fold
from nnunet_ssl.conversion.recipes import Download, Recipe
from nnunet_ssl.errors import DataError

RECIPE = Recipe(
    title="Whole tumour in FLAIR (or all regions in four sequences), BraTS 2019",
    dataset="BraTS2019Flair",
    channels=("FLAIR",),
    labels={"background": 0, "whole_tumor": 1},
    values={0: 0, 1: 1, 2: 1, 4: 1},
    layouts={"cbica": ("HGG/BraTS19_*/BraTS19_*_flair.nii*", "LGG/BraTS19_*/BraTS19_*_seg.nii*")},
    licence="that of the challenge",
    reference="https://www.med.upenn.edu/cbica/brats2019",
)
REGIONS = replace(
    RECIPE,
    dataset="BraTS2019",
    channels=("T1", "T1ce", "T2", "Flair"),
    labels={"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
    values={0: 0, 2: 1, 1: 2, 4: 3},
    about={"regions_class_order": [1, 2, 3]},
)
VARIANTS = {"flair": RECIPE, "regions": REGIONS}
SEQUENCES = {"flair": ("flair",), "regions": ("t1", "t1ce", "t2", "flair")}

TEST = """
    TCIA02_309 CBICA_AYA CBICA_AYG CBICA_ANV CBICA_BAN TCIA10_408 TCIA01_448 TCIA10_261 CBICA_ALU CBICA_AWH
    TCIA10_420 2013_11 TCIA01_460 TCIA10_639 TCIA10_130 TCIA09_254 CBICA_BLJ TCIA01_390 2013_19 CBICA_BDK
    TCIA13_630 TCIA02_430 TCIA06_165 CBICA_AOS CBICA_AZH CBICA_BGX TCIA02_455 TCIA10_330 TMC_12866 TCIA02_321
    TCIA03_257 CBICA_AWI CBICA_AQZ TCIA10_152 TMC_27374 TCIA01_378 TCIA08_218 CBICA_ASY TCIA02_168 CBICA_BJY
    2013_18 TCIA03_121 CBICA_BIC TCIA03_133 TCIA02_171 TMC_06290 TCIA10_175 CBICA_BGR TCIA10_276 TCIA09_402
    TCIA10_442 CBICA_AUN 2013_20 TCIA10_490 TCIA06_409 TMC_21360 CBICA_AQQ TCIA10_307 TCIA04_437 CBICA_AQR
""".split()
VALIDATION = """
    CBICA_AAP TCIA10_282 TCIA01_147 TCIA13_615 CBICA_AQA TCIA08_205 TCIA09_177 TCIA02_208 CBICA_AQN 2013_16
    CBICA_BHQ TCIA02_135 CBICA_AVB TCIA10_644 CBICA_BKV TMC_15477 2013_1 CBICA_ARW TMC_11964 TCIA09_312
    TCIA06_184 TMC_30014 TCIA10_103 CBICA_AOC CBICA_ABO
""".split()
FIRST_OF_TRAIN = """
    TCIA02_370 CBICA_ASA TCIA12_470 2013_8 TCIA01_429 TCIA08_234 TCIA10_266 TCIA13_633 TCIA03_199 TCIA10_629
    CBICA_ATB CBICA_BCL TCIA08_469 TCIA04_343 CBICA_AOO CBICA_ASF TCIA13_618 CBICA_AVG TCIA09_255 TCIA08_280
    2013_9 TCIA10_202 TCIA04_149 CBICA_AZD TCIA01_131 CBICA_BHZ TCIA02_179 CBICA_BEM TCIA02_300 CBICA_ARF
    CBICA_ABY TCIA02_608 2013_17 CBICA_BHV TCIA02_117 TCIA12_249 TCIA08_162 TCIA03_498 TCIA01_235 2013_15
    CBICA_AOP CBICA_AUA CBICA_AAB CBICA_BFB TCIA09_451 TCIA02_322 CBICA_ATV CBICA_BCF CBICA_AQJ CBICA_AVV
""".split()
SOURCE = "SSL4MIS (HiLab-git/SSL4MIS, data/BraTS2019); DBiSL states the same numbers"


def find_cases(download: Download) -> Iterator[Case]:
    """Every patient of the training data."""
    test = set(_names(TEST))
    for patient in sorted(download.folder.glob("[HL]GG/BraTS19_*")):
        if patient.is_dir():
            images = [_file(patient, sequence) for sequence in SEQUENCES[download.variant]]
            subset: Subset = "test" if patient.name in test else "train"
            yield Case(patient.name, images, _file(patient, "seg"), subset)


def splits(download: Download, cases: Sequence[Case]) -> Iterator[Split]:
    """SSL4MIS' 25 and 50 labelled cases."""
    training = [case.identifier for case in cases if case.subset == "train"]
    for labeled in (25, 50):
        chosen = fold(_names(FIRST_OF_TRAIN[:labeled]), _names(VALIDATION), training)
        yield Split(f"ssl4mis-{labeled}", SOURCE, [chosen])


def _names(short: Sequence[str]) -> list[str]:
    return [f"BraTS19_{name}_1" for name in short]


def _file(patient: Path, sequence: str) -> Path:
    for ending in (".nii.gz", ".nii"):
        path = patient / f"{patient.name}_{sequence}{ending}"
        if path.is_file():
            return path
    raise DataError(f"{patient} lacks {patient.name}_{sequence}.nii.gz. Unpack the archive again.")
