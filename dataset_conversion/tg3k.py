"""TG3K: the thyroid gland in ultrasound sweeps.

Source: https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation (frames of 16 sweeps of
    Wunderling et al., 2017), "Thyroid Dataset". Licence: stated with the download (not verified).
Layout::

    Thyroid Dataset/tg3k/
      thyroid-image/0000.jpg ... (3585)      thyroid-mask/0000.jpg ...      tg3k-trainval.json

Labels: 1 thyroid_gland.
What is done: images become gray; masks were stored as JPEG and are cut at half brightness.
Split: neighbouring frames are nearly alike, and the names of the sweeps are not published. Frames whose
    numbers follow each other and whose size is the same are taken for one sweep (two sweeps of one size stay
    together) and never torn apart. tg3k-trainval.json tears a sweep apart, so it is not written. ProPL's
    proportions (see the file; ProPL itself draws single frames, as far as its paper says).
"""

from collections.abc import Iterator
from functools import partial

from nnunet_ssl.conversion.cases import Case
from nnunet_ssl.conversion.images import read_mask
from nnunet_ssl.conversion.recipes import Download
from nnunet_ssl.conversion.ultrasound import propl_splits, read_gray, ultrasound_recipe

RECIPE = ultrasound_recipe(
    title="Thyroid gland in ultrasound sweeps, TG3K",
    dataset="TG3K",
    labels=("thyroid_gland",),
    layouts={"trfe": ("[tT]hyroid-image/*.jpg", "[tT]hyroid-mask/*.jpg")},
    licence="as stated with the download",
    reference="https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation",
)
HALF = 127  # JPEG blurs the edges of the masks
splits = propl_splits


def find_cases(download: Download) -> Iterator[Case]:
    """Every frame with its mask and its sweep."""
    from PIL import Image

    sweep, size = 0, None
    masks = next(download.folder.glob("[tT]hyroid-mask"))
    for image in sorted(download.folder.glob("[tT]hyroid-image/*.jpg")):
        with Image.open(image) as header:
            sweep += size is not None and header.size != size
            size = header.size
        mask = partial(read_mask, (masks / image.name,), HALF)
        yield Case(f"tg3k_{image.stem}", [partial(read_gray, image)], mask, "train", f"sweep{sweep}")
