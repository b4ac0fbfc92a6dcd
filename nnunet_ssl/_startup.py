"""Makes nnU-Net find our trainers, with nothing for the user to set.

The start-up file ``nnunet_ssl.pth`` in site-packages calls ``activate`` whenever Python starts. So this
module imports ``os`` alone, and whatever goes wrong is swallowed there: a plugin must never keep Python from
starting.
"""

import os

VARIABLE = "nnUNet_extTrainer"  # nnU-Net's own: folders of external trainers, separated like PATH
OPT_OUT = "NNUNET_SSL_NO_AUTODISCOVERY"

_PROOF = "nnUNetTrainerSSLSupervised.py"  # a folder that holds it is ours, whatever else is called "trainers"


def activate() -> None:
    """Append the folder of our trainers to ``nnUNet_extTrainer``; child processes inherit it."""
    if opted_out():
        return
    folder = trainer_folder()
    if folder is not None:
        os.environ[VARIABLE] = appended(os.environ.get(VARIABLE), folder)


def opted_out() -> bool:
    """Whether the user wants ``nnUNet_extTrainer`` left alone."""
    return os.environ.get(OPT_OUT, "0") not in ("", "0")


def trainer_folder() -> str | None:
    """The installed ``nnunet_ssl/_trainers``, else ``trainers`` of the checkout, else ``None``."""
    package = os.path.dirname(os.path.abspath(__file__))
    for folder in (os.path.join(package, "_trainers"), os.path.join(os.path.dirname(package), "trainers")):
        if os.path.isfile(os.path.join(folder, _PROOF)):
            return folder
    return None


def appended(value: str | None, folder: str) -> str:
    """``value`` with ``folder`` at its end, unless it is in there; what the user has set comes first."""
    if not value:
        return folder
    return value if contains(value, folder) else value + os.pathsep + folder


def contains(value: str | None, folder: str) -> bool:
    """Whether ``folder`` is one of the entries of ``value``, however it is spelled."""
    entries = [entry for entry in (value or "").split(os.pathsep) if entry.strip()]
    return _normal(folder) in [_normal(entry) for entry in entries]


def _normal(path: str) -> str:
    return os.path.normcase(os.path.abspath(path))
