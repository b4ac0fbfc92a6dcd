"""HMC-QU: the wall of the left ventricle in four-chamber echocardiography.

Source: https://www.kaggle.com/datasets/aysendegerli/hmcqu-dataset (Degerli et al., IEEE Access 9, 2021).
    Licence: stated on Kaggle (not verified).
Layout::

    HMC-QU/A4C/ES0001_4CH_1.avi ... (162 videos; older copies: "HMC-QU Echos/HMC-QU Echos/*.avi")
    LV Ground-truth Segmentation Masks/Mask_ES0001_4CH_1.mat ... (109), key "predicted": (frames, 224, 224)
    A4C.xlsx (older copies: HMC_QU.xlsx): columns ECHO, Reference Frame, End of Cycle, ...

Labels: 1 myocardium.
What is done: the masks cover one heart beat, from "Reference Frame" (counted from 1) on; each of its frames
    becomes one image, gray, and, as the masks are, 224 x 224. Needs PyAV and openpyxl: pip install
    'nnunet-ssl[convert]'.
Split: in ProPL's proportions (see the file); frames of one video stay together. (Several videos may be of one
    patient; the table does not say.)
Not verified: on the files themselves. The names are as three public programs that read them spell them.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl.conversion.cases import Case, sanitized
from nnunet_ssl.conversion.images import from_picture
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, ultrasound_recipe
from nnunet_ssl.errors import DataError

RECIPE = ultrasound_recipe(
    title="Left ventricular wall in echocardiography, HMC-QU (frames of videos)",
    dataset="HMCQU",
    labels=("myocardium",),
    layouts={"kaggle": ("**/*.avi", "**/Mask_*.mat", "*.xlsx")},
    licence="as stated on Kaggle",
    reference="https://www.kaggle.com/datasets/aysendegerli/hmcqu-dataset",
)
EXTRA = "Install what reads {}: pip install 'nnunet-ssl[convert]'"
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Every frame that has a mask."""
    first = reference_frames(sorted(download.folder.glob("*.xlsx")))
    videos = {path.stem.strip(): path for path in download.folder.glob("**/*.avi")}
    for file in sorted(download.folder.glob("**/Mask_*.mat")):
        name = file.stem.removeprefix("Mask_").strip()
        if name not in videos or name not in first:
            where = "video" if name not in videos else "row in the table"
            raise DataError(
                f"{file} has no {where} called {name}. Download the set again, or remove the file."
            )
        for frame in range(len(masks_of(file))):
            image = partial(read_video_frame, videos[name], first[name] - 1 + frame)
            label = partial(read_mask_frame, file, frame)
            yield Case(f"{sanitized(name)}_{frame:03d}", [image], label, group=name)


def reference_frames(tables: Sequence[Path]) -> dict[str, int]:
    """First annotated frame of each video, counted from 1; headers may take two rows."""
    import pandas

    frames: dict[str, int] = {}
    for table in tables:
        try:
            rows = pandas.read_excel(table, header=None).values.tolist()
        except ImportError as error:
            raise DataError(EXTRA.format("Excel tables")) from error
        where = {_cell(value): (r, c) for r, row in enumerate(rows[:3]) for c, value in enumerate(row)}
        if "echo" not in where or "reference frame" not in where:
            continue
        names, numbers = where["echo"][1], where["reference frame"][1]
        for row in rows[1:]:
            if isinstance(row[numbers], (int, float)) and row[numbers] == row[numbers]:
                frames[str(row[names]).strip()] = int(row[numbers])
    return frames


def masks_of(file: Path) -> np.ndarray:
    """All masks of a video (frames, rows, columns)."""
    from scipy.io import loadmat

    content = {key: value for key, value in loadmat(file).items() if not key.startswith("__")}
    if len(content) != 1:
        raise DataError(f"{file}: expected one array, found {', '.join(content) or 'none'}.")
    return np.asarray(next(iter(content.values())))


def read_mask_frame(file: Path, frame: int) -> sitk.Image:
    """One mask."""
    return from_picture((masks_of(file)[frame] > 0).astype(np.uint8))


def read_video_frame(video: Path, frame: int, size: tuple[int, int] = (224, 224)) -> sitk.Image:
    """One frame of a video, gray, at the size of the masks."""
    from imageio import v3
    from skimage.transform import resize

    try:
        pixels = np.asarray(v3.imread(video, index=frame, plugin="pyav"))
    except ImportError as error:
        raise DataError(EXTRA.format("videos")) from error
    except (IndexError, OSError, ValueError, StopIteration) as error:
        raise DataError(f"{video} has no frame {frame + 1}: {error}") from error
    gray = sitk.GetArrayFromImage(from_picture(pixels))
    return from_picture(np.rint(resize(gray, size, preserve_range=True, anti_aliasing=True)).astype(np.uint8))


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).strip().lower()
