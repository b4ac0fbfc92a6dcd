"""The split of a merged dataset for one of the datasets it was made of.

So a network of one task alone and one of all tasks train and validate on the same cases.
"""

from __future__ import annotations

from nnunet_ssl.conversion.merge import MERGED_FROM, case_prefix
from nnunet_ssl.conversion.split import Cases, Fold
from nnunet_ssl.data.dataset_json import dataset_folder, described_folders, find_dataset, read_dataset_json
from nnunet_ssl.data.layout import SPLITS_FILE, UNLABELED
from nnunet_ssl.errors import DataError
from nnunet_ssl.json_files import read_json
from nnunet_ssl.tasks import BLOCK


def folds_like(dataset: int | str, cases: Cases, merged: int | str) -> list[Fold]:
    """Folds of ``dataset`` as its cases have them in ``merged``.

    Args:
        dataset: number or name of the dataset that gets the folds.
        cases: its labelled cases.
        merged: number or name of the merged dataset, which has been split.

    Raises:
        DataError: ``merged`` was not made of ``dataset``, is not split yet, or holds other cases.
    """
    name, of = find_dataset(dataset), find_dataset(merged)
    described = described_folders(of)  # raw first: nnU-Net may not have planned the dataset yet
    sources = read_dataset_json(described[0]).get(BLOCK, {}).get(MERGED_FROM, []) if described else []
    if name not in sources:
        raise DataError(
            f"--like: expected a dataset that 'nnUNetv2_ssl merge' has made of {name}, but {of} was made of "
            f"{', '.join(sources) or 'no other'}. Name another one."
        )
    file = dataset_folder("preprocessed", of) / SPLITS_FILE
    if not file.is_file():
        raise DataError(f"--like: {of} has no {SPLITS_FILE} yet. Run 'nnUNetv2_ssl split -d {of}' first.")
    return [_own_part(fold, name, cases, of) for fold in read_json(file)]


def _own_part(fold: Fold, name: str, cases: Cases, of: str) -> Fold:
    prefix = case_prefix(name)
    # A longer name may begin alike (Heart_ and Heart_MR_), so the prefix alone does not tell.
    candidates = {prefix + case: case for case in cases.task_of}
    own = {
        key: [candidates[c] for c in fold.get(key, []) if c in candidates]
        for key in ("train", "val", UNLABELED)
    }
    missing = cases.task_of.keys() - {case for part in own.values() for case in part}
    if missing:
        raise DataError(
            f"--like: {len(missing)} cases of {name} are not in the split of {of}, first "
            f"'{min(missing)}'. Merge again, then split again."
        )
    return own
