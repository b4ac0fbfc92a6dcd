"""What names of files and folders say: a scan or a mask, of which case, of which label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from nnunet_ssl.conversion.folder_scan import Item
from nnunet_ssl.conversion.images import stem_of

_WORD = (
    r"(?:masks?|segs?|segmentations?|labels?|labelmaps?|gt|ground[ _-]?truth|annotations?|rois?|contours?)"
)
_SCAN = r"(?:images?|imgs?|scans?|vol|volumes?|ct|mr|mri|us)"
_SUFFIX = re.compile(rf"(?P<base>.*?)(?:^|[ _.\-]+){_WORD}(?:[ _.\-]?(?P<part>\d{{1,2}}))?", re.IGNORECASE)
_PREFIX = re.compile(rf"{_WORD}(?:[ _.\-]+(?P<base>.*)|(?P<number>\d+))", re.IGNORECASE)
_SCAN_PREFIX = re.compile(rf"{_SCAN}(?:[ _.\-]*(?P<number>\d+))?", re.IGNORECASE)
_MASK_FOLDER = re.compile(rf"{_WORD}|labels(?:Tr|Ts|Va)|structures?", re.IGNORECASE)
_SCAN_FOLDER = re.compile(rf"{_SCAN}|images(?:Tr|Ts|Va|Un)|data|raw", re.IGNORECASE)
_TEST_FOLDER = re.compile(r"imagesTs|labelsTs", re.IGNORECASE)
_NUMBERED = re.compile(r"(?P<base>.+)_(?P<number>\d{4})")
_CHANNEL = re.compile(r"(?P<base>.+)_000\d")
_GAP = re.compile(r"[ _.\-]+")

Key = tuple[tuple[str, ...], str]  # folders that are no roles, and a name


def key_of(item: Item, root: Path) -> Key:
    """Folders of an item that do not only say what lies in them, and its name; that of a series is unique."""
    folders = tuple(
        part
        for part in _folders(item.path, root)
        if not (_MASK_FOLDER.fullmatch(part) or _SCAN_FOLDER.fullmatch(part))
    )
    if item.kind != "series":
        return folders, stem_of(item.path)
    name = item.path.relative_to(root).name or "scan"
    return folders, f"{name}#{item.series}"


def is_mask_name(path: Path, root: Path) -> bool:
    """Whether a file's name, or that of a folder it lies in, says that it is a mask."""
    if any(_MASK_FOLDER.fullmatch(part) for part in _folders(path, root)):
        return True
    stem = stem_of(path)
    return bool(_SUFFIX.fullmatch(stem) or _PREFIX.fullmatch(stem))


def is_test(path: Path, root: Path) -> bool:
    """Whether a file lies in nnU-Net's folders of test cases."""
    return any(_TEST_FOLDER.fullmatch(part) for part in _folders(path, root))


def scan_number(name: str) -> str | None:
    """Of a name that only says that this is a scan the number behind it, perhaps empty; else ``None``.

    >>> scan_number("img0001"), scan_number("ct"), scan_number("liver")
    ('0001', '', None)
    """
    match = _SCAN_PREFIX.fullmatch(name)
    return (match["number"] or "") if match else None


def numbered(name: str) -> tuple[str, int] | None:
    """A name without the four digits at its end, and their number; ``None`` if there are none.

    >>> numbered("amos_0012"), numbered("amos")
    (('amos', 12), None)
    """
    match = _NUMBERED.fullmatch(name)
    return (match["base"], int(match["number"])) if match else None


def part_of(stem: str) -> tuple[str, bool]:
    """What a mask's name says before its word for mask, and whether it numbers parts of one mask.

    >>> part_of("case_mask_2"), part_of("case_mask"), part_of("case")
    (('case', True), ('case', False), ('case', False))
    """
    match = _SUFFIX.fullmatch(stem)
    return (match["base"], bool(match["part"])) if match else (stem, False)


def without_mask_words(stem: str) -> list[str]:
    """What is left of a name that says that this is a mask; nothing, one or two readings.

    >>> without_mask_words("case_mask"), without_mask_words("label0001"), without_mask_words("case")
    (['case'], ['0001'], [])
    """
    names = []
    if match := _SUFFIX.fullmatch(stem):
        names.append(match["base"])
    if match := _PREFIX.fullmatch(stem):
        names.append(match["base"] or match["number"] or "")
    return names


def scan_names(stem: str) -> list[str]:
    """Names that the scan of a mask may have, the likeliest first."""
    names = [stem, *without_mask_words(stem)]
    return names + [match["base"] for name in names if (match := _CHANNEL.fullmatch(name))]


def plain(name: str) -> str:
    """A label's name without what varies from file to file: upper and lower case, the signs between words.

    >>> plain("Left-Kidney") == plain("left_kidney")
    True
    """
    return _GAP.sub(" ", name).strip().lower()


def readings(mask: Item, root: Path, labels: Mapping[str, str]) -> Iterator[tuple[Key, str]]:
    """Ways to read the name of a mask that holds one label: where and what its scan is, and the label.

    ``P1_left_kidney`` may be the label ``P1_left_kidney`` of the scan of this folder, ``left_kidney`` of
    ``P1``, or ``kidney`` of ``P1_left``, in this order; ``liver/P1`` is the label ``liver`` of ``P1``.

    Args:
        mask: the file.
        root: folder that it was found in.
        labels: those that are wanted, by their plain names; they are spelled as there.
    """
    folders, stem = key_of(mask, root)
    gaps = [gap.span() for gap in _GAP.finditer(stem)]
    for end, start in [(0, 0), *(gap for gap in gaps if gap[1] < len(stem))]:
        yield (folders, stem[:end]), _label_of(stem[start:], labels)
    for parent in _folders(mask.path, root)[-1:]:
        if plain(parent) in labels:
            yield (tuple(part for part in folders if part != parent), stem), labels[plain(parent)]


def names_label(item: Item, root: Path, labels: Mapping[str, str]) -> bool:
    """Whether the name of a file, or of its folder, says that it is the mask of a label that is wanted."""
    return any(label in labels.values() for _, label in readings(item, root, labels))


def _label_of(name: str, labels: Mapping[str, str]) -> str:
    names = [name, *without_mask_words(name)]
    return next((labels[plain(one)] for one in names if plain(one) in labels), names[-1] or name)


def _folders(path: Path, root: Path) -> tuple[str, ...]:
    return path.relative_to(root).parent.parts
